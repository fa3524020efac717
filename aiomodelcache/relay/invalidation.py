"""The invalidation of rows that other programs have written, from the changes that a source has seen.

Names keys with what the library's own writers use, by old and new values. Must not know where changes come from, or
when they may be forgotten.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

import anyio
import anyio.lowlevel

from aiomodelcache.backends.protocol import Clear
from aiomodelcache.engine.intent import Intent
from aiomodelcache.entries.many_to_many import ManyToManyEntries
from aiomodelcache.entries.model import ModelEntries
from aiomodelcache.open_cache import OpenCache
from aiomodelcache.orm.meta import RowValues
from aiomodelcache.relay.captured import CapturedTable
from aiomodelcache.relay.source import Change
from aiomodelcache.write.affected import collect_affected_keys
from aiomodelcache.write.cascades import collect_list_keys

KEYS_PER_REQUEST: Final = 5_000
"""Maximum number of keys that one request clears. Beyond it, further requests are sent, one after another."""
ROWS_PER_TURN: Final = 500
"""Maximum number of rows whose keys are named in one turn of the event loop. Beyond it, other tasks run first."""


class Invalidator:
    """The invalidations of one open cache, for changes that are committed already."""

    def __init__(self, cache: OpenCache) -> None:
        self._cache = cache
        self._intent = Intent()

    async def invalidate(self, changes: Sequence[Change]) -> None:
        """Invalidates what the changes name.

        Raises ``BackendError`` if the store did not take all of it. The whole call has to be repeated then.
        """
        rows = Counter[CapturedTable]()
        for change in changes:
            rows[change.table] += self._limit + 1 if change.rows is None else len(change.rows)
        self._intent = Intent()
        await self._clear_tables([table for table, number in rows.items() if number > self._limit])
        exact = [table for table, number in rows.items() if number <= self._limit]
        for table in exact:
            self._add_other_models(table)
        turn = 0
        for change in changes:
            if change.table in exact:
                for old, new in change.rows or ():
                    self._add_row(change.table, old, new)
                    turn += 1
                    if turn % ROWS_PER_TURN == 0:
                        await anyio.lowlevel.checkpoint()
                    if len(self._intent.clears) >= KEYS_PER_REQUEST:
                        await self._deliver()
        for table in exact:
            await self._add_lists_of_hidden_rows(table, changes)
        await self._deliver()

    async def invalidate_all(self, tables: Iterable[CapturedTable]) -> None:
        """Invalidates everything about the models of these tables. Raises ``BackendError``."""
        self._intent = Intent()
        await self._clear_tables(tables)
        await self._deliver()

    @property
    def _limit(self) -> int:
        return self._cache.config.bulk_limit

    async def _deliver(self) -> None:
        intent, self._intent = self._intent, Intent()
        if intent.clears:
            await self._cache.writer.deliver(intent)

    async def _clear_tables(self, tables: Iterable[CapturedTable]) -> None:
        for table in tables:
            for entries in self._models_of(table):
                self._intent.add_model(entries.rows)
            for through in self._lists_over(table):
                self._intent.add_model(through.rows)
            self._add_version(table)

    def _models_of(self, table: CapturedTable) -> list[ModelEntries]:
        """Returns the entries of all cached models of a table."""
        cache = self._cache
        if table.models:
            written = cache.written[table.models[0]]
            return [*written.exact, *written.whole]
        return [
            entries
            for entries in cache.models.values()
            if (entries.schema.connection, entries.schema.table) == (table.connection, table.name)
        ]

    def _lists_over(self, table: CapturedTable) -> list[ManyToManyEntries]:
        """Returns the many-to-many lists whose links are the rows of a table."""
        place = table.connection, table.name
        lists = self._cache.many_to_many
        return [through for through in lists if (through.owner.connection, through.relation.table) == place]

    def _add_version(self, table: CapturedTable) -> None:
        version = self._cache.versions.key(table.connection, table.name)
        if version is not None:
            self._intent.add_tables([version])

    def _add_other_models(self, table: CapturedTable) -> None:
        """Adds what rows of a table affect whatever they hold: models that name columns otherwise, and the version."""
        models = self._cache.written[table.models[0]].whole if table.models else self._models_of(table)
        for entries in models:
            self._intent.add_model(entries.rows)
        self._add_version(table)

    def _add_row(self, table: CapturedTable, old: RowValues | None, new: RowValues | None) -> None:
        for row in [new] if old == new else [old, new]:
            if row is None:
                continue
            for through in [] if table.models else self._lists_over(table):
                self._add_link(through, row)
            for entries in self._cache.written[table.models[0]].exact if table.models else ():
                self._add_row_of(entries, row)
                if new is None:  # what the database deletes along with the row
                    self._intent.add_tables(entries.rows.link_keys)

    def _add_row_of(self, entries: ModelEntries, row: RowValues) -> None:
        """Adds the keys of one row. If its values do not determine all of them, adds everything about the model."""
        try:
            if collect_affected_keys(self._intent, entries, row, None, exists=False, manual=True):
                return
        except ValueError:  # a primary key that the field does not take
            pass
        self._intent.add_model(entries.rows)

    def _add_link(self, through: ManyToManyEntries, row: RowValues) -> None:
        """Adds the list of the owner that a row of a through table links."""
        try:
            owner = through.owner_value(row[through.relation.own_column])
        except (KeyError, ValueError):
            self._intent.add_model(through.rows)
        else:
            self._intent.add(through.rows, [Clear(through.key((owner,)))])

    async def _add_lists_of_hidden_rows(self, table: CapturedTable, changes: Iterable[Change]) -> None:
        """Adds the many-to-many lists that rows of a table are in, if a manager may hide such rows.

        Any change may show such a row again, and then the lists that do not hold it are stale. Reads the links.
        """
        cache = self._cache
        if not table.models or not cache.written[table.models[0]].hides_rows:
            return
        model = table.models[0]
        if cache.cascades.lists_of(model):
            rows = [
                row
                for change in changes
                if change.table == table
                for pair in change.rows or ()
                for row in pair
                if row is not None
            ]
            client = cache.models[model].schema.client
            await collect_list_keys(self._intent, cache.cascades, model, rows, client)
