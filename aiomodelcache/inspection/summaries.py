"""Workers, cache classes and the server in a few numbers each."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from aiomodelcache.observe.fleet import Worker

SERVER: Final = {
    "redis_version": "version",
    "role": "role",
    "uptime_in_seconds": "uptime",
    "used_memory": "memory used",
    "maxmemory": "memory limit",
    "maxmemory_policy": "eviction",
    "evicted_keys": "evicted keys",
    "expired_keys": "expired keys",
    "keyspace_hits": "reads that found a key",
    "keyspace_misses": "reads that found none",
    "connected_clients": "clients",
}
"""Fields of INFO that describe the server, and their names for people."""


def worker_data(worker: Worker) -> dict[str, Any]:
    """Returns the counters of a worker, added up over its cache classes."""
    by_cache = worker.stats.by_cache.values()
    return {
        "worker": worker.name,
        "host": worker.host,
        "pid": worker.pid,
        "started": worker.started,
        "hits": sum(counters.hits for counters in by_cache),
        "misses": sum(counters.misses for counters in by_cache),
        "statements": worker.stats.statements,
        "round_trips": worker.stats.round_trips,
        "backend_errors": worker.stats.backend_errors,
        "breaker_open": worker.breaker_open,
        "undelivered_keys": worker.undelivered_keys,
        "by_cache": {name: [each.hits, each.misses] for name, each in worker.stats.by_cache.items()},
    }


_COUNTS: Final = {
    "hits": ("hits",),
    "misses": ("misses",),
    "fills": ("fills",),
    "refused": ("refused", "unfillable"),
    "stale": ("stale", "stale_if_error", "stale_if_slow"),
    "unusable": ("repaired", "undecodable", "mismatched"),
}
"""Counts that are shown of a cache class, and the counters that each adds up."""


def class_data(workers: Iterable[Worker], rates: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the counts of each cache class, added up over workers, by name, with its ``rates`` if it has any."""
    totals: dict[str, dict[str, Any]] = {}
    for worker in workers:
        for name, counters in worker.stats.by_cache.items():
            total = totals.setdefault(name, dict.fromkeys(_COUNTS, 0))
            for count, attributes in _COUNTS.items():
                total[count] += sum(getattr(counters, attribute) for attribute in attributes)
    return [_class_data(name, totals[name], rates.get(name, {})) for name in sorted(totals)]


def _class_data(name: str, total: dict[str, int], recent: Mapping[str, Any]) -> dict[str, Any]:
    lookups = total["hits"] + total["misses"]
    ratio = round(total["hits"] / lookups, 4) if lookups else None
    rates = {"lookups": recent.get("lookups", 0.0), "miss_ms": recent.get("miss_ms")}
    return {"cache": name, "hit_ratio": ratio, **rates, **total}
