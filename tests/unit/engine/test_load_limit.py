"""``LoadLimit``: the number of statements at once follows the time that they take."""

import random

import pytest

from aiomodelcache.engine.load_limit import HARMLESS, MAX_KINDS, LoadLimit


def settled(limit: LoadLimit, capacity: float, fastest: float, *, samples: int = 2_000) -> int:
    """Returns the limit in front of a database that works on ``capacity`` statements at once, and queues the others."""
    chance = random.Random(1)
    limit.sample("rows", 1, fastest, 1)
    for _ in range(samples):
        in_flight, values = limit.value, chance.randrange(1, 1_000)
        seconds = fastest * (1 + values / 500) * max(1.0, in_flight / capacity)
        limit.sample("rows", values, seconds * chance.uniform(0.9, 1.3), in_flight)
    return limit.value


@pytest.mark.parametrize("capacity", [1, 4, 20])
def test_the_limit_settles_near_what_the_database_works_on_at_once(capacity: int) -> None:
    assert capacity <= settled(LoadLimit(1_000), capacity, 0.05) <= max(8, capacity * 3)


def test_the_limit_falls_when_statements_become_slow_and_rises_again() -> None:
    limit = LoadLimit(64)
    assert settled(limit, 64, 0.05) == 64
    assert settled(limit, 2, 0.05, samples=200) <= 10
    assert settled(limit, 64, 0.05) == 64


def test_a_database_that_stays_slower_is_used_at_its_new_pace() -> None:
    """One at a time first, which shows that the slowness is not the queue of this process."""
    limit = LoadLimit(64)
    assert settled(limit, 64, 0.05) == 64
    lowest = 64
    for _ in range(200):
        limit.sample("rows", 1, 0.5, limit.value)
        lowest = min(lowest, limit.value)
    assert lowest == 1
    assert settled(limit, 64, 0.5) >= 16


def test_each_kind_of_statement_is_compared_with_its_like() -> None:
    limit = LoadLimit(64)
    for _ in range(200):
        limit.sample("fast", 1, 0.05, limit.value)
        limit.sample("slow", 1, 5.0, limit.value)
    assert limit.value == 64


def test_one_slow_statement_does_not_stop_the_others() -> None:
    limit = LoadLimit(64)
    settled(limit, 64, 0.05)
    limit.sample("rows", 1, 60.0, limit.value)
    assert limit.value >= 64 * 0.85


def test_fast_statements_never_lower_the_limit() -> None:
    limit = LoadLimit(64)
    for _ in range(100):
        limit.sample("rows", 1, 0.0001, limit.value)
        limit.sample("rows", 1, HARMLESS, limit.value)
    assert limit.value == 64


def test_a_connection_that_is_hardly_used_keeps_its_limit() -> None:
    limit = LoadLimit(64)
    settled(limit, 64, 0.05)
    for seconds in (0.05, 5.0, 0.05, 50.0):
        limit.sample("rows", 1, seconds, 1)
    assert limit.value == 64


@pytest.mark.parametrize("maximum", [1, 3])
def test_the_limit_is_never_above_the_maximum_nor_below_one(maximum: int) -> None:
    limit = LoadLimit(maximum)
    for seconds in [0.1] * 100 + [10.0] * 100 + [0.1] * 100:
        limit.sample("rows", 1, seconds, limit.value)
        assert 1 <= limit.value <= maximum


def test_kinds_that_were_not_sent_lately_are_forgotten() -> None:
    """Ad-hoc queries may have any number of texts."""
    limit = LoadLimit(64)
    for number in range(2 * MAX_KINDS):
        limit.sample(("query", number), 1, 0.1, limit.value)
        limit.sample("rows", 1, 0.1, limit.value)
    assert len(limit._usual) == MAX_KINDS
    assert limit.value == 64
    limit.sample("rows", 1, 1.0, limit.value)
    assert limit.value < 64, "a kind that is sent again and again stays known"
