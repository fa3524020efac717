"""The relay: drains the changes of other programs, invalidates what they name, and claims that nothing was left out.

The steps of a drain, in this order:

1. ``t0`` is the store's clock.
2. The catalogue is checked.
3. The lines are selected.
4. What they name is invalidated.
5. The lines are deleted, by their ids.
6. If nothing was left out, the claim lives until ``t0`` + ``relay_lag``. Else further drains repeat steps 3 to 5.

No step holds a lock in the database. A relay may end between any two of them, and two relays may drain at once. Between
two claims, drains are steps 3 to 5 alone.
"""

from collections.abc import Awaitable, Callable, Sequence
from time import monotonic, time
from typing import Any, Final, NamedTuple, cast

import anyio

from aiomodelcache.backends.protocol import SupportsClaims
from aiomodelcache.encoding.messages import described, safe_reason
from aiomodelcache.engine.publishing import in_background
from aiomodelcache.exceptions import BackendError, CacheConfigurationError, CacheError, RelayError
from aiomodelcache.observe.relay_status import RelayStatus
from aiomodelcache.observe.stats import logger
from aiomodelcache.open_cache import HasOpenCache, OpenCache
from aiomodelcache.orm.connections import named_client
from aiomodelcache.relay.captured import CapturedTable, captured_tables
from aiomodelcache.relay.election import Election
from aiomodelcache.relay.invalidation import Invalidator
from aiomodelcache.relay.liveness import liveness_keys
from aiomodelcache.relay.ownership import Ownership, name_digest
from aiomodelcache.relay.source import Source, source_of

LINES_PER_DRAIN: Final = 1_000
"""Maximum number of lines of one drain. Beyond it, the next drain follows at once, and nothing is claimed before it."""
MAX_LINES: Final = 50_000
"""Number of lines, one after another, whose values are read. Beyond it, each line invalidates whole models."""
LINES_AT_ONCE: Final = 10_000
"""Maximum number of lines of one drain that reads no values."""
CLAIMS_PER_LAG: Final = 10
"""Claims that are made within ``relay_lag``, so that readers see the end of a relay late, and a new one takes over."""
MIN_BACKOFF: Final = 0.05
MAX_BACKOFF: Final = 2.0
"""Seconds to wait after a failed drain, at first and at most. Each failure doubles it."""
DRAIN_LIMIT: Final = 30.0
"""Maximum seconds of one drain. Beyond it, the relay takes its connection for dead, and tries again."""
CLOSE_LIMIT: Final = 2.0
"""Maximum seconds for closing the source and resigning, and for freeing WAL. Beyond it, the relay goes on without."""
_UNCAPTURED: Final = b"writes were not captured"
CHECKED_TTL: Final = 30 * 24 * 3600 * 1000
"""Milliseconds for which the store keeps what the catalogue was. After it, a relay that starts clears the models."""


class Relay:
    """Invalidates what other programs write to the tables of models with ``relay = True``.

    ``cache`` is an open ``ModelCache``, whose declarations say what to invalidate. Any number of relays may run at
    once, in any processes. One of them drains each connection, and another one takes over when that ends.

    In a program of its own, that is::

        async with ModelCache("redis://localhost:6379/0") as cache:
            await Relay(cache).run()

    Raises ``CacheConfigurationError`` if no model has ``relay = True``, and for anything but a ``ModelCache``.
    """

    def __init__(self, cache: HasOpenCache | OpenCache) -> None:
        if not (isinstance(cache, OpenCache) or hasattr(type(cache), "open_cache")):
            raise CacheConfigurationError(f"Relay: cache is {described(cache)}: it must be a ModelCache.")
        opened = cache if isinstance(cache, OpenCache) else cache.open_cache
        tables = captured_tables(opened)
        if not tables:
            raise CacheConfigurationError(
                "Nothing to relay: set relay = True in the CacheMeta of models whose tables other programs write to."
            )
        keys = liveness_keys(opened)
        self.drains = [Drain(opened, connection, tables[connection], keys[connection]) for connection in tables]
        """The drains, one for each connection."""

    @property
    def statuses(self) -> list[RelayStatus]:
        """The state on each connection, which changes while the relay runs."""
        return [drain.status for drain in self.drains]

    async def health(self) -> dict[str, Any]:
        """Returns the state for operators. ``ok`` is True while all claims live, whichever relay has made them.

        ``claim_left``: the seconds that each has left, or None if the store does not answer.
        """
        connections: list[dict[str, Any]] = []
        for drain in self.drains:
            try:
                left: float | None = await drain.claim_left() / 1000
            except BackendError:
                left = None
            connections.append({**drain.status.data(), "claim_left": left})
        return {"ok": all(each["claim_left"] for each in connections), "connections": connections}

    async def drain(self) -> None:
        """Drains all present lines, whether or not another relay leads, and claims it.

        Raises ``RelayError``, ``BackendError``, and the errors of the database's driver. No line is lost then.
        """
        for drain in self.drains:
            try:
                while not await drain.drain():
                    pass
            finally:
                await drain.close(resign=False)

    async def run(self) -> None:
        """Drains until ``stop`` is called. Failures are logged, and tried again. Cancelling it loses no change."""
        try:
            async with anyio.create_task_group() as tasks:
                for drain in self.drains:
                    tasks.start_soon(drain.run)
        finally:
            for drain in self.drains:
                drain.stopping = False

    def stop(self) -> None:
        """Lets ``run`` return after the drains in progress, or the next ``run`` at once. Then it can run again."""
        for drain in self.drains:
            drain.stop()


class _Claim(NamedTuple):
    """A claim that is due: when it was begun, by three clocks, and the digest of the catalogue."""

    started: float
    """By the monotonic clock. ``began``: by that of the machine. ``t0``: by the store's, in milliseconds."""
    began: float
    t0: int
    checked: bytes


class Drain:
    """The drains of one connection."""

    def __init__(self, cache: OpenCache, connection: str, tables: Sequence[CapturedTable], liveness_key: bytes) -> None:
        self.status = RelayStatus(connection=connection, tables=len(tables))
        self.liveness_key = liveness_key
        self._cache = cache
        self._tables = tables
        self._lag = cache.config.relay_lag
        self._election = Election(cache.guarded, liveness_key, self._lag)
        self._invalidator = Invalidator(cache)
        self._ownership = Ownership(cache.guarded, cache.space, connection, liveness_key)
        self._source: Source | None = None
        self._due: _Claim | None = None
        self._checked: bytes | None = None
        """The digest of what the catalogue was when the last claim was made. None before the first one."""
        self._position: tuple[int, str] | None = None  # of the source, at the last check or deletion
        self._claim_at = 0.0
        """When the next claim is due, by the monotonic clock."""
        self._backlog = 0
        """Number of lines since a drain has left nothing out."""
        self.stopping = False
        self._pause: anyio.CancelScope | None = None

    # The loop --------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Drains until ``stop`` is called."""
        in_background.set(True)  # the task has a context of its own
        backoff = MIN_BACKOFF
        try:
            while not self.stopping:
                try:
                    await self._drain_or_wait()
                except Exception as error:  # of any driver; the lines are still there
                    self._record_failure(error)
                    await self.close(resign=not isinstance(error, RelayError))  # another relay would fail, too
                    await self._limit_backlog()
                    await self._wait(backoff)
                    backoff = min(2 * backoff, MAX_BACKOFF)
                else:
                    backoff = MIN_BACKOFF
        finally:
            with anyio.move_on_after(CLOSE_LIMIT, shield=True):
                await self.close()

    def stop(self) -> None:
        """Lets ``run`` return after the drain in progress."""
        self.stopping = True
        if self._pause is not None:
            self._pause.cancel()

    async def _drain_or_wait(self) -> None:
        """Drains once and waits for more to do; or waits for the end of the relay that leads."""
        self.status.leading = await self._election.lead()
        if not self.status.leading:
            if self._source is not None:
                await self.close(resign=False)  # the relay that leads may need what it holds
            self._record_success()
            self.status.waiting_since = None
            await self._wait(self._election.interval)
            return
        with anyio.fail_after(DRAIN_LIMIT):
            left_nothing_out = await self.drain()
        if self._due is not None and monotonic() > self._due.started + self._lag:
            self._record_failure(RelayError("what was written longer ago than relay_lag is still being drained"))
        if left_nothing_out:
            self._record_success()
            await self._wait(max(0.0, self._claim_at - monotonic()), self.source.wait)

    async def _wait(self, seconds: float, wait: Callable[[float], Awaitable[None]] = anyio.sleep) -> None:
        with anyio.CancelScope() as self._pause:
            if not self.stopping:
                await wait(seconds)

    async def close(self, *, resign: bool = True) -> None:
        """Closes the source, and with ``resign`` lets another relay lead. The next drain opens a source again.

        A failure is logged, because there is nothing to close then.
        """
        source, self._source = self._source, None
        self.claim_at_once()
        self.status.leading = False
        ends = [source.close] if source is not None else []
        for end in [*ends, self._ownership.release, self._election.resign] if resign else ends:
            try:
                await end()
            except Exception as error:  # the server is away
                logger.debug("aiomodelcache: the relay of %s: %s", self.status.connection, safe_reason(error))

    async def _limit_backlog(self) -> None:
        """Frees what the database keeps for this relay, if that is too much. Finds out how long lines have waited."""
        try:
            with anyio.fail_after(CLOSE_LIMIT):
                await self.source.limit_backlog()
                since = await self.source.waiting_since()  # a line that stands for older ones is younger
                self.status.waiting_since = since and min(since, self.status.waiting_since or since)
        except Exception as error:  # the server is away
            logger.debug("aiomodelcache: the relay of %s: %s", self.status.connection, safe_reason(error))

    def _record_failure(self, error: Exception) -> None:
        text = str(error) if isinstance(error, CacheError) else safe_reason(error)
        failing, self.status.failing = self.status.failing, text
        if failing is None:
            self.status.outages += 1
            logger.warning("aiomodelcache: the relay of %s does not drain for now: %s", self.status.connection, text)

    def _record_success(self) -> None:
        failing, self.status.failing = self.status.failing, None
        if failing is not None:
            logger.warning("aiomodelcache: the relay of %s works again", self.status.connection)

    # One drain -------------------------------------------------------------------------------------

    @property
    def source(self) -> Source:
        """The source of changes, made at first use."""
        if self._source is None:
            self._source = source_of(named_client(self.status.connection), self._tables, self._cache)
        return self._source

    async def drain(self) -> bool:
        """Invalidates what was written, and claims it if a claim is due. Returns True if nothing was left out.

        Raises ``BackendError``, ``RelayError``, and the errors of the database's driver. Then no line is lost.
        """
        source, began = self.source, time()
        if self._due is None and monotonic() >= self._claim_at:
            begun = _Claim(monotonic(), began, await self._clock(), await self._check())
            await source.begin()
            self._due = begun
        due = self._due
        whole = self._backlog >= MAX_LINES
        changes = await source.changes(LINES_AT_ONCE if whole else LINES_PER_DRAIN, whole=whole)
        if due is not None:
            await self._ownership.confirm(source)
        self._backlog += len(changes)
        if changes:
            self.status.waiting_since = time() - source.oldest
            await self._invalidator.invalidate(changes)
            await source.delete([change.id for change in changes])
            self._position = source.position
        self.status.drains += 1
        self.status.lines += len(changes)
        self.status.cleared += whole and bool(changes)
        if source.left_out:
            return False
        self._backlog, self.status.waiting_since = 0, None
        if due is not None:
            await self._confirm(due.checked, due.t0)
            await self._ownership.claim(due.t0)
            await self._claim(self.liveness_key, due.t0 + int(self._lag * 1000))
            self._due, self._claim_at = None, due.started + self._lag / CLAIMS_PER_LAG
            self.status.claims += 1
        self.status.last_drain = began if due is None else due.began
        return True

    def claim_at_once(self) -> None:
        """Lets the next drain begin a claim, even if the last claim was made right now."""
        self._due, self._claim_at = None, 0.0

    async def _check(self) -> bytes:
        """Returns a digest of what the catalogue is. Raises ``RelayError`` if writes are not captured."""
        source = self.source
        try:
            checked, former = name_digest(repr(await source.check()).encode()).encode(), b""
            if checked != self._checked or source.owner is None:
                while checked != former:  # two relays may take over at once
                    await self._ownership.require(source)
                    checked, former = name_digest(repr(await source.check()).encode()).encode(), checked
            position, self._position = self._position, source.position
            if position and source.position and (source.position < position or source.position[1] != position[1]):
                self._checked = _UNCAPTURED  # an older copy of the database
            return checked
        except RelayError:
            self._checked = _UNCAPTURED  # whatever the catalogue is next time
            raise

    async def _confirm(self, checked: bytes, t0: int) -> None:
        """Clears the models if the catalogue is not what it was: writes may not have been captured in between.

        The store keeps what it was, so that a relay that starts need not clear them. If an older copy of the database
        would look the same, the relay clears them.
        """
        if checked == self._checked:
            return
        key = self.liveness_key + b":" + checked
        if self._checked is not None or self._position is not None or not (await self._remaining(key)):
            await self._invalidator.invalidate_all(self.source.tables)
            self.status.cleared += 1
        await self._claim(key, t0 + CHECKED_TTL)
        self._checked = checked

    @property
    def _store(self) -> SupportsClaims:
        return cast("SupportsClaims", self._cache.guarded.backend)

    async def claim_left(self) -> int:
        """Returns the milliseconds that the claim has left, whichever relay has made it. Raises ``BackendError``."""
        return await self._remaining(self.liveness_key)

    async def _clock(self) -> int:
        return await self._cache.guarded.call(self._store.clock())

    async def _claim(self, key: bytes, until_ms: int) -> None:
        await self._cache.guarded.call(self._store.claim(key, until_ms), 1)

    async def _remaining(self, key: bytes) -> int:
        return (await self._cache.guarded.call(self._store.remaining([key]), 1))[0]
