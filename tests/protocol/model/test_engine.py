"""The engine finds each violation by the shortest trace, and explores all states if there is none."""

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


def require_two(world: Counter) -> None:
    if world.number != 2:
        raise Violation("lost", f"{world.number} of 2")


def unchanged(world: Counter, _: str) -> Counter:
    return world


def unlocked(world: Counter, _: str) -> Counter:
    return world._replace(locked=False)


def accept_any(world: Counter) -> None:
    pass


def system(*bodies: Any, at_rest: Any = require_two, crashes: int = 0, crashed: Any = unchanged) -> System[Counter]:
    processes = tuple([Process(f"P{n}", body, mortal=True) for n, body in enumerate(bodies)])
    return System(Counter(), processes, lambda _: (), crashed, at_rest, crashes)


def test_a_lost_update_is_found_by_the_shortest_trace() -> None:
    exploration = explore(system(increment, increment))
    assert exploration.violation is not None
    assert exploration.violation.kind == "lost"
    assert [step.partition(" ")[2] for step in exploration.trace] == ["get", "get", "put 1", "put 1", "rest"]
    assert "1 of 2" in str(exploration)
    assert "   1  P0: get" in str(exploration)


def test_no_lost_update_is_found_under_a_lock() -> None:
    exploration = explore(system(locked_increment, locked_increment))
    assert exploration.violation is None
    assert exploration.complete
    assert str(exploration) == f"sound ({exploration.states} states)"


def test_a_process_that_waits_for_ever_is_a_violation() -> None:
    exploration = explore(system(lambda: locked(increment(), releases=False), locked_increment))
    assert exploration.violation is not None
    assert exploration.violation.kind == LOST_WAITER
    assert "P1 will wait" in str(exploration.violation)


def test_a_process_may_crash_at_each_of_its_steps() -> None:
    exploration = explore(system(locked_increment, locked_increment, crashes=1, at_rest=accept_any))
    assert exploration.violation is not None
    assert exploration.trace[:2] == ("P0: lock", "P0: crash")
    assert exploration.violation.kind == LOST_WAITER
    freed = system(locked_increment, locked_increment, crashes=1, at_rest=accept_any, crashed=unlocked)
    assert explore(freed).violation is None


def test_a_look_at_the_world_is_not_a_step() -> None:
    def body() -> Body:
        before = yield add(1)
        after = yield AtOnce(lambda world: world.number)
        if after != before + 1:
            raise Violation("torn", "another process came in between")

    assert explore(system(body, body)).violation is None


@pytest.mark.parametrize("times", [2, 5])
def test_positions_are_distinguished_by_their_local_variables_only(times: int) -> None:
    """A single process has one state for each of its steps."""
    exploration = explore(system(partial(increment, times), at_rest=accept_any))
    assert exploration.states == 2 * times + 1

    def forgetful() -> Body:
        for step in range(times):
            yield add(1)
            yield put(0)
            del step

    exploration = explore(system(forgetful, at_rest=accept_any))
    assert exploration.states == 2 * times + 1


def test_an_exploration_reports_that_it_reached_the_limit() -> None:
    exploration = explore(system(partial(increment, 9), at_rest=accept_any), limit=5)
    assert not exploration.complete
    assert "not all" in str(exploration)
