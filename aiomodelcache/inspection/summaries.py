"""Workers and the server in a few numbers each."""

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
