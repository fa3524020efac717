"""Writes by other programs, the real triggers and the real relay, and the bound within which they are seen."""

from contextlib import suppress

from aiomodelcache import BackendError
from tests.protocol.interleavings.questions import EVERYTHING, LookUp, World
from tests.protocol.interleavings.relayed_models import RelayedArtist, relayed_by_lookup, relayed_by_statement
from tests.protocol.interleavings.roles import (
    BY_ID,
    BY_NAME,
    BY_RANK,
    NONE,
    TWO,
    A,
    Role,
    Scenario,
    both,
    far,
    first,
    near,
    save,
    seconds,
    transaction,
)
from tests.protocol.interleavings.stage import Stage
from tests.protocol.interleavings.values import Number, fans

LAG = 10.0
SETTINGS = {"relay_lag": LAG, "bulk_limit": 10}
LOOKUP = Number("relayed, derived by lookup", 1, relayed_by_lookup.query, fans, column=0)
STATEMENT = Number("relayed, derived by statement", 1, relayed_by_statement.query, fans)
MODULES = ("tests.protocol.interleavings.relayed_models",)
RELAYED = World((RelayedArtist,), EVERYTHING, settings=SETTINGS, modules=MODULES)
DERIVED = World((RelayedArtist,), [*EVERYTHING, LOOKUP, STATEMENT], settings=SETTINGS, modules=MODULES)


def outside(sql: str) -> Role:
    """Returns a role of another program, which makes one statement in autocommit mode."""

    async def role(stage: Stage) -> None:
        await stage.write_outside(sql)

    return role


def updates(pk: int = 1, followers: int = 7) -> Role:
    return outside(f"UPDATE relayed SET followers = {followers} WHERE id = {pk}")


async def drain(stage: Stage) -> None:
    """The relay drains once. Then both processes ask for its life."""
    with suppress(BackendError):
        await stage.drain()
    await stage.ask()


async def drain_too(stage: Stage) -> None:
    """Another relay drains."""
    with suppress(BackendError):
        await stage.drain(1)


async def trim(stage: Stage) -> None:
    """Another process replaces the lines that wait."""
    await stage.trim()


RENAMES = outside("UPDATE relayed SET name = 'b' WHERE id = 1")
MOVES = outside("UPDATE relayed SET rank = 2 WHERE id = 1")
DELETES = outside("DELETE FROM relayed WHERE id = 1")
INSERTS = outside("INSERT INTO relayed (id, name, rank, followers) VALUES (1, 'a', 1, 7)")
THREE_LINES = first(updates(1), updates(1, 8), updates(2))
"""More lines than the relay reads in one drain: see ``stage``."""
TIME = seconds(6, 6)

SCENARIOS: dict[str, Scenario] = {
    "outside, by id": Scenario(
        A, {"reader": far(BY_ID, BY_ID), "outside": updates(), "relay": drain}, both, world=RELAYED
    ),
    "outside, by name": Scenario(
        A, {"reader": near(BY_NAME, LookUp("name", "b")), "outside": RENAMES, "relay": drain}, world=RELAYED
    ),
    "outside, by rank": Scenario(
        A, {"reader": far(BY_RANK, LookUp("rank", 2)), "outside": MOVES, "relay": drain}, both, world=RELAYED
    ),
    "outside, deleted and inserted": Scenario(
        A, {"reader": far(BY_NAME), "outside": first(DELETES, INSERTS), "relay": drain}, both, world=RELAYED
    ),
    "outside, inserted": Scenario(
        NONE, {"reader": far(BY_NAME, BY_ID), "outside": INSERTS, "relay": drain}, both, world=RELAYED
    ),
    "outside, and no relay": Scenario(
        A, {"reader": far(BY_ID, BY_ID), "outside": updates(), "time": TIME}, both, world=RELAYED, may_leave="L"
    ),
    "outside, and a relay that comes late": Scenario(
        A, {"outside": first(updates(), TIME, far(BY_ID)), "relay": drain}, both, world=RELAYED
    ),
    "outside, and more than one drain": Scenario(
        TWO,
        {"outside": THREE_LINES, "relay": first(TIME, drain, seconds(6), far(LookUp("id", 2)))},
        both,
        world=RELAYED,
    ),
    "outside, and a save": Scenario(
        A, {"reader": far(BY_ID), "writer": save(followers=1), "relay": first(updates(), drain)}, world=RELAYED
    ),
    "outside, and a transaction": Scenario(
        A, {"outside": updates(), "writer": transaction(name="b"), "relay": first(drain, near(BY_ID))}, world=RELAYED
    ),
    "outside, and values derived from it": Scenario(
        A, {"reader": far(STATEMENT, LOOKUP), "outside": updates(), "relay": drain}, both, world=DERIVED
    ),
    "outside, and values derived without a relay": Scenario(
        A, {"reader": far(STATEMENT), "outside": updates(), "time": TIME}, both, world=DERIVED, may_leave="L"
    ),
    "outside, and lines that are trimmed": Scenario(
        A, {"outside": first(updates(), updates(1, 8)), "other": trim, "relay": drain}, both, world=RELAYED
    ),
    "outside, and two relays": Scenario(A, {"outside": updates(), "one": drain, "two": drain_too}, both, world=RELAYED),
}
