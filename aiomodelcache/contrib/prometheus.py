"""``ModelCacheCollector``: the counters of all processes of an application, for Prometheus."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from aiomodelcache.client import ModelCache
from aiomodelcache.contrib.registration import check_cache, required
from aiomodelcache.exceptions import CacheNotOpen
from aiomodelcache.observe.fleet import Fleet, Worker
from aiomodelcache.observe.relay_status import RELAY_METRICS

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

METRIC_PREFIX: Final = "aiomodelcache"
MAX_SCRAPE_WAIT: Final = 2.0
"""Maximum seconds that a scrape in another thread waits for the other processes' counters. Then it has the own ones."""

_BY_CACHE: Final[list[tuple[str, str, str, dict[str, str]]]] = [
    ("lookups", "Lookups by cache class.", "outcome", {"hit": "hits", "miss": "misses"}),
    ("miss_seconds", "Seconds of the statements and computations of misses.", "", {"": "seconds"}),
    ("fills", "Entries stored.", "", {"": "fills"}),
    ("fills_refused", "Entries not stored, because a writer was in the way or the answer cannot be stored.", "reason",
     {"replaced": "refused", "unfillable": "unfillable"}),
    ("rows_written_through", "Saved rows that writers have stored, or not.", "outcome",
     {"stored": "written_through", "unknown": "unknown_rows", "contended": "contended_rows"}),
    ("stale_answers", "Answers from stale copies and from last good values.", "reason",
     {"allowtime": "stale", "failed": "stale_if_error", "slow": "stale_if_slow"}),
    ("refreshes", "Entries filled again in the background.", "outcome",
     {"replaced": "refreshed", "after_write": "reset", "failed": "unrefreshed"}),
    ("lives_extended", "Entries whose life a hit extended.", "", {"": "extended"}),
    ("rows_adopted", "Rows answered by entries of another release.", "", {"": "adopted"}),
    ("entries_unusable", "Entries that did not answer although they were there.", "reason",
     {"moved": "repaired", "damaged": "undecodable", "other_version": "mismatched"}),
]  # fmt: skip
"""Name, help, a further label, and the counters of a cache class by the values of that label."""
_BY_WORKER: Final = [
    ("round_trips", "Requests to the store, those that publish counters included.", "round_trips"),
    ("statements", "SQL statements of lookups.", "statements"),
    ("extended_leases", "Extensions of leases whose statements were slow.", "extended_leases"),
    (
        "queued_loads",
        "Loads that waited, because as many statements were in flight as the database bears.",
        "queued_loads",
    ),
    ("overloaded_loads", "Loads that waited for longer than load_wait.", "overloaded_loads"),
    ("backend_errors", "Requests to the store that failed.", "backend_errors"),
    ("bypassed_reads", "Rounds of reading that went to the database because the store was failing.", "bypassed"),
    ("relay_bypassed", "Lookups that read the database because no relay lived.", "relay_bypassed"),
    ("relay_served", "Lookups that were answered although no relay lived.", "relay_served"),
    ("undelivered", "Invalidations that could not be sent at once.", "undelivered"),
    ("unknown_outcomes", "Writes of which it is not known whether they were committed.", "unknown_outcomes"),
    ("uninvalidated_writes", "Writes in no_invalidation blocks.", "uninvalidated"),
    ("observer_errors", "Exceptions that observers raised.", "observer_errors"),
    ("verified_entries", "Entries compared with the database by verify.", "verified.compared"),
    ("verified_stale", "Entries that differed from the database.", "verified.stale"),
    ("verified_changed", "Entries that changed while they were compared.", "verified.changed"),
    ("verified_skipped", "Entries chosen for a comparison and not compared.", "verified.skipped"),
    ("verified_failed", "Comparisons that failed.", "verified.failed"),
    ("near_reads", "Rounds of reading that entries kept in the process answered.", "near.hits"),
    ("near_invalidated", "Entries kept in the process that were removed because they changed.", "near.invalidated"),
    ("near_evicted", "Entries kept in the process that were removed for want of room.", "near.evicted"),
    ("near_dropped", "Removals of all entries kept in the process.", "near.dropped"),
    ("decoded_hits", "Rows and answers of queries that had been decoded before.", "decoded.hits"),
    ("decoded_kept", "Rows and answers of queries that were kept decoded.", "decoded.kept"),
    ("decoded_evicted", "Rows and answers kept decoded that were removed for want of room.", "decoded.evicted"),
]
"""Name, help, and the attribute of ``Stats``."""
_GAUGES: Final[list[tuple[str, str, Callable[[Worker], float]]]] = [
    ("near_bytes", "Approximate size of the entries kept in the process.", attrgetter("stats.near.bytes")),
    ("decoded_bytes", "Approximate size of the rows and answers kept decoded.", attrgetter("stats.decoded.bytes")),
    ("breaker_open", "1 if the last request to the store failed.", attrgetter("breaker_open")),
    ("undelivered_keys", "Keys whose invalidation is kept for later.", attrgetter("undelivered_keys")),
    ("worker_start_time_seconds", "Time at which the worker opened its cache.", attrgetter("started")),
]


class ModelCacheCollector:
    """A collector for ``prometheus_client``: the counters of all processes, each with the label ``worker``.

    >>> from prometheus_client import CollectorRegistry
    >>> from aiomodelcache.contrib.prometheus import ModelCacheCollector, metrics_app
    >>> registry, collector = CollectorRegistry(), ModelCacheCollector(cache)
    >>> registry.register(collector)
    >>> endpoint = metrics_app(collector, registry)    # app.mount("/metrics", endpoint)

    Each process with a collector publishes its counters to the store every two seconds. So a scrape of any one process
    has all of them. A process that has ended vanishes at once, or after ten seconds if it could not say so. If the
    store does not answer, a scrape has the counters of its own process, and ``aiomodelcache_fleet_complete`` is 0.

    In the event loop of the cache, ``await collector.refresh()`` comes before each scrape, as ``metrics_app`` does it.
    A scrape in another thread, like that of ``start_http_server``, needs no ``refresh``. The cache may be closed:
    there are no samples then. Raises ``ImportError`` without ``prometheus_client``, and ``CacheConfigurationError`` for
    anything but a ``ModelCache``.
    """

    def __init__(self, cache: ModelCache) -> None:
        check_cache("ModelCacheCollector", cache)
        core: Any = required("prometheus_client.core", "prometheus")
        self._counter: Any = core.CounterMetricFamily
        self._gauge: Any = core.GaugeMetricFamily
        self._cache = cache
        self._refreshed: Fleet | None = None
        cache.publish_stats()

    async def refresh(self) -> None:
        """Reads the counters of all processes from the store, for the next scrape."""
        self._refreshed = await self._cache.fleet()

    def describe(self) -> "Iterable[Metric]":
        """Returns the metrics without samples. ``prometheus_client`` calls it to find names that are used twice."""
        return self._metrics(None)

    def collect(self) -> "Iterable[Metric]":
        """Returns the metrics. ``prometheus_client`` calls it for each scrape."""
        try:
            return self._metrics(self._fleet())
        except CacheNotOpen:
            return self._metrics(None)

    def _fleet(self) -> Fleet:
        # Used once: counters must not be older than those that another process has shown in the meantime.
        fleet, self._refreshed = self._refreshed, None
        if fleet is None and not _in_loop(loop := self._cache.open_cache.loop) and loop.is_running():
            reading = asyncio.run_coroutine_threadsafe(self._cache.fleet(), loop)
            try:
                fleet = reading.result(MAX_SCRAPE_WAIT)
            except FutureTimeoutError:
                reading.cancel()
        return fleet or Fleet(self._cache.worker, complete=False)

    def _metrics(self, fleet: Fleet | None) -> "Iterator[Metric]":
        workers: tuple[Worker, ...] = () if fleet is None else fleet.workers
        for name, text, label, fields in _BY_CACHE:
            labels = ["worker", "cache", *([label] if label else [])]
            family = self._counter(f"{METRIC_PREFIX}_{name}", text, labels=labels)
            for worker in workers:
                for cache, counters in worker.stats.by_cache.items():
                    for value, field in fields.items():
                        further = [value] if label else []
                        family.add_metric([worker.name, cache, *further], getattr(counters, field))
            yield family
        for name, text, attribute in _BY_WORKER:
            family = self._counter(f"{METRIC_PREFIX}_{name}", text, labels=["worker"])
            for worker in workers:
                family.add_metric([worker.name], attrgetter(attribute)(worker.stats))
            yield family
        for name, text, value_of in _GAUGES:
            family = self._gauge(f"{METRIC_PREFIX}_{name}", text, labels=["worker"])
            for worker in workers:
                family.add_metric([worker.name], value_of(worker))
            yield family
        family = self._gauge(
            f"{METRIC_PREFIX}_load_limit",
            "Statements of lookups that may be in flight.",
            labels=["worker", "connection"],
        )
        for worker in workers:
            for connection, limit in worker.stats.load_limits.items():
                family.add_metric([worker.name, connection], limit)
        yield family
        for attribute, (kind, name, text) in RELAY_METRICS.items():
            make = self._gauge if kind == "gauge" else self._counter
            family = make(
                f"{METRIC_PREFIX}_relay_{name.removesuffix('_total')}", f"{text}.", labels=["worker", "connection"]
            )
            for worker in workers:
                for relay in worker.relays:
                    if (number := getattr(relay, attribute)) is not None:
                        family.add_metric([worker.name, relay.connection], number)
            yield family
        complete = self._gauge(
            f"{METRIC_PREFIX}_fleet_complete", "1 if the other workers' counts were read.", labels=[]
        )
        if fleet is not None:
            complete.add_metric([], fleet.complete)
        yield complete


def metrics_app(
    collector: ModelCacheCollector, registry: "CollectorRegistry | None" = None
) -> Callable[..., Awaitable[None]]:
    """Returns an ASGI application for Prometheus to scrape: that of ``prometheus_client``, after a ``refresh``.

    ``registry``: the one that the collector is registered in, by default the global one.
    """
    client: Any = required("prometheus_client", "prometheus")
    exposition: Any = client.make_asgi_app(client.REGISTRY if registry is None else registry)

    async def app(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        with suppress(CacheNotOpen):  # other metrics are there all the same
            await collector.refresh()
        await exposition(scope, receive, send)

    return app


def _in_loop(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False
