"""Lookups inside a tracked computation, whose tracker records the entries that answer them."""

import asyncio
from collections.abc import Generator
from functools import partial
from typing import Any

from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache.engine.run import resolve_future
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
    future: asyncio.Future[Any] = cache.loop.create_future()
    if not cache.guarded.near.on and (lookup := query.fast_lookup(cache)) is not None:
        cache.reader.hits.start_lookup(TrackedLookup(lookup, tracker, cache.versions), cache, future)
    else:
        plan = tracked(cache.reader.of_caller(query.plan(cache, None)), tracker, cache.versions)
        cache.reader.start(plan, partial(resolve_future, future), near=False, operation=query.lookup_event)
    return future


def answer_of(future: "asyncio.Future[Any]", tracker: Tracker) -> Generator[Any, None, Any]:
    """Waits for a tracked lookup, which ends for the tracker when its caller resumes.

    It never ends for a caller that is cancelled, even after the answer has come: time decides then, not the database.
    """
    tracker.unfinished += 1
    try:
        answer = yield from future
    except Exception:  # it is an answer, too
        tracker.unfinished -= 1
        raise
    tracker.unfinished -= 1
    return answer


def future_of_tracked(query: Any, cache: OpenCache, tracker: Tracker) -> "asyncio.Future[Any]":
    """Starts a query that a tracker records, and returns a future. If that is cancelled, the lookup never ends."""
    future = start_tracked(query, cache, tracker)
    tracker.unfinished += 1
    future.add_done_callback(partial(_end, tracker))
    return future


def _end(tracker: Tracker, future: "asyncio.Future[Any]") -> None:
    tracker.unfinished -= not future.cancelled()
