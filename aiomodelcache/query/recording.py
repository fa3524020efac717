"""Lookups inside a tracked computation, whose tracker records the entries that answer them."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache.engine.run import resolve
from aiomodelcache.observe.events import Lookup
from aiomodelcache.open_cache import OpenCache
from aiomodelcache.plans.requests import FastLookup, Plan
from aiomodelcache.plans.tracking import TrackedLookup, tracked
from aiomodelcache.scopes.tracking import Tracker

T = TypeVar("T")


def tracker_of(cache: OpenCache, tracker: Tracker, client: BaseDBAsyncClient | None) -> Tracker | None:
    """Returns the tracker that records a lookup in a cache, or None if no entry of its store answers the lookup."""
    if client is not None:
        tracker.unrecorded("it reads in a transaction")
    elif cache.bypass.off:
        tracker.unrecorded("it bypasses the cache")
    elif cache.guarded is not tracker.owner:
        tracker.unrecorded("it reads another cache")
    else:
        return tracker
    return None


def start_tracked(
    cache: OpenCache,
    tracker: Tracker,
    lookup: FastLookup | None,
    make_plan: Callable[[], Plan[T]],
    operation: Lookup | None,
) -> "asyncio.Future[T]":
    """Starts a lookup that a tracker records. ``lookup`` answers faster than the plan, if there is one."""
    future: asyncio.Future[T] = cache.loop.create_future()
    if lookup is not None:
        lookup = TrackedLookup(lookup, tracker, cache.versions, future.cancelled)
        cache.reader.hits.start_lookup(lookup, cache, future)
    else:
        plan = tracked(cache.reader.of_caller(make_plan()), tracker, cache.versions, future.cancelled)
        cache.reader.start(plan, partial(resolve, future), near=False, operation=operation)
    return future
