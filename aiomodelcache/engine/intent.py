"""An intent: one write, or the writes of one transaction, as one open cache announces them."""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextvars import Context
from time import time
from typing import Any, Protocol

from aiomodelcache.backends.protocol import Clear, ReplacedEntry
from aiomodelcache.encoding.layout import DamagedEntry, new_token, stale_copy
from aiomodelcache.encoding.partitions import Partitions
from aiomodelcache.engine.saves import RowSaves
from aiomodelcache.entries.predictions import Predictions
from aiomodelcache.entries.rows import RowEntries
from aiomodelcache.observe.events import Stage
from aiomodelcache.observe.fleet import RecentWrite
from aiomodelcache.observe.stats import Counters
from aiomodelcache.plans.requests import Plan
from aiomodelcache.scopes.request import Scope

Refill = tuple[Callable[[Predictions], Plan[Any]], Counters]
"""A lookup to start after the write, and the counters of its cache."""


class Versioned(Protocol):
    """An entry set with epochs and stamps: the rows of a model, or a class of values."""

    prefix: bytes
    partitions: Partitions
    """The epochs and stamps."""
    counters: Counters
    spans_tenants: bool
    """True outside of any tenant of a cache that has tenants."""
    link_keys: Sequence[bytes]
    """The keys of the versions of tables with links to its rows."""

    @property
    def version_keys(self) -> Sequence[bytes]:
        """The keys of the versions of the table, if it has any."""
        ...

    @property
    def linked(self) -> "Sequence[Versioned]":
        """The entry sets whose keys are made from these rows, such as many-to-many lists.

        They are cleared with the rows.
        """
        ...


class Intent:
    """The keys that one write affects, and the hints to leave under them afterwards."""

    __slots__ = (
        "allowed",
        "clears",
        "context",
        "lock",
        "marked",
        "refills",
        "replaced",
        "rows",
        "saves",
        "scopes",
        "stamps",
        "stored",
        "tables",
        "token",
        "unknown",
    )

    def __init__(self) -> None:
        self.token = new_token()
        self.clears: dict[bytes, Clear] = {}
        self.marked: set[bytes] = set()
        """Keys whose mark has been sent. It may or may not have arrived."""
        self.allowed: dict[bytes, int] = {}
        """Keys of entries that may still be served when they are stale, and for how many milliseconds."""
        self.replaced: dict[bytes, ReplacedEntry] = {}
        """Entries under the keys in ``allowed`` that the marks replaced."""
        self.refills: dict[bytes, Refill] = {}
        """Lookups to start right after the write, by key."""
        self.rows: dict[bytes, Versioned] = {}
        """The models and classes of values, by the names of their partitions."""
        self.stamps: dict[bytes, None] = {}
        """The keys of the stamps of the partitions with rows that are written."""
        self.saves: RowSaves | None = None
        """The rows that the writer may store, if there are any."""
        self.stored: set[bytes] = set()
        """The keys whose rows the writer has stored."""
        self.scopes: set[Scope] = set()
        self.tables: set[bytes] = set()
        """The keys of the versions of the tables that are written. They are among ``clears``."""
        self.unknown = False
        """True if the write's outcome is not known. Such an intent ends only by expiring."""
        self.context: Context | None = None
        """The writer's context, once the outcome of the write is known and if there are observers."""
        self.lock = asyncio.Lock()

    @property
    def caches(self) -> tuple[str, ...]:
        """The names of the models and classes of values that are written to."""
        return tuple(dict.fromkeys([rows.counters.name for rows in self.rows.values()]))

    @property
    def whole(self) -> bool:
        """True if everything about one of these models is affected."""
        return any(rows.partitions.epochs[0] in self.clears for rows in self.rows.values())

    def as_recent(self, stage: Stage) -> RecentWrite:
        """Returns what operators see of the write, now that it has come to this stage."""
        return RecentWrite(time=time(), stage=stage, keys=len(self.clears), caches=self.caches, whole=self.whole)

    def add(self, rows: Versioned, clears: Iterable[Clear]) -> None:
        """Adds keys of one model. A later hint for a key replaces an earlier one.

        A write outside of any tenant may affect the rows of all, so it adds everything about the model.
        """
        if rows.spans_tenants:
            self.add_model(rows)
        else:
            added = {clear.key: clear for clear in clears}
            self._add(rows, added, rows.partitions.stamps_of(key for key in added if key.startswith(rows.prefix)))

    def _add(self, rows: Versioned, clears: Mapping[bytes, Clear], stamps: Iterable[bytes]) -> None:
        self.rows[rows.partitions.name] = rows
        self.stamps.update(dict.fromkeys(stamps))
        self.clears.update(clears)

    def discard_hints(self) -> None:
        """Removes the hints of all keys added so far."""
        self.clears = {key: Clear(key) for key in self.clears}

    def final_clears(self) -> list[Clear]:
        """Returns the clear of each key: with a stale copy of the replaced entry if possible, else with the hint."""
        return [self._final_clear(clear) for clear in self.clears.values()]

    def _final_clear(self, clear: Clear) -> Clear:
        replaced = self.replaced.get(clear.key)
        if replaced is None or clear.key not in self.allowed:
            return clear
        try:
            return Clear(clear.key, stale_copy(replaced.entry), until_ms=replaced.until_ms)
        except DamagedEntry:
            return clear

    def add_model(self, rows: Versioned) -> None:
        """Adds the epochs and table versions of a model and of its lists.

        Clearing leaves them absent, until a reader creates new ones.
        """
        for versioned in (rows, *rows.linked):
            partitions = versioned.partitions
            self._add(versioned, {epoch: Clear(epoch) for epoch in partitions.epochs}, partitions.stamps)
            self.add_tables_of(versioned)

    def add_tables_of(self, rows: Versioned) -> None:
        """Adds the versions of a model's table and of the tables with links to its rows."""
        self.add_tables([*rows.version_keys, *rows.link_keys])

    def add_tables(self, keys: Collection[bytes]) -> None:
        """Adds the versions of tables. Clearing leaves them absent, like epochs."""
        self.tables.update(keys)
        self.clears.update({key: Clear(key) for key in keys})

    def row_keys(self) -> set[bytes]:
        """Returns the keys of single rows, and the epochs of models whose rows are all affected."""
        models = [rows for rows in self.rows.values() if isinstance(rows, RowEntries)]
        prefixes, epochs = (
            tuple(rows.prefix for rows in models),
            {key for rows in models for key in rows.partitions.epochs},
        )
        return {key for key in self.clears if key in epochs or key.startswith(prefixes)}

    def drop_from(self, scope: Scope | None) -> None:
        """Drops the keys from a request's scope, now and again when the write ends."""
        if scope is not None:
            self.scopes.add(scope)
            self._drop(scope)

    def drop(self) -> None:
        """Drops the keys from the scopes of the requests that wrote."""
        for scope in self.scopes:
            self._drop(scope)

    def _drop(self, scope: Scope) -> None:
        if self.whole:
            scope.clear()
        else:
            scope.drop(self.clears)
