"""The writing half of the consistency protocol: mark before COMMIT, clear after it.

``Writer`` sends intents, keeps those that cannot be sent, and delivers them when the store is back. ``write`` decides
which keys a write affects.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar

import anyio

from aiomodelcache.backends.breaker import GuardedBackend
from aiomodelcache.backends.protocol import NOTHING_ALLOWED, Clear, ReplacedEntry
from aiomodelcache.backends.replication import Unreplicated
from aiomodelcache.config import CacheConfig
from aiomodelcache.engine.background import BackgroundPlans
from aiomodelcache.engine.intent import Intent, Versioned
from aiomodelcache.engine.own_loop import OwnLoop, has_running_loop
from aiomodelcache.engine.saves import RowSaves
from aiomodelcache.engine.tasks import BackgroundTasks
from aiomodelcache.engine.undelivered import UndeliveredIntents
from aiomodelcache.entries.predictions import Predictions
from aiomodelcache.exceptions import BackendError, CacheWriteError
from aiomodelcache.observe.events import Stage, Write
from aiomodelcache.observe.stats import logger
from aiomodelcache.scopes.request import current_scope

T = TypeVar("T")


class Writer:
    """The writes of one open cache, announced to the store.

    Writes of any thread come here. Only the event loop that opened the cache sends requests.
    """

    def __init__(
        self,
        guarded: GuardedBackend,
        config: CacheConfig,
        tasks: BackgroundTasks,
        background: BackgroundPlans,
        predictions: Predictions,
    ) -> None:
        self._background = background
        self._predictions = predictions
        self._guarded = guarded
        self._config = config
        # Seconds after which an intent expires. The COMMIT may come at the end of `intent_ttl`. A reader may have asked
        # the database just before, and then lease the rows that it found: it does so within its `fill_ttl`. A writer
        # may die right after its COMMIT, before the replicas have the write: the intent must outlast their lag, too.
        self._expiry = config.intent_ttl + config.fill_ttl + (config.replica_lag or 0)
        self._tasks = tasks
        self._own_loop = OwnLoop()
        self._undelivered = UndeliveredIntents(guarded, config.undelivered_limit)
        self._closing = False
        self._closed = False
        self._open_intents: set[Intent] = set()
        """The intents of transactions in progress that have not been marked yet."""

    @property
    def busy(self) -> bool:
        """True if an intent is not delivered yet, or belongs to a transaction in progress."""
        return bool(self._undelivered or self._open_intents)

    @property
    def undelivered_keys(self) -> int:
        """The number of keys whose invalidation is kept for later."""
        return self._undelivered.keys

    def new_transaction_intent(self) -> Intent:
        """Returns an intent for a transaction's writes, which ``mark`` announces right before COMMIT."""
        intent = Intent()
        self._open_intents.add(intent)
        return intent

    async def mark(self, intent: Intent) -> None:
        """Marks the intent's keys. Afterwards no reader uses or fills their entries.

        If the cache cannot be reached: raises ``CacheWriteError`` with ``on_write_error="raise"``, else returns, and
        ``finish`` will keep the keys.
        """
        async with intent.lock:
            while keys := intent.clears.keys() - intent.marked:  # more may be added in the meantime
                intent.marked |= keys
                try:
                    mark = self._mark(intent, keys, intent.allowed, intent.saves, before_commit=True)
                    intent.replaced.update(await mark)
                except BackendError as error:
                    if not isinstance(error, Unreplicated):
                        intent.marked -= keys  # marks that arrived in spite of the error expire
                    if self._config.on_write_error == "raise":
                        raise CacheWriteError(
                            "The write was refused, because its invalidation could not be sent to the cache: "
                            f"{str(error).rstrip('.')}. "
                            'Use on_write_error="retry" to let writes go through while the cache is unreachable.'
                        ) from error
                    return
                self._notify("announced", intent)

    def finish(self, intent: Intent, *, committed: bool) -> asyncio.Future[None] | None:
        """Starts to withdraw the intent, now that the outcome of the write is known.

        Returns a future to wait for, or None if nothing is sent. Cancelling the waiter does not end the work.
        """
        self._open_intents.discard(intent)
        intent.drop()
        if self._closed or not (intent.clears if committed else intent.marked):
            return None  # marks that a closed cache has left expire
        if self._guarded.observers is not None:
            intent.context = copy_context()
        withdraw = self._withdraw(intent) if committed else self._withdraw_unwritten(intent)
        return self._tasks.start_shielded(withdraw) if self._own_loop.is_here else asyncio.shield(withdraw)

    async def _withdraw(self, intent: Intent) -> None:
        try:
            await self.deliver(intent)
        except (BackendError, asyncio.CancelledError):  # if cancelled, the cache is closing and tries once more
            self._keep_undelivered(intent)

    async def deliver(self, intent: Intent) -> None:
        """Clears the keys of writes that are committed. Raises ``BackendError`` if the store did not take all."""
        await self._clear(intent)
        self._notify("cleared", intent)
        self._own_loop.call(partial(self._refill, intent))

    def _refill(self, intent: Intent) -> None:
        if not self._closing:
            for key, (look_up, counters) in intent.refills.items():
                if key in intent.clears and key not in intent.stored:  # outside of any tenant no key is
                    counters.reset += 1
                    self._background.start(look_up(self._predictions), counters)

    async def _withdraw_unwritten(self, intent: Intent) -> None:
        async with intent.lock:  # a mark may still be in flight
            intent.clears = {key: Clear(key) for key in intent.marked}
            intent.replaced.clear()
            intent.saves = None
            try:
                await self._clear(intent, linger=False)
            except BackendError:
                return  # nothing was written, and the marks expire

    def abandon(self, intent: Intent) -> None:
        """Leaves the intent to expire, because it is not known whether the write was or will be committed.

        Marks it once more, so that its expiry counts from now, and in case the mark was lost.
        """
        self._open_intents.discard(intent)
        intent.drop()
        intent.unknown = True
        if not intent.clears:
            return
        self._guarded.stats.unknown_outcomes += 1
        self._notify("unknown", intent)
        logger.warning(
            "aiomodelcache: not known whether a write was committed; its %d keys stay uncached for %g s",
            len(intent.clears),
            self._expiry,
        )
        if not has_running_loop():
            return  # the program ended during the write
        if intent.clears.keys() - intent.marked:
            self._keep_undelivered(intent)
        else:
            self._own_loop.call(lambda: self._tasks.start(self._mark_again(intent)))

    async def _mark_again(self, intent: Intent) -> None:
        try:
            await self._mark(intent, intent.clears)
        except (BackendError, asyncio.CancelledError):
            self._keep_undelivered(intent)

    async def clear_models(self, models: Iterable[Versioned]) -> None:
        """Gives the models a new epoch, so that none of their entries is used. Raises ``BackendError``."""
        intent = Intent()
        for rows in models:
            intent.add_model(rows)
        if intent.clears:
            intent.drop_from(current_scope())
            try:
                await self._mark(intent, intent.clears)
                await self._clear(intent)
                self._guarded.recent_writes.append(intent.as_recent("cleared"))
            except asyncio.CancelledError:  # the mark may have arrived, and would leave the models uncached
                self._tasks.start(self._withdraw(intent))
                raise
            finally:
                intent.drop()

    async def _mark(
        self,
        intent: Intent,
        keys: Iterable[bytes],
        allow: Mapping[bytes, int] = NOTHING_ALLOWED,
        saves: RowSaves | None = None,
        *,
        before_commit: bool = False,
    ) -> dict[bytes, ReplacedEntry]:
        if not self._own_loop.is_here:
            request = partial(self._mark, intent, keys, allow, saves, before_commit=before_commit)
            return await self._in_own_loop(request)
        marked, expiry_ms = list(keys), int(self._expiry * 1000)
        try:
            if saves is not None:
                return await saves.mark(self._guarded, marked, intent.token, expiry_ms, allow, intent.context)
            mark = self._guarded.backend.mark(marked, intent.token, expiry_ms, allow)
            return await self._guarded.call(mark, len(marked), context=intent.context)
        except Unreplicated:
            if before_commit and self._config.on_write_error == "raise":
                raise
            return {}  # the server has the marks
        finally:
            self.drop_near(keys)  # without waiting for the server's invalidation of this process's own write

    async def _clear(self, intent: Intent, *, linger: bool = True) -> None:
        if not self._own_loop.is_here:
            await self._in_own_loop(partial(self._clear, intent, linger=linger))
            return
        lag = self._config.replica_lag if linger else None
        lingering = intent.row_keys() if lag is not None else set[bytes]()
        clears = [clear for clear in intent.final_clears() if clear.key not in lingering]
        try:
            stamps = list(intent.stamps)
            saves, intent.saves = intent.saves, None  # another attempt stores nothing
            if saves is not None:
                ttl = self._config.fill_ttl
                intent.stored = await saves.clear(self._guarded, clears, intent.token, stamps, ttl, intent.context)
            else:
                clear = self._guarded.backend.clear(clears, intent.token, stamps)
                await self._guarded.call(clear, len(clears), context=intent.context)
        finally:
            self.drop_near(intent.clears)  # again, because the mark may not have arrived
        if lag is not None and lingering:
            # These marks expire when every replica has the write.
            mark = self._guarded.backend.mark(list(lingering), intent.token, int(lag * 1000))
            with suppress(Unreplicated):
                await self._guarded.call(mark, len(lingering), context=intent.context)

    async def _in_own_loop(self, request: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Sends a request in the cache's event loop, from another one. Raises ``BackendError`` if that is blocked."""
        if self._guarded.has_undelivered:  # the loop may be blocked: only the first writer waits for it
            raise BackendError("Earlier invalidations are not delivered yet.")
        return await self._own_loop.run(request)

    def drop_near(self, keys: Iterable[bytes]) -> None:
        near = self._guarded.near
        if near.wanted:
            near.drop(keys)

    def _notify(self, stage: Stage, intent: Intent) -> None:
        if stage != "announced":
            self._guarded.recent_writes.append(intent.as_recent(stage))
        observers = self._guarded.observers
        if observers is not None:
            observers.note(Write(stage=stage, keys=len(intent.clears), caches=intent.caches), intent.context)

    # Undelivered intents -----------------------------------------------------------------------------

    def _keep_undelivered(self, intent: Intent) -> None:
        """Keeps an invalidation until the cache is reachable. Until then nothing is read that it concerns."""
        intent.saves = None
        intent.replaced.clear()  # the time of delivery is unknown, and so is what the keys hold then
        starts = self._undelivered.keep(intent)
        self._notify("undelivered", intent)
        logger.warning(
            "aiomodelcache: an invalidation of %d keys could not be delivered and is kept; "
            "reads bypass the cache until all are delivered",
            len(intent.clears),
        )
        if starts and not self._closing:
            self._own_loop.call(lambda: self._tasks.start(self._deliver()))

    async def _deliver(self) -> None:
        delay = min(0.05, self._config.breaker_cooldown)
        while self._undelivered.delivering and not self._closing:
            await asyncio.sleep(delay)
            delay = min(delay * 2, self._config.breaker_cooldown)
            await self._try_to_deliver()

    async def _try_to_deliver(self) -> None:
        try:
            delivered = await self._undelivered.deliver(self._send_again)
        except BackendError:
            return
        if delivered:
            logger.warning("aiomodelcache: all invalidations are delivered; the cache is read again")

    async def _send_again(self, intent: Intent) -> None:
        if intent.unknown:
            await self._mark(intent, intent.clears)
        else:
            await self._clear(intent)
        self._notify("delivered", intent)

    def stop(self) -> None:
        """Ends the repeated deliveries of undelivered intents. ``close`` makes the last attempt."""
        self._closing = True

    async def close(self) -> None:
        """Delivers the undelivered intents in one last attempt.

        Logs an error about those that are lost with the process.

        Transactions in progress will COMMIT without this cache. Their keys so far are marked now, so that they are not
        cached until the marks expire. A cancelled AnyIO scope around ``close`` does not interrupt it.
        """
        self.stop()
        unmarked = {intent for intent in list(self._open_intents) if intent.clears.keys() - intent.marked}
        try:
            with anyio.CancelScope(shield=True):
                if self._undelivered:
                    await self._try_to_deliver()
                for intent in list(unmarked):
                    keys = intent.clears.keys() - intent.marked
                    intent.marked |= keys
                    with suppress(BackendError):
                        await self._mark(intent, keys)
                        unmarked.discard(intent)
        finally:
            self._closed = True
            if lost := len(self._undelivered) + len(unmarked):
                logger.error(
                    "aiomodelcache: closed with %d invalidations undelivered; entries of these rows may be stale "
                    "until they expire",
                    lost,
                )
