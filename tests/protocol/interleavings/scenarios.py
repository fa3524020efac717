"""The scenarios: small sets of concurrent actors. Most races need one row, one reader and one writer."""

from tests.protocol.interleavings import derived, kept, linked, relayed, through, times, values
from tests.protocol.interleavings.models import Artist
from tests.protocol.interleavings.questions import (
    DATED,
    EVERYTHING,
    RANKED,
    REFILLED,
    LookUp,
    RankingOf,
    Unstored,
    World,
)
from tests.protocol.interleavings.roles import (
    BY_ID,
    BY_NAME,
    BY_RANK,
    NONE,
    TWO,
    A,
    Scenario,
    before_an_acknowledgement,
    beside_a_cancelled_one,
    both,
    bulk_create,
    clear_in_transaction,
    clear_model,
    crash_after_commit,
    create,
    create_without_pk,
    deferred,
    delete,
    delete_where,
    far,
    first,
    in_a_scope,
    invalidate,
    near,
    refresh,
    save,
    save_some,
    savepoint_rolled_back,
    seconds,
    survives_its_rollback,
    then_create,
    together,
    transaction,
    update_some,
    update_where,
)

RANKING = RankingOf()

SCENARIOS: dict[str, Scenario] = {
    # One reader, one writer.
    "save, by id": Scenario(A, {"reader": near(BY_ID, BY_ID), "writer": save(followers=1)}),
    "save, by id elsewhere": Scenario(A, {"reader": far(BY_ID, BY_ID), "writer": save(followers=1)}),
    "save, by name elsewhere": Scenario(A, {"reader": far(BY_NAME), "writer": save(followers=1)}),
    "save, warm": Scenario(A, {"reader": far(BY_ID, BY_NAME, BY_RANK), "writer": save(followers=1)}, both),
    "re-key, by name": Scenario(A, {"reader": near(BY_NAME, LookUp("name", "b")), "writer": save(name="b")}),
    "re-key, by name elsewhere": Scenario(A, {"reader": far(BY_NAME, LookUp("name", "b")), "writer": save(name="b")}),
    "re-key, warm": Scenario(A, {"reader": far(BY_NAME, LookUp("name", "b")), "writer": save(name="b")}, both),
    "moved list, by rank": Scenario(A, {"reader": near(BY_RANK, LookUp("rank", 2)), "writer": save(rank=2)}),
    "some columns, warm": Scenario(A, {"reader": far(LookUp("rank", 2), BY_NAME), "writer": save_some(rank=2)}, both),
    "delete, by name": Scenario(A, {"reader": near(BY_NAME, BY_ID), "writer": delete}),
    "delete, by rank elsewhere": Scenario(A, {"reader": far(BY_RANK), "writer": delete}, both),
    "create over an absence": Scenario(NONE, {"reader": near(BY_NAME, BY_ID), "writer": create()}, both),
    "create over an absence, elsewhere": Scenario(NONE, {"reader": far(BY_NAME, BY_RANK), "writer": create()}),
    # If the insert is cancelled, the writer never learns the key, under which an absence may be cached.
    "create with a generated key": Scenario(
        A, {"reader": far(LookUp("name", "c"), BY_RANK), "writer": create_without_pk}, both, cancels=False
    ),
    "looked up without a fill": Scenario(
        A, {"one": far(Unstored("id", 1), BY_ID), "two": near(Unstored("name", "a")), "writer": save(followers=1)}
    ),
    "deferred, by id": Scenario(
        A, {"reader": far(BY_ID, BY_ID), "writer": deferred(save(followers=1), save(followers=2))}, both
    ),
    "deferred, by name": Scenario(
        A, {"reader": near(BY_NAME, BY_RANK), "writer": deferred(save(name="b"), transaction(rank=2), delete)}, both
    ),
    # Readers of one process that need the same row.
    "single flight": Scenario(A, {"one": near(BY_ID), "two": near(BY_ID), "writer": save(followers=1)}),
    "index and row": Scenario(A, {"one": near(BY_NAME), "two": near(BY_ID), "writer": save(followers=1)}),
    "one tick": Scenario(A, {"reader": together(BY_NAME, BY_RANK, BY_ID), "writer": save(followers=1)}),
    "two indexes to one row": Scenario(A, {"reader": together(BY_NAME, BY_RANK), "writer": save(followers=1)}),
    "readers of two processes": Scenario(A, {"one": near(BY_NAME), "two": far(BY_NAME), "writer": save(name="b")}),
    "beside a cancelled one": Scenario(A, {"readers": beside_a_cancelled_one, "writer": save(followers=1)}),
    # Transactions.
    "transaction, by id": Scenario(A, {"reader": near(BY_ID, BY_ID), "writer": transaction(followers=1)}),
    "transaction that reads": Scenario(A, {"reader": far(BY_ID), "writer": transaction(followers=1, reads=True)}, both),
    "rollback": Scenario(A, {"reader": far(BY_NAME, BY_ID), "writer": transaction(name="b", rolls_back=True)}, both),
    "savepoint": Scenario(A, {"reader": far(BY_ID), "writer": savepoint_rolled_back}, both),
    "a write that survives its rollback": Scenario(
        A,
        {"reader": before_an_acknowledgement(BY_NAME, BY_ID), "writer": survives_its_rollback},
        both,
        cancels=False,
    ),
    # Several writers.
    "two saves": Scenario(A, {"reader": far(BY_ID), "one": save(followers=1), "two": save(followers=2)}),
    "two saves, looked up twice": Scenario(
        A, {"one": save(followers=1), "two": first(save(followers=2), far(BY_ID, BY_ID))}
    ),
    "save and transaction": Scenario(
        A, {"reader": near(BY_ID), "one": save(followers=1), "two": transaction(name="b")}, both
    ),
    "moved, and back by another save": Scenario(
        A, {"reader": far(BY_RANK), "one": save(followers=1), "two": save(rank=2)}, both
    ),
    "re-key and delete": Scenario(A, {"reader": far(BY_NAME), "one": save(name="b"), "two": delete}, both),
    "delete and create": Scenario(A, {"reader": far(BY_NAME), "one": delete, "two": create()}, both),
    "save and queryset": Scenario(
        TWO, {"reader": far(BY_NAME), "one": save(1, name="c"), "two": update_where(followers=3)}, both
    ),
    # Bulk writes.
    "update of a queryset, then a new row": Scenario(A, {"writer": then_create(update_where(followers=1))}, both),
    "update of a queryset": Scenario(A, {"reader": near(BY_ID, BY_NAME), "writer": update_where(followers=1)}, both),
    "re-key by a queryset": Scenario(
        A, {"reader": far(BY_NAME, LookUp("name", "b")), "writer": update_where(name="b")}
    ),
    "delete of a queryset": Scenario(A, {"reader": far(BY_RANK, BY_NAME), "writer": delete_where}, both),
    "past the limit": Scenario(TWO, {"reader": far(BY_ID, BY_ID), "writer": update_where(followers=1)}, both),
    "past the limit, by name": Scenario(TWO, {"reader": near(BY_NAME), "writer": update_where(rank=2)}),
    "past the limit, deleted": Scenario(TWO, {"reader": far(BY_NAME, BY_ID), "writer": delete_where}, both),
    "past the limit, created": Scenario(NONE, {"reader": far(BY_NAME, BY_RANK), "writer": bulk_create}, both),
    # Computed results.
    "computed": Scenario(A, {"reader": far(RANKING, RANKING), "writer": save(followers=1)}, world=RANKED),
    "computed, moved away": Scenario(A, {"reader": far(RANKING), "writer": save(rank=2)}, both, world=RANKED),
    "computed, moved in a transaction": Scenario(
        A, {"reader": near(RANKING), "writer": transaction(rank=2)}, both, world=RANKED
    ),
    "computed, of a queryset": Scenario(
        A, {"reader": far(RANKING), "writer": update_where(rank=2)}, both, world=RANKED
    ),
    "computed, deleted and created": Scenario(
        A, {"reader": far(RANKING), "one": delete, "two": create(2, "b")}, both, world=RANKED
    ),
    "computed, together": Scenario(
        A, {"one": near(RANKING), "two": near(RANKING), "writer": save(followers=1)}, world=RANKED
    ),
    # Manual invalidation, scopes, crashes.
    "invalidated by hand": Scenario(A, {"reader": far(BY_ID), "one": save(followers=1), "two": invalidate}),
    "some columns": Scenario(A, {"reader": far(BY_NAME, LookUp("name", "b")), "writer": update_some(name="b")}, both),
    "refreshed by hand": Scenario(A, {"one": refresh, "reader": far(BY_ID), "two": save(followers=1)}, both),
    "cleared by hand": Scenario(A, {"reader": far(BY_NAME), "one": save(followers=1), "two": clear_model}),
    "cleared in a transaction": Scenario(A, {"reader": far(BY_ID, BY_ID), "writer": clear_in_transaction()}, both),
    "cleared in a transaction, rolled back": Scenario(
        A, {"reader": far(BY_NAME), "writer": clear_in_transaction(rolls_back=True)}
    ),
    "cleared, and past the limit": Scenario(
        TWO, {"reader": far(BY_ID), "one": update_where(followers=1), "two": clear_model}, both
    ),
    "in a scope": Scenario(A, {"request": in_a_scope, "writer": save(followers=1)}),
    "a writer that crashed": Scenario(
        A, {"reader": near(BY_NAME), "writer": crash_after_commit(followers=1)}, may_leave="LW"
    ),
    "a slow writer that crashed": Scenario(
        A, {"reader": near(BY_NAME), "writer": crash_after_commit(slow=29, then=1.5, followers=1)}, may_leave="LW"
    ),
    # Stale copies, which may be returned for ten seconds.
    "a stale copy": Scenario(
        A,
        {"reader": far(BY_ID, BY_ID), "writer": save(followers=1), "time": seconds(6, 6)},
        both,
        world=DATED,
        may_leave="L",
    ),
    "a stale copy, twice": Scenario(
        A,
        {"reader": far(BY_ID, BY_ID), "writer": first(save(followers=1), seconds(6), save(followers=2), seconds(6))},
        both,
        world=DATED,
        may_leave="L",
    ),
    "stale copies by name": Scenario(
        A,
        {"one": far(BY_NAME), "two": near(BY_NAME, LookUp("name", "b")), "writer": save(name="b")},
        both,
        world=DATED,
        may_leave="L",
    ),
    "a stale list": Scenario(
        A, {"reader": far(BY_RANK), "one": save(rank=2), "two": create(2, "b")}, both, world=DATED
    ),
    "a stale copy, rolled back": Scenario(
        A, {"reader": far(BY_ID, BY_ID), "writer": transaction(followers=1, rolls_back=True)}, both, world=DATED
    ),
    "a stale copy of a deleted row": Scenario(A, {"reader": far(BY_NAME, BY_ID), "writer": delete}, both, world=DATED),
    "a stale absence": Scenario(NONE, {"reader": far(BY_NAME, BY_ID), "writer": create()}, both, world=DATED),
    # Filled again by the writer's process.
    "filled again": Scenario(
        A, {"reader": far(BY_ID), "writer": first(save(followers=1), save(followers=2))}, both, world=REFILLED
    ),
}
AT_ONCE = World((Artist,), EVERYTHING, at_once=True)
SCENARIOS |= {
    f"at once: {name}": SCENARIOS[name]._replace(world=AT_ONCE)
    for name in (
        "save, by name elsewhere",
        "re-key, by name elsewhere",
        "delete, by rank elsewhere",
        "create over an absence, elsewhere",
        "one tick",
        "readers of two processes",
        "re-key and delete",
        "past the limit, by name",
        "a writer that crashed",
        "a slow writer that crashed",
    )
}
SCENARIOS["at once: save, by name and id"] = Scenario(
    A, {"reader": far(BY_NAME, BY_ID), "writer": save(followers=1)}, world=AT_ONCE
)
SCENARIOS.update(linked.SCENARIOS | values.SCENARIOS | times.SCENARIOS | kept.SCENARIOS)
SCENARIOS.update(derived.SCENARIOS | through.SCENARIOS | relayed.SCENARIOS)
