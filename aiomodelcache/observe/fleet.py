"""The counters of all processes of an application: their types, and their bytes in the store.

Pure: knows counters, not how they are published (see ``engine.publishing``).
"""

import os
import socket
import time
from collections.abc import Iterable
from dataclasses import fields, replace
from operator import attrgetter
from typing import Any, Final

import msgspec

from aiomodelcache.observe.events import Stage
from aiomodelcache.observe.relay_status import RelayStatus
from aiomodelcache.observe.stats import Counters, Stats

MAX_RECENT_WRITES: Final = 20
"""Maximum number of writes that a process remembers and publishes. Beyond it, the oldest are forgotten."""
_COUNTS: Final = [each.name for each in fields(Counters) if each.name not in ("name", "warned")]
_counts_of: Final = attrgetter(*_COUNTS)


class RecentWrite(msgspec.Struct, frozen=True, kw_only=True):
    """The end of the invalidation of one write or of one transaction, or a model that was cleared."""

    time: float
    """Seconds since the Unix epoch."""
    stage: Stage
    """The stage as in ``Write``. Writes that are only ``announced`` are not kept."""
    keys: int
    """The number of keys that the write affected."""
    caches: tuple[str, ...]
    """The names of the models and classes of values, as in ``Stats.by_cache``."""
    whole: bool = False
    """True if everything about one of these was invalidated, as by ``clear`` or a bulk write."""


class Worker(msgspec.Struct, frozen=True, kw_only=True):
    """The counters of one process: of one ``ModelCache`` from open to close, at one moment."""

    name: str
    """The host, the process and the time of opening. No other worker has the same, nor does one that replaces it."""
    host: str
    pid: int
    """The process identifier on that host."""
    started: float
    """The time at which the cache was opened, in seconds since the Unix epoch."""
    tokens: str = ""
    """The beginning of the tokens of its leases and intents, in hexadecimal. All caches of a process share it."""
    stats: Stats = msgspec.field(default_factory=Stats)
    """Its counters, as in ``ModelCache.stats``."""
    breaker_open: bool = False
    """True if its last request to the store failed, so that its lookups bypass the store."""
    undelivered_keys: int = 0
    """The number of keys whose invalidation it could not send yet."""
    relays: tuple[RelayStatus, ...] = ()
    """The state of the relay that ``ModelCache(relay=True)`` runs in it, on each connection."""
    writes: tuple[RecentWrite, ...] = ()
    """The latest writes that it has invalidated, at most ``MAX_RECENT_WRITES``, the latest last."""

    @classmethod
    def here(cls, tokens: str = "") -> "Worker":
        """Returns a worker for a cache that opens now in this process, with counters of zero."""
        host, pid, microseconds = socket.gethostname(), os.getpid(), time.time_ns() // 1000
        name = f"{host}-{pid}-{microseconds:x}"
        return cls(name=name, host=host, pid=pid, started=microseconds / 1e6, tokens=tokens)

    def at(
        self,
        stats: Stats,
        *,
        breaker_open: bool,
        undelivered_keys: int,
        relays: Iterable[RelayStatus] = (),
        writes: Iterable[RecentWrite] = (),
    ) -> "Worker":
        """Returns the worker with a copy of its present counters."""
        by_cache = {name: Counters(**counts, name=name) for name, counts in _by_cache(stats).items()}
        near, decoded, verified = replace(stats.near), replace(stats.decoded), replace(stats.verified)
        parts: dict[str, Any] = {"near": near, "decoded": decoded, "verified": verified, "by_cache": by_cache}
        copied = replace(stats, **parts, load_limits={**stats.load_limits})
        return msgspec.structs.replace(
            self,
            stats=copied,
            relays=tuple(map(replace, relays)),
            writes=tuple(writes),
            breaker_open=breaker_open,
            undelivered_keys=undelivered_keys,
        )


class Fleet(msgspec.Struct, frozen=True):
    """The processes that publish their counters."""

    own: Worker
    """The process that asks, with its present counters."""
    others: tuple[Worker, ...] = ()
    """The others, by name, with the counters that each has published within the last seconds."""
    complete: bool = True
    """False if the store did not answer, so that the others are not known."""

    @property
    def workers(self) -> tuple[Worker, ...]:
        """All workers, the own one first."""
        return (self.own, *self.others)


def encode_worker(worker: Worker) -> bytes:
    """Returns a worker as JSON, with the names of all cache classes and without counters that are zero."""
    stats = worker.stats
    by_cache = {
        name: {count: value for count, value in each.items() if value} for name, each in _by_cache(stats).items()
    }
    values = msgspec.structs.asdict(worker)
    parts: dict[str, Any] = {name: _nonzero(getattr(stats, name)) for name in ("near", "decoded", "verified")}
    parts |= {"by_cache": by_cache, "load_limits": stats.load_limits}
    values["stats"] = {**_nonzero(stats), **parts}
    return msgspec.json.encode(values)


def decode_worker(data: bytes) -> Worker | None:
    """Returns the worker that was encoded, or None if these bytes are of another version of the program."""
    try:
        worker = msgspec.json.decode(data, type=Worker)
    except (msgspec.MsgspecError, UnicodeError):
        return None
    for name, counters in worker.stats.by_cache.items():
        counters.name = name
    return worker


def _by_cache(stats: Stats) -> dict[str, dict[str, Any]]:
    """Returns the counts of each cache class, by its name and theirs."""
    return {name: dict(zip(_COUNTS, _counts_of(each), strict=True)) for name, each in list(stats.by_cache.items())}


def _nonzero(counters: Any) -> dict[str, int]:
    found = {each.name: getattr(counters, each.name) for each in fields(counters)}
    return {name: value for name, value in found.items() if isinstance(value, int) and value}
