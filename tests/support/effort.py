"""The part of all cases that a test tries: a tenth or more, or all of them in ``make exhaustive``.

Some tests choose this part by ``share``. Of others that have a database and many cases, ``make test`` and
``make matrix`` try a quarter, with the option ``--part``, but each parameter on some database and store, unless the
test is exhaustive. Without the option, as in ``make test T=tests/query``, all are tried.
"""

import itertools
import os
import random
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TypeVar

import pytest

from tests.support.groups import is_exhaustive

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


LEAST = 4
"""Number of cases of one test that are tried at least with ``--part``."""
PART = 4
"""With ``--part``, one case in so many is tried, if there are more than ``LEAST``."""


def part_of(items: Sequence[pytest.Item]) -> set[pytest.Item]:
    """Returns the tests that ``--part`` runs, which are the same in each run.

    Of the cases of a test that has a database, these are four, or a quarter if that is more. Unless it is exhaustive,
    there is at least one with each of its own parameters: on some database and some store. Its name decides which.
    """
    kept = set(items)
    cases: defaultdict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if "db_url" in getattr(item, "fixturenames", ()):
            cases[item.nodeid.partition("[")[0]].append(item)
    for name, every in cases.items():
        random.Random(zlib.crc32(name.encode())).shuffle(every)
        alike = map(is_exhaustive if is_exhaustive(every[0]) else _own_parameters, every)
        one_of_each = dict(zip(alike, every, strict=True)).values()
        chosen = dict.fromkeys([*one_of_each, *every])
        number = max(LEAST, -(-len(every) // PART), len(one_of_each))
        kept.difference_update(itertools.islice(chosen, number, None))
    return kept


def _own_parameters(item: pytest.Item) -> frozenset[tuple[str, int]]:
    """Returns what tells a case from the same one on another database or store."""
    params: dict[str, object] = getattr(getattr(item, "callspec", None), "params", {})
    return frozenset((name, id(value)) for name, value in params.items() if name not in ("db_url", "backend_url"))
