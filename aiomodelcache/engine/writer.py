"""The writing half of the consistency protocol: mark before COMMIT, clear after it.

``Writer`` sends intents, keeps those that cannot be sent, and delivers them when the store is back. ``write`` decides
which keys a write affects.
"""

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress

import anyio

from aiomodelcache.backends.breaker import GuardedBackend
from aiomodelcache.backends.protocol import NOTHING_ALLOWED, Clear, Kept
from aiomodelcache.config import CacheConfig
from aiomodelcache.engine.background import BackgroundPlans
from aiomodelcache.engine.intent import Intent, Versioned
from aiomodelcache.engine.tasks import BackgroundTasks
from aiomodelcache.entries.predictions import Predictions
from aiomodelcache.exceptions import BackendError, CacheWriteError
from aiomodelcache.observe.stats import logger
from aiomodelcache.scopes.request import current_scope


class Writer:
    """Announces the writes of one open cache."""

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
        self._tasks = tasks
        self._kept: list[Intent] = []
        self._keys_kept = 0
        self._delivering = False
        self._closing = False
        self._closed = False
        self._gathering: set[Intent] = set()
        """The intents of transactions under way, of which nobody was told yet."""

    def new_transaction_intent(self) -> Intent:
        """Returns an intent for a transaction's writes, which ``mark`` announces right before COMMIT."""
        intent = Intent()
        self._gathering.add(intent)
        return intent

    async def mark(self, intent: Intent) -> None:
        """Marks the intent's keys; afterwards no reader trusts or fills them.

        If the cache cannot be reached: raises ``CacheWriteError`` with ``on_write_error="raise"``, else
        returns, and ``finish`` will keep the keys.
        """
        async with intent.lock:
            while keys := intent.clears.keys() - intent.marked:  # more may be added meanwhile
                intent.marked |= keys
                try:
                    intent.kept.update(await self._mark(intent, keys, intent.allowed))
                except BackendError as error:
                    intent.marked -= keys  # those that arrived after all expire
                    if self._config.on_write_error == "raise":
                        raise CacheWriteError(
                            f"The write was refused, because the cache could not be told of it: {error} "
                            'Use on_write_error="retry" to let writes go through while the cache is away.'
                        ) from error
                    return

    def finish(self, intent: Intent, *, committed: bool) -> asyncio.Future[None] | None:
        """Starts to withdraw the intent, now that it is known how the write ended.

        Returns what to wait for, if anything; cancelling whoever waits does not end it.
        """
        self._gathering.discard(intent)
        intent.drop()
        if self._closed:
            return None  # what was marked expires
        if committed:
            return self._tasks.begin(self._settle(intent)) if intent.clears else None
        return self._tasks.begin(self._take_back(intent)) if intent.marked else None

    async def _settle(self, intent: Intent) -> None:
        try:
            await self._clear(intent)
        except (BackendError, asyncio.CancelledError):  # cancelled: the cache is closing and will try once more
            self._keep(intent)
        else:
            if not self._closing:
                for look_up, counters in intent.refills.values():
                    counters.reset += 1
                    self._background.start(look_up(self._predictions), counters)

    async def _take_back(self, intent: Intent) -> None:
        async with intent.lock:  # a mark may still be on its way
            intent.clears = {key: Clear(key) for key in intent.marked}
            intent.kept.clear()
            try:
                await self._clear(intent, linger=False)
            except BackendError:
                return  # nothing was written; what was marked expires

    def abandon(self, intent: Intent) -> None:
        """Leaves the intent to expire: it is not known whether the write was committed, or will be.

        It is marked once more, so that its time begins now, and in case it was lost meanwhile.
        """
        self._gathering.discard(intent)
        intent.drop()
        intent.unknown = True
        if not intent.clears:
            return
        self._guarded.stats.unknown_outcomes += 1
        logger.warning(
            "aiomodelcache: not known whether a write was committed; its %d keys stay uncached for %g s",
            len(intent.clears),
            self._config.intent_ttl,
        )
        if not _in_a_loop():
            return  # the program has ended in the middle of the write
        if intent.clears.keys() - intent.marked:
            self._keep(intent)
        else:
            self._tasks.start(self._renew(intent))

    async def _renew(self, intent: Intent) -> None:
        try:
            await self._mark(intent, intent.clears)
        except (BackendError, asyncio.CancelledError):
            self._keep(intent)

    async def clear_models(self, models: Iterable[Versioned]) -> None:
        """Gives the models a new epoch, so that no entry of theirs is believed. Raises ``BackendError``."""
        intent = Intent()
        for rows in models:
            intent.add_model(rows)
        if intent.clears:
            intent.drop_from(current_scope())
            try:
                await self._mark(intent, intent.clears)
                await self._clear(intent)
            except asyncio.CancelledError:  # the mark may have arrived, and would keep the models uncached
                self._tasks.start(self._settle(intent))
                raise
            finally:
                intent.drop()

    async def _mark(
        self, intent: Intent, keys: Iterable[bytes], allow: Mapping[bytes, int] = NOTHING_ALLOWED
    ) -> dict[bytes, Kept]:
        # Of a writer that vanishes right after its COMMIT the replicas do not know yet, either.
        ttl_ms = int((self._config.intent_ttl + (self._config.replica_lag or 0)) * 1000)
        try:
            return await self._guarded.call(self._guarded.backend.mark(list(keys), intent.token, ttl_ms, allow))
        finally:
            self._drop_near(keys)  # this process does not wait to be told what it did itself

    async def _clear(self, intent: Intent, *, linger: bool = True) -> None:
        lag = self._config.replica_lag if linger else None
        lingering = intent.row_keys() if lag is not None else set[bytes]()
        clears = [clear for clear in intent.leaving() if clear.key not in lingering]
        try:
            await self._guarded.call(self._guarded.backend.clear(clears, intent.token, list(intent.rows)))
        finally:
            self._drop_near(intent.clears)  # of a mark that did not arrive nothing was dropped in time
        if lag is not None and lingering:
            # They expire by themselves, when every replica has the write.
            await self._guarded.call(self._guarded.backend.mark(list(lingering), intent.token, int(lag * 1000)))

    def _drop_near(self, keys: Iterable[bytes]) -> None:
        near = self._guarded.near
        if near.wanted:
            near.drop(keys)

    # What could not be delivered ---------------------------------------------------------------------

    def _keep(self, intent: Intent) -> None:
        """Keeps an invalidation until the cache is back. Until then this process reads nothing from it."""
        self._guarded.has_undelivered = True
        self._guarded.stats.undelivered += 1
        logger.warning(
            "aiomodelcache: an invalidation of %d keys could not be delivered and is kept; "
            "reads bypass the cache until all are delivered",
            len(intent.clears),
        )
        intent.kept.clear()  # nobody can say when it will be delivered, or what it finds then
        self._kept.append(intent)
        self._keys_kept += len(intent.clears)
        if self._keys_kept > self._config.undelivered_limit:
            self._keep_models_only()
        if not self._delivering and not self._closing:
            self._delivering = True
            self._tasks.start(self._deliver())

    def _keep_models_only(self) -> None:
        whole = Intent()
        whole.unknown = any(kept.unknown for kept in self._kept)
        for rows in {rows.epoch_key: rows for kept in self._kept for rows in kept.rows.values()}.values():
            whole.add_model(rows)
        self._kept = [whole]
        self._keys_kept = len(whole.clears)

    async def _deliver(self) -> None:
        pause = min(0.05, self._config.breaker_cooldown)
        while self._kept and not self._closing:
            await asyncio.sleep(pause)
            pause = min(pause * 2, self._config.breaker_cooldown)
            await self._try_to_deliver()
        self._delivering = False

    async def _try_to_deliver(self) -> None:
        try:
            while self._kept:
                intent = self._kept[0]
                if intent.unknown:
                    await self._mark(intent, intent.clears)
                else:
                    await self._clear(intent)
                if self._kept and self._kept[0] is intent:  # else what is kept has become models only
                    self._keys_kept -= len(self._kept.pop(0).clears)
        except BackendError:
            return
        self._guarded.has_undelivered = False
        logger.warning("aiomodelcache: all invalidations are delivered; the cache is read again")

    def stop(self) -> None:
        """Ends the repeated deliveries of what was kept; ``close`` makes the last one."""
        self._closing = True

    async def close(self) -> None:
        """Delivers what was kept, in one last try; logs an error about what is lost with the process.

        Transactions under way will COMMIT without this cache: what they wrote so far is marked now, so that
        it is not cached until the marks expire. A cancelled AnyIO scope around it does not interrupt this.
        """
        self.stop()
        unmarked = {intent for intent in self._gathering if intent.clears}
        try:
            with anyio.CancelScope(shield=True):
                if self._kept:
                    await self._try_to_deliver()
                for intent in list(unmarked):
                    with suppress(CacheWriteError):
                        await self.mark(intent)
                    if not intent.clears.keys() - intent.marked:
                        unmarked.discard(intent)
        finally:
            self._closed = True
            self._warn_of_loss(len(self._kept) + len(unmarked))

    def _warn_of_loss(self, lost: int) -> None:
        if lost:
            logger.error(
                "aiomodelcache: closed with %d invalidations undelivered; entries of these rows may be stale "
                "until they expire",
                lost,
            )


def _in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
