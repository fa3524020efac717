"""Output of the quickstart: a line for each step with its cost, and a check of each cost."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Statements(logging.Handler):
    """Counts the SQL statements of all callers, which Tortoise logs as it sends them."""

    count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += record.msg == "%s: %s"


class Step:
    """Text of one line, and a flag that is True if the text is right."""

    text, right = "", False

    def show(self, text: str, *, right: bool = True) -> None:
        self.text, self.right = text, right


class Board:
    """Prints a line for each step and keeps the claims that did not hold."""

    def __init__(self) -> None:
        self.counts: Any = None
        """Cache whose ``round_trips`` are shown."""
        self.claims = 0
        self.failures: list[str] = []
        self.statements = Statements()
        logger = logging.getLogger("tortoise.db_client")
        logger.addHandler(self.statements)
        logger.setLevel(logging.DEBUG)
        print(f"{'':<44}{'Redis':>5}{'SQL':>5}{'ms':>8}")

    @contextmanager
    def step(self, label: str, *, redis: int | None, sql: int) -> Iterator[Step]:
        """Counts and times the block, then prints its line. ``redis=None`` allows any number of round trips."""
        step, trips, statements = Step(), self.counts.round_trips, self.statements.count
        start = time.perf_counter()
        yield step
        took = (time.perf_counter() - start) * 1000
        trips, statements = self.counts.round_trips - trips, self.statements.count - statements
        print(f"{label:<44}{trips:>5}{statements:>5}{took:>8.1f}   {step.text}")
        self.claims += 1
        if redis not in (None, trips) or sql != statements:
            self.failures.append(f"{label}: {trips} round trips and {statements} SQL instead of {redis} and {sql}")
        if not step.right:
            self.failures.append(f"{label}: this is not what it should be: {step.text}")
