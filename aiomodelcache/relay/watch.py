"""The relays that live, as an open cache knows: it asks the store when it opens, and then again and again.

Must not know what relays do. ``engine.relayed`` counts the lives down, and says which entries depend on them.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from contextvars import Context
from typing import Final, cast

import anyio

from aiomodelcache.backends.protocol import SupportsClaims
from aiomodelcache.encoding.messages import safe_reason
from aiomodelcache.encoding.partitions import partitions_of
from aiomodelcache.engine.publishing import in_background
from aiomodelcache.engine.relayed import Relayed, UnwatchedRelayed
from aiomodelcache.exceptions import BackendError, CacheConfigurationError
from aiomodelcache.observe.relay_status import RelayStatus
from aiomodelcache.observe.stats import logger
from aiomodelcache.open_cache import OpenCache
from aiomodelcache.relay.captured import CapturedTable, captured_tables
from aiomodelcache.relay.liveness import liveness_keys
from aiomodelcache.relay.source import source_of

ASKED_IN_A_LIFE: Final = 4
"""Number of times that the store is asked in ``relay_lag``."""
MIN_INTERVAL: Final = 0.05
"""Minimum seconds between two questions. With a shorter ``relay_lag``, entries are believed for a part of the time."""
MAX_INTERVAL: Final = 1.0
"""Maximum seconds between two questions while a relay is lost."""
BACKLOG_INTERVAL: Final = 60.0
"""Seconds for which a relay is lost until what waits for it is trimmed, and from then on between two checks."""
BACKLOG_DEADLINE: Final = 5.0
"""Maximum seconds of one such check, during which a relay that has come back is not noticed. The next one goes on."""
FIRST_CLAIM_LIMIT: Final = 2.0
"""Maximum seconds that opening waits for the first claim of a relay of its own. Beyond it, the cache opens without."""


class RelayWatch:
    """The relays of one open cache, as far as this process knows."""

    def __init__(self, opened: OpenCache) -> None:
        """Raises ``CacheConfigurationError`` if the backend has no claims."""
        tables = captured_tables(opened)
        self._opened = opened
        self._guarded = guarded = opened.guarded
        if not hasattr(guarded.backend, "remaining"):
            models = [model.__name__ for each in tables.values() for table in each for model in table.models]
            raise CacheConfigurationError(
                f"CacheMeta.relay of {', '.join(models)} needs a backend with clock, claim and remaining, which "
                f"{guarded.backend!r} has not: add them, or remove relay."
            )
        self.keys = liveness_keys(opened)
        """The key that lives while a relay of each connection does."""
        self.relayed = Relayed(
            *_dependents(opened, tables),
            opened.stats,
            serves=opened.config.on_relay_loss == "serve",
            on_return=guarded.near.drop_all,
        )
        self._captured = tables
        self._tables = {(table.connection, table.name) for each in tables.values() for table in each}
        self._interval = max(MIN_INTERVAL, opened.config.relay_lag / ASKED_IN_A_LIFE)
        self._task: asyncio.Task[None] | None = None
        opened.reader.require_relay(self.relayed)

    def cover(self, view: OpenCache, *, connected: bool) -> None:
        """Believes the entries of a view only while a relay lives. ``connected``: the view is of one named connection.

        If that is not the models' own, no relay watches it, so entries of relayed models on it never answer.
        """
        tables = captured_tables(view) if connected else {}
        if all((table.connection, table.name) in self._tables for each in tables.values() for table in each):
            view.reader.require_relay(self.relayed)
            return
        view.reader.require_relay(UnwatchedRelayed(*_dependents(view, tables), view.stats, serves=self.relayed.serves))

    async def ask(self, *, report: bool = True) -> None:
        """Asks how long the relays live. If that fails, it is counted and logged, and the countdowns go on."""
        relayed, backend = self.relayed, cast("SupportsClaims", self._guarded.backend)
        asked = relayed.clock()
        with suppress(BackendError):
            remaining = await self._guarded.call(backend.remaining([*self.keys.values()]), len(self.keys))
            relayed.learn(asked, dict(zip(self.keys, remaining, strict=True)))
        if report:
            relayed.report()

    async def start(self, own: Sequence[RelayStatus] = ()) -> None:
        """Asks at once, and from now on in a task of its own.

        ``own``: the relays that this process has just started. Waits until they or others have claimed, if they do not
        fail, for at most ``FIRST_CLAIM_LIMIT`` seconds.
        """
        with anyio.move_on_after(FIRST_CLAIM_LIMIT):
            await self.ask(report=False)
            while self.relayed.lost_connections() & {each.connection for each in own if each.failing is None}:
                await asyncio.sleep(MIN_INTERVAL)
                await self.ask(report=False)
        self.relayed.report()
        self._task = asyncio.Task(self._run(), loop=asyncio.get_running_loop(), context=Context())

    async def close(self) -> None:
        """Ends the task. Idempotent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.wait([task])

    async def _run(self) -> None:
        in_background.set(True)  # the task has a context of its own
        relayed, loop = self.relayed, asyncio.get_running_loop()
        limited = loop.time()
        while True:
            lost = relayed.expired(relayed.claims)
            if not lost:
                limited = loop.time()
            elif loop.time() >= limited + BACKLOG_INTERVAL:
                await self._limit_backlog()
                limited = loop.time()
            await asyncio.sleep(min(self._interval, MAX_INTERVAL) if lost else self._interval)
            await self.ask()

    async def _limit_backlog(self) -> None:
        """Frees what databases keep for relays that are lost, if it is too much. Needs the rights of a relay."""
        lost = self.relayed.lost_connections()
        for schema in self._opened.connections:
            if schema.connection in lost:
                source = source_of(schema.client, self._captured[schema.connection], self._opened)
                try:
                    with anyio.fail_after(BACKLOG_DEADLINE):
                        try:
                            await source.limit_backlog()
                        finally:
                            await source.close()
                except Exception as error:  # the server is away or too slow, or nothing is installed
                    logger.debug(
                        "aiomodelcache: the backlog of %s is not limited: %s", schema.connection, safe_reason(error)
                    )


def _dependents(
    opened: OpenCache, tables: Mapping[str, Iterable[CapturedTable]]
) -> tuple[list[str], dict[bytes, frozenset[str]], list[tuple[bytes, str]]]:
    """Returns the connections, the keys that are about captured tables, and the beginnings of others that are."""
    keys: dict[bytes, frozenset[str]] = {}
    beginnings: list[tuple[bytes, str]] = []
    for connection, captured in tables.items():
        for table in captured:
            version = opened.space.table_key(connection, table.name)
            epochs = partitions_of(opened.space, connection, table.name).epochs
            for key in (*epochs, version):  # tenants share them
                keys[key] = keys.get(key, frozenset()) | {connection}
            beginnings.append((version + b":", connection))  # the narrow version, and those of groups
        names = {table.name for table in captured}
        beginnings += [
            (through.prefix, connection)
            for through in opened.many_to_many
            if through.owner.connection == connection and through.relation.table in names
        ]
    return [*tables], keys, beginnings
