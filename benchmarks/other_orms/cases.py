"""The operations, and the process that measures one ORM: its cached and its bare way in turn."""

import gc
import json
import random
import sys
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

from benchmarks import data

PK: Final = 101
OWNER: Final = 3
GET: Final = "one by pk"
LIST: Final = "a list of 50"
SAVE: Final = "save"
CASES: Final = (GET, LIST, SAVE)
SAMPLE: Final = 0.03
"""Seconds of one sample, about."""


class OperationSample(NamedTuple):
    """Seconds, and seconds of CPU time, of one operation."""

    seconds: float
    cpu: float


class Subject(Protocol):
    """An ORM with its cache. Each call ends before it returns, whatever event loop it needs."""

    name: str
    statements: int
    """Number of SQL statements sent so far."""

    def get(self, pk: int, *, cached: bool) -> Any:
        """Returns the row of a primary key."""

    def list(self, owner: int, *, cached: bool) -> list[Any]:
        """Returns the rows of an owner, by primary key."""

    def save(self, stock: int, *, cached: bool) -> None:
        """Writes ``stock`` to the row ``PK``, with all other columns."""

    def repeat(self, case: str, times: int, *, cached: bool) -> None:
        """Does an operation several times."""


def columns(row: Any) -> dict[str, Any]:
    """Returns the columns of a row."""
    return {name: getattr(row, name) for name in data.product(PK)}


def check(subject: Subject) -> None:
    """Compares the answers with the catalogue, and asserts that hits send no statement and writes are seen."""
    for cached in (False, True, True):
        assert columns(subject.get(PK, cached=cached)) == data.product(PK)
        assert [columns(row) for row in subject.list(OWNER, cached=cached)] == [
            data.product(pk) for pk in data.products_of(OWNER)
        ]
    for read in (lambda cached: subject.get(PK, cached=cached), lambda cached: subject.list(OWNER, cached=cached)):
        for cached in (False, True):
            before = subject.statements
            read(cached)
            sent = subject.statements - before
            assert (sent == 0) == cached, f"{subject.name} sent {sent} statements, cached: {cached}"
    stock = data.product(PK)["stock"]
    for changed in (stock + 1, stock):
        subject.save(changed, cached=True)
        ends = time.monotonic() + 1.0
        while subject.get(PK, cached=True).stock != changed:  # a task invalidates after the commit in one of them
            assert time.monotonic() < ends, f"{subject.name} returns an old row"
            time.sleep(0.001)


def sampled(run: Callable[[int], None], times: int) -> OperationSample:
    gc.collect()
    began, worked = time.perf_counter(), time.process_time()
    run(times)
    return OperationSample((time.perf_counter() - began) / times, (time.process_time() - worked) / times)


def measure(subject: Subject, rounds: int) -> None:
    """Checks, measures, and prints the samples: case -> pairs of a cached and a bare one."""
    check(subject)
    found: dict[str, list[tuple[OperationSample, OperationSample]]] = {}
    for number in range(rounds + 1):  # the first one warms up
        for case in CASES:

            def run(times: int, cached: bool, case: str = case) -> None:
                subject.repeat(case, times, cached=cached)

            pair: dict[bool, OperationSample] = {}
            for cached in random.Random(f"{number} {case}").sample([True, False], 2):
                took = sampled(lambda times, cached=cached: run(times, cached), 2)
                times = max(1, min(500, round(SAMPLE / took.seconds)))
                pair[cached] = sampled(lambda times, cached=cached: run(times, cached), times)
            if number:
                found.setdefault(case, []).append((pair[True], pair[False]))
    json.dump(found, sys.stdout)
