"""Plans without a waiter: entries that are refreshed in the background.

Must not know how plans proceed: ``start`` is handed in.
"""

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

from aiomodelcache.engine.run import Done, NotCached
from aiomodelcache.entries.policy import Lifetimes
from aiomodelcache.exceptions import CacheNotOpen
from aiomodelcache.observe.stats import Counters
from aiomodelcache.plans.requests import Plan

MAX_BACKGROUND_PLANS: Final = 1_000
"""Maximum number of background plans in flight. Beyond it, new ones are skipped and counted as ``unrefreshed``."""
REFRESH_RETRY_DELAY: Final = 0.5
"""Seconds before this process tries to refresh the same entry again."""
THRESHOLD_REFRESH_INTERVAL: Final = 1.0
"""Seconds between two computations of which entries are near their end."""


class BackgroundPlans:
    """Starts plans that refresh entries, each entry once at a time."""

    def __init__(self, start: Callable[[Plan[Any], Done], None], lifetimes: Iterable[Lifetimes]) -> None:
        self._start = start
        self._lifetimes = list(lifetimes)
        self._refreshed_at = 0.0
        """When the thresholds of ``_lifetimes`` were computed."""
        self._in_flight = 0
        self._tried: set[bytes] = set()
        """Keys and first bytes of entries that this process began to refresh since ``_tried_since``."""
        self._tried_since = 0.0

    def start(self, plan: Plan[Any], counters: Counters, entry: bytes | None = None) -> None:
        """Runs a plan without a waiter. Its exceptions are counted and logged. It ends when the store cannot be used.

        ``entry``: the entry that the plan is to replace, by its key and first bytes. It is not begun twice.
        """
        if entry is not None and not self._try(entry):
            plan.close()
        elif self._in_flight >= MAX_BACKGROUND_PLANS:
            counters.unrefreshed += 1
            plan.close()
        else:
            self._in_flight += 1
            self._start(plan, partial(self._end, counters))

    def watch(self, lifetimes: Lifetimes) -> None:
        """Adds a cache class whose refresh thresholds are kept up to date."""
        self._lifetimes.append(lifetimes)
        lifetimes.age()

    def refresh_thresholds(self) -> None:
        """Computes which entries are near their end, if the last time was ``THRESHOLD_REFRESH_INTERVAL`` ago."""
        now = time.monotonic()
        if now >= self._refreshed_at + THRESHOLD_REFRESH_INTERVAL:
            self._refreshed_at = now
            for each in self._lifetimes:
                each.age()

    def forget_attempts(self) -> None:
        """Lets entries be refreshed again whose last attempt was less than ``REFRESH_RETRY_DELAY`` ago."""
        self._tried.clear()

    def _try(self, entry: bytes) -> bool:
        now = time.monotonic()
        if now >= self._tried_since + REFRESH_RETRY_DELAY:
            self._tried, self._tried_since = set(), now
        if entry in self._tried:
            return False
        self._tried.add(entry)
        return True

    def _end(self, counters: Counters, result: Any, error: BaseException | None) -> None:
        self._in_flight -= 1
        if error is not None and not isinstance(error, NotCached | CacheNotOpen):
            counters.unrefreshed += 1
            counters.warn_once("unrefreshed", "aiomodelcache: an entry could not be refreshed: %r", error)
