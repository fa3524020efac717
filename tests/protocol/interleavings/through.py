"""Rows that their writers store (``write_through``)."""

from tests.protocol.interleavings.derived import LOOKUP, STATEMENT
from tests.protocol.interleavings.models import Artist
from tests.protocol.interleavings.questions import EVERYTHING, LookUp, World
from tests.protocol.interleavings.roles import (
    BY_ID,
    BY_NAME,
    BY_RANK,
    NONE,
    TWO,
    A,
    Scenario,
    both,
    clear_in_transaction,
    clear_model,
    crash_after_commit,
    create,
    deferred,
    delete,
    far,
    first,
    invalidate,
    near,
    save,
    save_some,
    savepoint_rolled_back,
    transaction,
    update_where,
)

SETTINGS = {"write_through": True}
THROUGH = World((Artist,), EVERYTHING, settings=SETTINGS)
DERIVED = World((Artist,), [*EVERYTHING, LOOKUP, STATEMENT], settings=SETTINGS)

SCENARIOS: dict[str, Scenario] = {
    "stored, by id": Scenario(A, {"reader": near(BY_ID, BY_ID), "writer": save(followers=1)}, world=THROUGH),
    "stored, by id elsewhere": Scenario(
        A, {"reader": far(BY_ID, BY_ID), "writer": first(save(followers=1), save(followers=2))}, both, world=THROUGH
    ),
    "stored, by name": Scenario(
        A, {"reader": near(BY_NAME, LookUp("name", "b")), "writer": save(name="b")}, both, world=THROUGH
    ),
    "stored, by name elsewhere": Scenario(A, {"reader": far(BY_NAME), "writer": save(followers=1)}, world=THROUGH),
    "stored, by rank": Scenario(
        A, {"reader": far(BY_RANK, LookUp("rank", 2)), "writer": save(rank=2)}, both, world=THROUGH
    ),
    "stored over an absence": Scenario(NONE, {"reader": far(BY_NAME, BY_ID), "writer": create()}, both, world=THROUGH),
    "stored, two saves": Scenario(
        A, {"reader": far(BY_ID), "one": save(followers=1), "two": save(followers=2)}, world=THROUGH
    ),
    "stored, three saves": Scenario(
        A, {"one": save(followers=1), "two": first(save(followers=2), far(BY_ID), save(followers=3))}, world=THROUGH
    ),
    "stored, save and some columns": Scenario(
        A, {"reader": near(BY_ID), "one": save(followers=1), "two": save_some(rank=2)}, both, world=THROUGH
    ),
    "stored, save and transaction": Scenario(
        A, {"reader": near(BY_ID), "one": save(followers=1), "two": transaction(name="b")}, both, world=THROUGH
    ),
    "stored, two transactions": Scenario(
        A, {"reader": far(BY_ID), "one": transaction(followers=1), "two": transaction(name="b")}, world=THROUGH
    ),
    "stored, transaction that reads": Scenario(
        A, {"reader": far(BY_ID), "writer": transaction(followers=1, reads=True)}, both, world=THROUGH
    ),
    "stored, rolled back": Scenario(
        A, {"reader": far(BY_NAME, BY_ID), "writer": transaction(name="b", rolls_back=True)}, both, world=THROUGH
    ),
    "stored, savepoint": Scenario(
        A, {"reader": far(BY_ID, BY_NAME), "writer": savepoint_rolled_back}, both, world=THROUGH
    ),
    "stored, save and delete": Scenario(
        A, {"reader": far(BY_ID), "one": save(followers=1), "two": delete}, both, world=THROUGH
    ),
    "stored, deleted and created": Scenario(
        A, {"reader": far(BY_ID), "one": first(delete, create()), "two": save(followers=1)}, world=THROUGH
    ),
    "stored, save and queryset": Scenario(
        A, {"reader": far(BY_ID), "one": save(followers=1), "two": update_where(followers=3)}, both, world=THROUGH
    ),
    "stored, past the limit": Scenario(
        TWO, {"reader": far(BY_ID), "one": save(followers=1), "two": update_where(followers=3)}, world=THROUGH
    ),
    "stored, transaction past the limit": Scenario(
        TWO, {"reader": far(BY_ID), "one": transaction(followers=1), "two": update_where(followers=3)}, world=THROUGH
    ),
    "stored, invalidated by hand": Scenario(
        A, {"reader": far(BY_ID), "one": save(followers=1), "two": invalidate}, both, world=THROUGH
    ),
    "stored, cleared by hand": Scenario(
        A, {"reader": far(BY_ID), "one": save(followers=1), "two": clear_model}, both, world=THROUGH
    ),
    "stored, cleared in a transaction": Scenario(
        A, {"reader": far(BY_ID), "one": save(followers=2), "two": clear_in_transaction()}, both, world=THROUGH
    ),
    "stored, deferred": Scenario(
        A, {"reader": far(BY_ID, BY_ID), "writer": deferred(save(followers=1), save(followers=2))}, both, world=THROUGH
    ),
    "stored, and a writer that crashed": Scenario(
        A,
        {"reader": near(BY_ID), "one": crash_after_commit(followers=1), "two": save(followers=2)},
        may_leave="LW",
        world=THROUGH,
    ),
    "stored, and a slow writer that crashed": Scenario(
        A,
        {"one": crash_after_commit(slow=29, then=4, followers=1), "two": save(followers=2)},
        may_leave="LW",
        world=THROUGH,
    ),
    "stored, and a value derived from it": Scenario(
        A, {"reader": near(LOOKUP, LOOKUP), "writer": save(followers=1)}, both, world=DERIVED
    ),
    "stored, and a value derived by a statement": Scenario(
        A, {"reader": far(STATEMENT, LOOKUP), "writer": transaction(followers=1)}, both, world=DERIVED
    ),
}
