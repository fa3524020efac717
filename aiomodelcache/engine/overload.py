"""Lookups that wait for the database too long, and the statements of ad-hoc queries, each of which waits by itself.

Only a statement is admitted, and it waits for nothing but the database. So a computation never waits for a statement
that its own parent holds back. Must not know plans.
"""

from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any

from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache.backends.breaker import GuardedBackend
from aiomodelcache.config import CacheConfig
from aiomodelcache.engine.admission import Admission, Admissions, Sample
from aiomodelcache.exceptions import DatabaseOverloaded
from aiomodelcache.observe.events import Overload
from aiomodelcache.observe.stats import Counters
from aiomodelcache.scopes.tracking import Tracker


class Overloads:
    """The statements of one open cache that the database must admit, and those that have waited too long."""

    def __init__(self, guarded: GuardedBackend, config: CacheConfig, admissions: Admissions[Any]) -> None:
        self._guarded = guarded
        self._config = config
        self._admissions = admissions

    def refusal(self, admission: Admission[Any], name: str, counters: Counters, number: int) -> str | None:
        """Tells of lookups that have waited too long. Returns the text of their error, or None if they go on."""
        connection, wait, limit = admission.connection, self._config.load_wait, admission.limit
        if self._guarded.observers is not None:
            self._guarded.observers.note(Overload(connection=connection, lookups=number, limit=limit or 0))
        text = "aiomodelcache: lookups of %s have waited %g s for a statement on %s"
        counters.warn_once("overloaded", text, name, wait, connection)
        if self._config.on_overload == "proceed":
            return None
        return (
            f"{name}: this lookup has waited {wait:g} s for one of {limit} statements in flight on the connection "
            f"{connection!r}: the database is overloaded. Set load_wait to wait longer, or "
            'on_overload="proceed" to query it all the same.'
        )

    async def send(
        self,
        name: str,
        counters: Counters,
        tracker: Tracker,
        client: BaseDBAsyncClient,
        sql: str,
        send: Callable[[], Awaitable[Any]],
    ) -> Any:
        """Sends a statement of a tracked query when the database admits it. Raises ``DatabaseOverloaded``.

        A query that has begun goes before those that have not. After a wait, it reads versions of tables anew. With
        older ones, its answer would never be used if one of the tables was written meanwhile.
        """
        waits = self._admissions.admission_to(client).saturated
        admission = await self._enter(name, counters, client, first=bool(tracker.statements))
        sample: Sample | None = None
        try:
            if waits:
                tracker.versions.clear()
            await tracker.before_statement(tracker, client, sql)
            in_flight, started = admission.in_flight, perf_counter()
            answer = await send()
            rows = answer[-1] if answer.__class__ is tuple else answer
            sample = hash(sql), max(1, len(rows)), perf_counter() - started, in_flight
            return answer
        finally:
            admission.leave(sample)

    async def compute(
        self,
        name: str,
        counters: Counters,
        own_client: BaseDBAsyncClient,
        compute: Callable[[BaseDBAsyncClient | None], Awaitable[Any]],
        client: BaseDBAsyncClient | None,
    ) -> Any:
        """Computes when the database admits it: a function that sends one statement at a time and awaits nothing else.

        In a transaction, which has the connection ``client``, it waits for nothing. Raises ``DatabaseOverloaded``.
        """
        if client is not None:
            return await compute(client)
        admission = await self._enter(name, counters, own_client)
        try:
            return await compute(None)
        finally:
            admission.leave()

    async def _enter(
        self, name: str, counters: Counters, client: BaseDBAsyncClient, *, first: bool = False
    ) -> Admission[Any]:
        admission = self._admissions.admission_to(client)
        if not await admission.enter(object(), [None], lambda _: None, first=first):
            refusal = self.refusal(admission, name, counters, 1)
            if refusal is not None:
                raise DatabaseOverloaded(refusal)
            admission.in_flight += 1
        return admission
