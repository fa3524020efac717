"""The counters of this process in the store, where the other processes of the application read them.

Uses the operations of any backend. A namespace has ``MAX_WORKERS`` numbered keys. A publisher leases a free one and
fills it again and again, so its entry expires soon after the process has ended. All of them are read at once.
"""

import asyncio
import random
from collections.abc import Callable, Iterable
from contextlib import suppress
from contextvars import Context, ContextVar
from typing import Final

import anyio

from aiomodelcache.backends.breaker import GuardedBackend
from aiomodelcache.backends.protocol import Fill, Lease
from aiomodelcache.encoding.keys import key_prefix
from aiomodelcache.encoding.layout import (
    FINGERPRINT_SIZE,
    LEASE,
    PREFIX_SIZE,
    TOKEN_SIZE,
    VALUE,
    DamagedEntry,
    new_token,
    pack_entry,
    process_mark,
    unpack_entry,
)
from aiomodelcache.exceptions import BackendError
from aiomodelcache.observe.fleet import Fleet, Worker, decode_worker, encode_worker
from aiomodelcache.observe.relay_status import RelayStatus
from aiomodelcache.observe.stats import logger

PUBLISH_INTERVAL: Final = 2.0
"""Seconds between two publications of one process."""
PUBLISHED_TTL: Final = 10.0
"""Seconds for which published counters are kept. A process that publishes nothing for so long is taken to be gone."""
MAX_WORKERS: Final = 256
"""Maximum number of processes that publish in one namespace. Beyond it, further ones do not, and log a warning."""
in_background: Final = ContextVar("aiomodelcache_publishing", default=False)
"""True in the task that publishes again and again. Tests do not count its requests, which come at any time."""
_GUARD: Final = bytes(FINGERPRINT_SIZE + TOKEN_SIZE)


def published_keys(namespace: str) -> list[bytes]:
    """Returns the keys that hold the counters of workers."""
    beginning = key_prefix(namespace, "f")
    return [b"%b%d" % (beginning, number) for number in range(MAX_WORKERS)]


class StatsPublisher:
    """The counters of one open cache, published while it runs, and those of the others."""

    def __init__(
        self,
        guarded: GuardedBackend,
        namespace: str,
        undelivered_keys: Callable[[], int],
        relays: Callable[[], Iterable[RelayStatus]] = tuple,
    ) -> None:
        self._guarded = guarded
        self._keys = published_keys(namespace)
        self._undelivered_keys = undelivered_keys
        self._relays = relays
        self._worker = Worker.here(process_mark().hex())
        self._token = new_token()
        self._key = b""
        """The key that this process publishes under. Empty before the first publication."""
        self._expected = b""
        """The state and token that the key holds by now."""
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._warned = False

    def worker(self) -> Worker:
        """Returns this process with a copy of its present counters."""
        guarded = self._guarded
        writes = guarded.recent_writes.copy()  # in one step, because writers run in several threads
        return self._worker.at(
            guarded.stats,
            breaker_open=guarded.failing,
            undelivered_keys=self._undelivered_keys(),
            relays=self._relays(),
            writes=writes,
        )

    async def fleet(self) -> Fleet:
        """Returns all processes that publish. Publishes this one first, if it does.

        So no process can return lower counters of this one later.
        """
        try:
            own = await self.publish() if self._task is not None else self.worker()
            entries = await self._read()
        except BackendError:
            return Fleet(self.worker(), complete=False)
        found = {worker.name: worker for entry in entries if (worker := _decoded(entry)) is not None}
        found.pop(own.name, None)
        return Fleet(own, tuple(found[name] for name in sorted(found)))

    async def publish(self) -> Worker:
        """Stores the counters of this process, and returns them. Raises ``BackendError``."""
        async with self._lock:  # the counters of a later publication must not be replaced by those of an earlier one
            worker = self.worker()
            if not self._key or not await self._fill(worker):
                await self._find_key()
                if self._key:
                    await self._fill(worker)
            return worker

    def start(self) -> None:
        """Publishes from now on, in a task of its own. Idempotent."""
        if self._task is None and not self._closed:
            self._task = asyncio.Task(self._run(), loop=asyncio.get_running_loop(), context=Context())

    async def close(self) -> None:
        """Ends the publications, and removes the counters from the store if that answers."""
        task, self._task, self._closed = self._task, None, True
        if task is None:
            return
        task.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.wait([task])
            if self._key and not self._guarded.failing:
                with suppress(BackendError):
                    await self._guarded.call(self._guarded.backend.fill([Fill(self._key, self._expected, b"", 1)]), 1)

    async def _run(self) -> None:
        in_background.set(True)  # the task has a context of its own
        while True:
            with suppress(BackendError):  # counted and logged
                await self.publish()
            await asyncio.sleep(PUBLISH_INTERVAL)

    async def _fill(self, worker: Worker) -> bool:
        entry = pack_entry(VALUE, self._token, _GUARD, int(self._worker.started * 1000), encode_worker(worker))
        fill = Fill(self._key, self._expected, entry, int(PUBLISHED_TTL * 1000))
        [stored] = await self._guarded.call(self._guarded.backend.fill([fill]), 1)
        if stored:
            self._expected = entry[:PREFIX_SIZE]
        else:
            self._key = b""
        return stored

    async def _find_key(self) -> None:
        """Finds the key that this process holds already, or leases a free one."""
        values = await self._read()
        for key, value in zip(self._keys, values, strict=True):
            if value is not None and value[1:PREFIX_SIZE] == self._token:  # an answer was lost
                self._key, self._expected = key, value[:PREFIX_SIZE]
                return
        free = [key for key, value in zip(self._keys, values, strict=True) if value is None]
        random.shuffle(free)
        for key in free[:3]:
            lease = self._guarded.backend.lease([Lease(key)], self._token, int(PUBLISHED_TTL * 1000))
            if (await self._guarded.call(lease, 1)).values == [LEASE + self._token]:
                self._key, self._expected = key, LEASE + self._token
                return
        if not free and not self._warned:
            self._warned = True
            logger.warning("aiomodelcache: counters are not published, because %d processes do already", MAX_WORKERS)

    async def _read(self) -> list[bytes | None]:
        return await self._guarded.read(self._keys)


def _decoded(entry: bytes | None) -> Worker | None:
    if entry is None or entry[:1] != VALUE:
        return None
    try:
        return decode_worker(unpack_entry(entry))
    except DamagedEntry:
        return None
