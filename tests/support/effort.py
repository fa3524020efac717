"""The part of all cases that a test tries: a tenth or more, or all of them in ``make exhaustive``."""

import os
import random
from collections.abc import Iterable
from typing import TypeVar

import pytest

T = TypeVar("T")

FULL = os.environ.get("AIOMODELCACHE_EFFORT") == "full"
"""True if every case is tried."""
SHARE = 1 if FULL else 10

all_effort = pytest.mark.skipif(not FULL, reason="only `make exhaustive` runs it")
"""The mark of tests that prove what other tests would find, or that take as long as all others of their file."""


def share(cases: Iterable[T], *, one_in: int = 10) -> list[T]:
    """Returns the cases to try, in order: all, or one in so many, the same in each run, the first one among them."""
    every = list(cases)
    chosen = random.Random(len(every)).sample(range(1, len(every)), (len(every) - 1) // one_in) if every else []
    return every if FULL else [every[index] for index in [0, *sorted(chosen)][: len(every)]]
