"""Lookups with the context of their caller, for caches whose managers or routers may depend on it.

Statements run in the background, for many callers. If a caller's own query would find other rows, its lookup is refused
before the statement. Hits are not compared, because that would take longer than the hit.
"""

from collections.abc import Callable
from contextvars import Context, copy_context
from functools import partial
from typing import Any

from aiomodelcache.engine.hits import HitPath, PendingLookups
from aiomodelcache.plans.requests import ComputeValue, FastLookup, Load, Plan, T
from aiomodelcache.plans.steps import checked

CheckCaller = Callable[[Context, Load | ComputeValue], None]
"""Raises ``TenantError`` if the caller with this context would find other rows than the background does."""


def witnessed(plan: Plan[T], check: CheckCaller) -> Plan[T]:
    """Returns a plan that compares the present context, its caller's, before it queries the database."""
    return checked(plan, partial(check, copy_context()))


class WitnessedLookup:
    """A lookup whose plan compares its caller's context before it queries the database."""

    __slots__ = ("_check", "_lookup", "collect_keys", "lookup_event", "try_hit")

    def __init__(self, lookup: FastLookup, check: Callable[[Load | ComputeValue], None]) -> None:
        self._check = check
        self._lookup = lookup
        self.collect_keys = lookup.collect_keys
        self.try_hit = lookup.try_hit
        self.lookup_event = lookup.lookup_event

    def start_plan(self, context: Any, /) -> Plan[Any]:
        """See ``FastLookup``."""
        return checked(self._lookup.start_plan(context), self._check)


class WitnessedHits(HitPath):
    """A ``HitPath`` whose lookups remember the context of their caller."""

    check: CheckCaller

    def start_lookup(self, lookup: FastLookup, context: Any, future: Any) -> None:
        """See ``HitPath``."""
        super().start_lookup(WitnessedLookup(lookup, partial(self.check, copy_context())), context, future)

    def start_lookups(self, pending: PendingLookups) -> None:
        """See ``HitPath``."""
        check = partial(self.check, copy_context())
        pending.lookups = [WitnessedLookup(lookup, check) for lookup in pending.lookups]
        super().start_lookups(pending)
