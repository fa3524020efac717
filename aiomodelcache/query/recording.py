"""Lookups inside a tracked computation, whose tracker records the entries that answer them."""

import asyncio
from functools import partial
from typing import Any

from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache.engine.run import resolve
from aiomodelcache.open_cache import OpenCache
from aiomodelcache.plans.tracking import TrackedLookup, tracked
from aiomodelcache.scopes.tracking import Tracker


def note_unrecorded(tracker: Tracker, client: BaseDBAsyncClient | None, *, bypassed: bool) -> None:
    """Notes that no entry of the tracker's store answers a lookup: of a transaction, a bypass, or another cache."""
    if client is not None:
        tracker.unrecorded("it reads in a transaction")
    else:
        tracker.unrecorded("it bypasses the cache" if bypassed else "it reads another cache")


def start_tracked(query: Any, cache: OpenCache, tracker: Tracker) -> "asyncio.Future[Any]":
    """Starts a query that a tracker records. What a request's scope or near entries hold has no token."""
    lookup = None if cache.guarded.near.on else query.fast_lookup(cache)
    future: asyncio.Future[Any] = cache.loop.create_future()
    if lookup is not None:
        lookup = TrackedLookup(lookup, tracker, cache.versions, future.cancelled)
        cache.reader.hits.start_lookup(lookup, cache, future)
    else:
        plan = tracked(cache.reader.of_caller(query.plan(cache, None)), tracker, cache.versions, future.cancelled)
        cache.reader.start(plan, partial(resolve, future), near=False, operation=query.lookup_event)
    return future
