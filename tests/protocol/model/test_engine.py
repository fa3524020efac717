"""The engine finds what there is to find, by the shortest way, and explores everything else."""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import pytest

from tests.protocol.model.engine import (
    LOST_WAITER,
    AtOnce,
    Body,
    Operation,
    Outcome,
    Process,
    System,
    Violation,
    explore,
)

pytestmark = pytest.mark.exhaustive(because="it is the engine of the exhaustive model")


class Counter(NamedTuple):
    number: int = 0
    locked: bool = False


def add(n: int) -> Operation:
    def run(world: Counter) -> Iterator[Outcome]:
        yield Outcome(f"add {n}", world.number, world._replace(number=world.number + n))

    return run


def get(world: Counter) -> Iterator[Outcome]:
    yield Outcome("get", world.number, world)


def put(n: int) -> Operation:
    def run(world: Counter) -> Iterator[Outcome]:
        yield Outcome(f"put {n}", None, world._replace(number=n))

    return run


def lock(world: Counter) -> Iterator[Outcome]:
    if not world.locked:
        yield Outcome("lock", None, world._replace(locked=True))


def unlock(world: Counter) -> Iterator[Outcome]:
    yield Outcome("unlock", None, world._replace(locked=False))


def increment(times: int = 1) -> Body:
    for _ in range(times):
        number = yield get
        yield put(number + 1)


def locked(body: Body, *, releases: bool = True) -> Body:
    yield lock
    yield from body
    if releases:
        yield unlock


def locked_increment() -> Body:
    return locked(increment())


def two(world: Counter) -> None:
    if world.number != 2:
        raise Violation("lost", f"{world.number} of 2")


def unchanged(world: Counter, _: str) -> Counter:
    return world


def unlocked(world: Counter, _: str) -> Counter:
    return world._replace(locked=False)


def anything(world: Counter) -> None:
    pass


def system(*bodies: Any, at_rest: Any = two, crashes: int = 0, crashed: Any = unchanged) -> System[Counter]:
    processes = tuple([Process(f"P{n}", body, mortal=True) for n, body in enumerate(bodies)])
    return System(Counter(), processes, lambda _: (), crashed, at_rest, crashes)


def test_a_lost_update_is_found_in_as_few_steps_as_possible() -> None:
    found = explore(system(increment, increment))
    assert found.violation is not None
    assert found.violation.kind == "lost"
    assert [step.partition(" ")[2] for step in found.trace] == ["get", "get", "put 1", "put 1", "rest"]
    assert "1 of 2" in str(found)
    assert "   1  P0: get" in str(found)


def test_there_is_none_under_a_lock() -> None:
    found = explore(system(locked_increment, locked_increment))
    assert found.violation is None
    assert found.complete
    assert str(found) == f"sound ({found.states} states)"


def test_who_waits_for_ever_is_a_violation() -> None:
    found = explore(system(lambda: locked(increment(), releases=False), locked_increment))
    assert found.violation is not None
    assert found.violation.kind == LOST_WAITER
    assert "P1 will wait" in str(found.violation)


def test_a_process_may_crash_at_each_of_its_steps() -> None:
    found = explore(system(locked_increment, locked_increment, crashes=1, at_rest=anything))
    assert found.violation is not None
    assert found.trace[:2] == ("P0: lock", "P0: crash")
    assert found.violation.kind == LOST_WAITER
    freed = system(locked_increment, locked_increment, crashes=1, at_rest=anything, crashed=unlocked)
    assert explore(freed).violation is None


def test_what_is_asked_at_once_is_no_step() -> None:
    def body() -> Body:
        before = yield add(1)
        after = yield AtOnce(lambda world: world.number)
        if after != before + 1:
            raise Violation("torn", "somebody came in between")

    assert explore(system(body, body)).violation is None


@pytest.mark.parametrize("times", [2, 5])
def test_positions_are_told_apart_by_their_variables_and_merged_by_nothing_else(times: int) -> None:
    """One process alone stands in as many places as it has steps."""
    found = explore(system(partial(increment, times), at_rest=anything))
    assert found.states == 2 * times + 1

    def forgetful() -> Body:
        for step in range(times):
            yield add(1)
            yield put(0)
            del step

    found = explore(system(forgetful, at_rest=anything))
    assert found.states == 2 * times + 1


def test_the_limit_is_told() -> None:
    found = explore(system(partial(increment, 9), at_rest=anything), limit=5)
    assert not found.complete
    assert "not all" in str(found)
