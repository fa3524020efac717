"""Plans without a waiter, which refresh entries in the background.

Must not know how plans proceed: ``start`` is handed in.
"""

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

from aiomodelcache.encoding.messages import safe_reason
from aiomodelcache.engine.run import DoneCallback, NotCached
from aiomodelcache.entries.policy import Lifetimes
from aiomodelcache.exceptions import CacheNotOpen
from aiomodelcache.observe.stats import Counters
from aiomodelcache.plans.requests import Plan

MAX_BACKGROUND_PLANS: Final = 1_000
"""Maximum number of background plans in flight. Beyond it, new ones are skipped and counted as ``unrefreshed``."""
REFRESH_RETRY_DELAY: Final = 0.5
"""Seconds before this process tries to refresh the same entry again."""
THRESHOLD_REFRESH_INTERVAL: Final = 1.0
"""Seconds between two computations of which entries are about to expire."""


class BackgroundPlans:
    """The plans that refresh entries, at most one for each entry at a time."""

    def __init__(
        self,
        start: Callable[[Plan[Any], DoneCallback, str], None],
        lifetimes: Iterable[Lifetimes],
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        self._start = start
        self._tick = tick
        """A callback that is called about once in ``THRESHOLD_REFRESH_INTERVAL`` while lookups are made."""
        self._lifetimes = list(lifetimes)
        self._refreshed_at = 0.0
        """The monotonic time at which the thresholds of ``_lifetimes`` were computed."""
        self._in_flight = 0
        self._tried: set[bytes] = set()
        """Keys and first bytes of the entries that this process has started to refresh since ``_tried_since``."""
        self._tried_since = 0.0

    def start(self, plan: Plan[Any], counters: Counters, entry: bytes | None = None) -> None:
        """Runs a plan without a waiter. The plan ends when the store cannot be used.

        Its exceptions are counted and logged. ``entry``: the entry that the plan replaces, by its key and first bytes.
        A second plan for the same entry is not started.
        """
        if entry is not None and not self._try(entry):
            plan.close()
        elif self._in_flight >= MAX_BACKGROUND_PLANS:
            counters.unrefreshed += 1
            plan.close()
        else:
            self._in_flight += 1
            self._start(plan, partial(self._end, counters), counters.name)

    def watch(self, lifetimes: Lifetimes) -> None:
        """Adds a cache class whose refresh thresholds are kept up to date."""
        self._lifetimes.append(lifetimes)
        lifetimes.update_due()

    def unwatch(self, lifetimes: Lifetimes) -> None:
        """Removes a cache class that is not used any more."""
        self._lifetimes.remove(lifetimes)

    def refresh_thresholds(self) -> None:
        """Computes which entries are about to expire, unless it did so within ``THRESHOLD_REFRESH_INTERVAL``."""
        now = time.monotonic()
        if now >= self._refreshed_at + THRESHOLD_REFRESH_INTERVAL:
            self._refreshed_at = now
            for lifetimes in self._lifetimes:
                lifetimes.update_due()
            self._tick()

    def clear_attempts(self) -> None:
        """Allows entries to be refreshed again that were last tried within ``REFRESH_RETRY_DELAY``."""
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
            counters.warn_once("unrefreshed", "aiomodelcache: an entry could not be refreshed: %s", safe_reason(error))
