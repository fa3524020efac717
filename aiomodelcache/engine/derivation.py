"""Tracked computations: runs a user's function and records what its result is derived from.

Knows trackers, table versions and the store. Must not know how a function was declared, nor where its result is stored.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final

from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache.backends.breaker import GuardedBackend
from aiomodelcache.config import CacheConfig
from aiomodelcache.encoding.layout import is_intent, new_token
from aiomodelcache.engine.overload import Overloads
from aiomodelcache.entries.base import is_version
from aiomodelcache.entries.derived import MANY_DEPENDENCIES, MAX_DEPENDENCIES, DerivedEntries, DerivedValue
from aiomodelcache.entries.versions import TableVersions
from aiomodelcache.exceptions import BackendError, CacheError
from aiomodelcache.orm.sql_tables import UNKNOWN, tables_in
from aiomodelcache.scopes.bypass import BypassFlag
from aiomodelcache.scopes.tracking import WRITES, Tracked, Tracker, reset_tracker, set_tracker

FIRST_VERSION_POLL_DELAY: Final = 0.005
"""Seconds before a table version that a writer has marked is read again."""
MAX_WAITED_FOR: Final = 1_000
"""Maximum number of remembered marks that stayed while they were waited for. Beyond it, all are forgotten."""

_UNATTRIBUTED: Final = (
    "aiomodelcache: %s has read nothing that is recorded, while other tasks used the database, so its result is not "
    "stored: if it depends on nothing in the database, cache it with invalidation=InvalidationType.OFF and a timeout; "
    "else call depends_on(...) with the models that it depends on."
)

_UNRECORDED: Final = (
    "aiomodelcache: %s is never stored, because %s: do that before or after the call, or call depends_on(...) with the "
    "models that its result depends on."
)


class Derivations:
    """The tracked computations of one open cache."""

    def __init__(
        self,
        guarded: GuardedBackend,
        bypass: BypassFlag,
        config: CacheConfig,
        versions: TableVersions,
        activity: Callable[[], int],
        overloads: Overloads,
    ) -> None:
        self._guarded = guarded
        self._bypass = bypass
        self._config = config
        self._versions = versions
        self._overloads = overloads
        self._waited_for: dict[bytes, bytes | None] = {}
        """The marks that did not go away while a computation waited for them, by the versions' keys."""
        self._activity = activity
        """Returns a number that grows with each statement and with each lookup of a cached row."""

    def tracker(self, name: str = "", versions: Iterable[tuple[bytes, bytes]] = ()) -> Tracker:
        """Returns a tracker for one computation. ``versions``: table versions that have just been read."""
        return Tracker(self._guarded, name, self._before_statement, versions)

    async def compute(
        self,
        derived: DerivedEntries,
        function: Callable[[], Awaitable[Any]],
        client: BaseDBAsyncClient | None,
        versions: Iterable[tuple[bytes, bytes]] = (),
    ) -> Any:
        """Runs a function and returns its result as ``Tracked``. In a transaction returns the result alone.

        Writes to the model that a result class is declared for invalidate its results by their keys. So statements do
        not depend on the version of that model's table, and what cannot be recorded is taken to be declared.
        """
        if client is not None:
            return await function()
        tracker, before = Tracker(self._guarded, derived.name, self._before_statement, versions), self._activity()
        if derived.limited:
            tracker.send_admitted = partial(self._overloads.send, derived.name, derived.counters)
        if derived.rows is not None:
            tracker.declared, tracker.exempt = True, derived.rows.table_key
        token = set_tracker(tracker)  # written out, as a block takes three calls
        try:
            if derived.depends_on:
                tracker.declared = True
                await self.depend_on(tracker, derived.depends_on)
            value = await function()
        finally:
            tracker.end()
            reset_tracker(token)
        for key in tracker.pending:
            if key in tracker.versions:
                tracker.add_table(key)
            else:
                tracker.needed |= {key}  # the next computation reads it before it begins
                tracker.refuse("what it depends on was not read before it")
        number = len(tracker.recorded)
        if not number or tracker.unseen is not None:
            self._judge_unseen(derived, tracker, before)
        if tracker.unfinished:
            tracker.refuse("a lookup or a statement that it began failed, or had not ended")
        if tracker.untracked:
            self._report(derived, tracker)
        if number > MANY_DEPENDENCIES:
            number = self._versions.count_without_epochs(tracker.recorded.keys())
            if number > MANY_DEPENDENCIES:
                tracker.needed |= tracker.used
            if number > MAX_DEPENDENCIES:
                self._versions.collapse(tracker, MAX_DEPENDENCIES)
        tables = derived.tables
        if tables is None or not tracker.needed <= tables:
            derived.tables = tracker.needed.union(tables or ())
        return Tracked(value, tracker)

    def _judge_unseen(self, derived: DerivedEntries, tracker: Tracker, before: int) -> None:
        """Refuses a result of reads that could not be recorded, and warns once. ``before``: the former activity."""
        warns = self._config.untracked_reads == "warn" and not (tracker.untracked or tracker.declared)
        if tracker.unseen is WRITES:
            if warns:
                derived.counters.warn_once("unrecorded", _UNRECORDED, derived.name, tracker.unseen)
        elif not tracker.recorded and not tracker.refusal and tracker.unseen is None and self._activity() != before:
            tracker.unrecorded("it was read by a task that began earlier, or not at all")
            if warns:
                derived.counters.warn_once("unattributed", _UNATTRIBUTED, derived.name)
        if tracker.unseen is not None and not tracker.declared:
            tracker.refuse(tracker.unseen)

    async def is_unchanged(self, tracker: Tracker) -> bool:
        """Returns True if everything that a tracker has recorded is as it was. False if it could not be recorded."""
        keys = list(tracker.dependencies)
        if tracker.refusal is not None or tracker.unseen is not None or tracker.untracked:
            return False
        try:
            read = await self._guarded.read(keys)
        except BackendError:
            return False
        recorded = DerivedValue(keys, list(tracker.dependencies.values()), None)
        return recorded.is_current(dict(zip(keys, read, strict=True)))

    async def depend_on(self, tracker: Tracker, keys: Sequence[bytes]) -> None:
        """Adds the versions of tables to the tracker."""
        await self._learn(tracker, keys)
        for key in keys:
            tracker.add_table(key)

    async def depend_on_versions(self, tracker: Tracker, keys: Sequence[bytes]) -> None:
        """Adds versions of other things than tables to the tracker."""
        await self._learn(tracker, keys)
        for key in keys:
            tracker.add_version(key)

    async def _before_statement(self, tracker: Tracker, client: Any, sql: str) -> None:
        """Adds the versions of the tables that a statement names to the tracker, before the statement is sent."""
        statement = client.connection_name, sql
        if statement in tracker.statements:  # again, or by a method of the client that calls another one
            return
        names, repeated, words, words_from, only_reads = tables_in(sql, client.capabilities.dialect)
        if not only_reads:
            tracker.unrecorded(WRITES)
            return
        found = {name: self._versions.key(client.connection_name, name) for name in names or [UNKNOWN]}
        unnoticed = [name for name, key in found.items() if key is None]
        if unnoticed:
            tracker.untracked |= {f"{client.connection_name}.{name}" for name in unnoticed}
            if self._config.untracked_reads == "error" and not tracker.declared:
                raise CacheError(self._untracked_text(tracker))
        if tracker.selects_rows:
            words, tracker.selects_rows = words_from, False
        keys = {name: key for name, key in found.items() if key is not None}
        groups = {name: tracker.groups.pop(key) for name, key in keys.items() if key in tracker.groups}
        single = {
            name for name in groups if name not in repeated and not self._versions.reads_ignored(keys[name], words)
        }
        await self.depend_on_versions(tracker, [key for name in single for key in groups[name]])
        tables = {key for name, key in keys.items() if name not in single} - {tracker.exempt}
        await self.depend_on(tracker, [self._versions.version_for(key, words) for key in tables])
        tracker.statements |= {statement}

    async def _learn(self, tracker: Tracker, keys: Sequence[bytes]) -> None:
        """Reads the versions that the tracker does not know. Waits briefly for writes in progress.

        A result that is not stored in any case waits for nothing. A mark that stays is waited for once: its writer may
        have died.
        """
        if tracker.refusal is not None:
            return
        until, delay = time.monotonic() + self._config.lease_wait, FIRST_VERSION_POLL_DELAY
        wanted: list[bytes] = [key for key in keys if key not in tracker.versions]
        nodes = self._guarded.nodes
        while wanted and not self._bypass.off and self._guarded.allow_read():
            if nodes is not None and nodes.refused(wanted):
                return
            try:
                leased = await self._guarded.call(self._guarded.backend.lease([], new_token(), 1, wanted), len(wanted))
            except BackendError:
                return
            read = dict(zip(wanted, leased.versions, strict=True))
            tracker.learn((key, value) for key, value in read.items() if is_version(value))
            wanted = [key for key, mark in read.items() if is_intent(mark) and self._waited_for.get(key) != mark]
            if wanted and time.monotonic() > until:
                if len(self._waited_for) > MAX_WAITED_FOR:
                    self._waited_for.clear()
                self._waited_for.update({key: read[key] for key in wanted})
                return
            if not wanted:
                return
            await asyncio.sleep(delay)
            delay *= 2

    def _report(self, derived: DerivedEntries, tracker: Tracker) -> None:
        """Refuses a result that was read from tables whose writes are not noticed, and warns once."""
        if not tracker.declared:
            tracker.refuse("it reads a table whose writes are not noticed")
            if self._config.untracked_reads == "warn":
                derived.counters.warn_once("untracked", "aiomodelcache: %s", self._untracked_text(tracker))

    def _untracked_text(self, tracker: Tracker) -> str:
        tables = ", ".join("an unreadable statement" if UNKNOWN in name else name for name in sorted(tracker.untracked))
        return (
            f"{tracker.name or 'A computation'} reads {tables}, whose writes are not noticed, so its result is not "
            "stored: make cached models of these tables, call depends_on(...) with the models that they depend on, or "
            "cache it with invalidation=InvalidationType.OFF and a timeout."
        )
