"""Computed results, which follow the writes of their model, and values, which are invalidated by hand."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tortoise.models import Model
from tortoise.transactions import in_transaction

from aiomodelcache import BackendError, ModelCache
from tests.protocol.interleavings.database import CONNECTION
from tests.protocol.interleavings.models import ALLOWTIME, Artist, RankedArtist
from tests.protocol.interleavings.questions import LookUp, Rows, State, World, as_rows, on_cache
from tests.protocol.interleavings.roles import (
    TWO,
    A,
    Role,
    RolledBack,
    Scenario,
    both,
    create,
    delete,
    far,
    first,
    near,
    save,
    seconds,
    transaction,
    update_where,
)
from tests.protocol.interleavings.stage import Stage
from tests.protocol.interleavings.values_models import (
    FollowersKept,
    FollowersOf,
    FollowersOfLate,
    FollowersSliding,
    RankFans,
    RankIsTaken,
    RankMembers,
    RankSize,
    followers_of,
)


@dataclass(frozen=True)
class Number:
    """The lookup of a number computed from the artists of a rank, or from one artist."""

    name: str
    of: int
    query: Callable[[int], Any]
    compute: Callable[[Rows], int]
    column: int = 2
    by_hand: bool = False

    def __repr__(self) -> str:
        return f"{self.name} of {self.of}"

    def true(self, states: Sequence[State]) -> list[int]:
        return [self.compute(tuple(row for row in rows if row[self.column] == self.of)) for rows, *_ in states]

    async def ask(self, cache: ModelCache, model: type[Model], state: State) -> int:
        return int(await on_cache(self.query(self.of), cache))


def fans(rows: Rows) -> int:
    return sum(row[3] for row in rows)


def size(rank: int) -> Number:
    return Number("size", rank, RankSize, len)


def is_taken(rank: int) -> Number:
    return Number("existence", rank, RankIsTaken, lambda rows: int(bool(rows)))


def fans_of_rank(rank: int) -> Number:
    return Number("fans", rank, RankFans, fans)


VALUE = Number("value", 1, FollowersOf, fans, column=0, by_hand=True)
FUNCTION = Number("function", 1, followers_of.query, fans, column=0, by_hand=True)
LATE_VALUE = Number("value or a stale copy", 1, FollowersOfLate, fans, column=0, by_hand=True)
SLIDING = Number("sliding value", 1, FollowersSliding, fans, column=0, by_hand=True)
KEPT = Number("value with a copy", 1, FollowersKept, fans, column=0, by_hand=True)


@dataclass(frozen=True)
class Members:
    """The lookup of a result with instances. Each instance is as fresh as its row, so the selection may be older."""

    rank: int
    by_hand = False

    def true(self, states: Sequence[State]) -> list[Rows]:
        answers: list[Rows] = []
        for at, (rows, *_) in enumerate(states):
            pks = [row[0] for row in rows if row[2] == self.rank]
            later = [tuple(row for row in rows if row[0] in pks) for rows, *_ in states[at:]]
            answers += [found for found in later if len(found) == len(pks)]
        return answers

    async def ask(self, cache: ModelCache, model: type[Model], state: State) -> Rows:
        return as_rows(await on_cache(RankMembers(self.rank), cache))


RANKED = World(
    (RankedArtist,),
    [
        *[LookUp("id", 1), LookUp("rank", 1), LookUp("rank", 2)],
        *[question(rank) for question in (size, is_taken, fans_of_rank, Members) for rank in (1, 2)],
    ],
)
VALUES = World((Artist,), [VALUE])
FUNCTIONS = World((Artist,), [FUNCTION])
SLIDING_VALUES = World((Artist,), [SLIDING])
KEPT_VALUES = World((Artist,), [KEPT])
LATE_VALUES = World((Artist,), [LATE_VALUE], allowance=ALLOWTIME)


# Roles --------------------------------------------------------------------------------------------


def invalidate(query: Callable[[int], Any]) -> Role:
    """Returns a role that invalidates the value of the committed state."""

    async def role(stage: Stage) -> None:
        place = len(stage.history) - 1
        await query(1).invalidate()
        stage.tell(place)

    return role


async def clear_values(stage: Stage) -> None:
    place = len(stage.history) - 1
    with suppress(BackendError):
        await FollowersOf.clear()
        stage.tell(place)


def invalidate_in_transaction(*, all_of_them: bool = False, rolls_back: bool = False) -> Role:
    async def role(stage: Stage) -> None:
        with suppress(RolledBack):
            async with in_transaction(CONNECTION):
                await save(followers=1)(stage)
                await (FollowersOf.clear() if all_of_them else FollowersOf(1).invalidate())
                assert await FollowersOf(1) == 1, "a transaction does not see its own write"
                if rolls_back:
                    raise RolledBack
        stage.tell(len(stage.history) - 1)

    return role


async def invalidate_rank(stage: Stage) -> None:
    await RankSize(1).invalidate()


async def swap(stage: Stage) -> None:
    """Swaps the ranks of two rows, so both ranks keep their number of rows."""
    async with in_transaction(CONNECTION):
        await save(1, rank=2)(stage)
        await stage.artist(2, rank=1).save()


APART: Rows = ((1, "a", 1, 1), (2, "b", 2, 2))

SCENARIOS: dict[str, Scenario] = {
    # Results.
    "counted, moved": Scenario(A, {"reader": far(size(1), size(2)), "writer": save(rank=2)}, both, world=RANKED),
    "counted, moved, cold": Scenario(A, {"reader": near(size(1), is_taken(2)), "writer": save(rank=2)}, world=RANKED),
    "counted, moved and rolled back": Scenario(
        A,
        {"reader": far(size(1), is_taken(2)), "writer": transaction(rank=2, rolls_back=True)},
        both,
        world=RANKED,
    ),
    "counted, swapped": Scenario(
        APART, {"reader": far(fans_of_rank(1), fans_of_rank(2)), "writer": swap}, both, world=RANKED
    ),
    "counted, moved by a queryset": Scenario(
        TWO, {"reader": far(is_taken(1), size(2)), "writer": update_where(rank=2)}, both, world=RANKED
    ),
    "counted, moved by two": Scenario(A, {"one": save(rank=2), "two": first(save(rank=3), far(size(2)))}, world=RANKED),
    "counted, and invalidated by hand": Scenario(
        A, {"reader": far(size(1)), "one": delete, "two": invalidate_rank}, both, world=RANKED
    ),
    "computed again": Scenario(
        A, {"reader": far(fans_of_rank(1)), "writer": first(save(followers=1), save(rank=2))}, both, world=RANKED
    ),
    "members, changed": Scenario(
        A, {"reader": far(Members(1), Members(1)), "writer": save(followers=1)}, both, world=RANKED
    ),
    "members, moved": Scenario(A, {"reader": far(Members(1), Members(2)), "writer": save(rank=2)}, both, world=RANKED),
    "members, deleted": Scenario(
        A,
        {"reader": far(Members(1)), "writer": first(delete, create())},
        lambda stage: [stage.near],  # so the reader has no prediction of the rows of the result
        world=RANKED,
    ),
    # Values.
    "a value, invalidated": Scenario(
        A,
        {"reader": far(VALUE, VALUE), "writer": first(save(followers=1), invalidate(FollowersOf))},
        both,
        world=VALUES,
    ),
    "a value, invalidated by the reader's process": Scenario(
        A, {"one": near(VALUE), "two": first(save(followers=1), invalidate(FollowersOf), near(VALUE))}, world=VALUES
    ),
    "a function's value, invalidated": Scenario(
        A,
        {"reader": far(FUNCTION), "writer": first(save(followers=1), invalidate(followers_of.query))},
        world=FUNCTIONS,
    ),
    "a value, invalidated twice": Scenario(
        A,
        {
            "reader": far(VALUE),
            "writer": first(save(followers=1), invalidate(FollowersOf), save(followers=2), invalidate(FollowersOf)),
        },
        world=VALUES,
    ),
    "a value, invalidated at COMMIT": Scenario(
        A, {"reader": far(VALUE, VALUE), "writer": invalidate_in_transaction()}, both, world=VALUES
    ),
    "a value, invalidated and rolled back": Scenario(
        A, {"reader": far(VALUE), "writer": invalidate_in_transaction(rolls_back=True)}, both, world=VALUES
    ),
    "all values, cleared": Scenario(
        A, {"reader": far(VALUE, VALUE), "writer": first(save(followers=1), clear_values)}, both, world=VALUES
    ),
    "all values, cleared at COMMIT": Scenario(
        A, {"reader": far(VALUE), "writer": invalidate_in_transaction(all_of_them=True)}, both, world=VALUES
    ),
    "a value with a copy, invalidated": Scenario(
        A,
        {"reader": far(KEPT, KEPT), "writer": first(save(followers=1), invalidate(FollowersKept), near(KEPT))},
        world=KEPT_VALUES,
    ),
    "a stale value": Scenario(
        A,
        {
            "reader": far(LATE_VALUE, LATE_VALUE),
            "writer": first(save(followers=1), invalidate(FollowersOfLate), seconds(6, 6)),
        },
        both,
        world=LATE_VALUES,
        may_leave="L",
    ),
    "a stale value, invalidated twice": Scenario(
        A,
        {
            "reader": far(LATE_VALUE),
            "writer": first(
                save(followers=1),
                invalidate(FollowersOfLate),
                seconds(6),
                save(followers=2),
                invalidate(FollowersOfLate),
            ),
            "time": seconds(6),
        },
        both,
        world=LATE_VALUES,
        may_leave="L",
    ),
}
