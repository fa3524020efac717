"""One write, or the writes of one transaction, as one open cache announces them."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from aiomodelcache.backends.protocol import Clear, Kept
from aiomodelcache.encoding.layout import DamagedEntry, new_token, stale_copy
from aiomodelcache.entries.predictions import Predictions
from aiomodelcache.entries.rows import RowEntries
from aiomodelcache.observe.stats import Counters
from aiomodelcache.plans.requests import Plan
from aiomodelcache.scopes.request import Scope

Refill = tuple[Callable[[Predictions], Plan[Any]], Counters]
"""A lookup to be made, and where it is counted."""


class Versioned(Protocol):
    """What has an epoch and a stamp: the rows of a model, or a class of values."""

    epoch_key: bytes
    stamp_key: bytes

    @property
    def linked(self) -> "Sequence[Versioned]":
        """What is listed by its keys, and goes with it."""
        ...


class Intent:
    """The keys that one write touches, and what to leave under them afterwards."""

    __slots__ = ("allowed", "clears", "kept", "lock", "marked", "refills", "rows", "scopes", "token", "unknown")

    def __init__(self) -> None:
        self.token = new_token()
        self.clears: dict[bytes, Clear] = {}
        self.marked: set[bytes] = set()
        """Keys of which a mark is on its way, or arrived."""
        self.allowed: dict[bytes, int] = {}
        """Keys of entries that may still be answered when they are stale, and for how long (ms)."""
        self.kept: dict[bytes, Kept] = {}
        """Such entries that the marks replaced."""
        self.refills: dict[bytes, Refill] = {}
        """What to look up again right after the write."""
        self.rows: dict[bytes, Versioned] = {}
        self.scopes: set[Scope] = set()
        self.unknown = False
        """Whether the write's outcome is not known: then only time ends it."""
        self.lock = asyncio.Lock()

    def add(self, rows: Versioned, clears: Iterable[Clear]) -> None:
        """Adds keys of one model; what is to be left under a key is what was said last."""
        self.rows[rows.stamp_key] = rows
        self.clears.update({clear.key: clear for clear in clears})

    def leave_nothing(self) -> None:
        """Takes back what was said about what to leave under the keys so far."""
        self.clears = {key: Clear(key) for key in self.clears}

    def leaving(self) -> list[Clear]:
        """What to leave under each key: of what was kept a stale copy, else what was said."""
        return [self._leaving(clear) for clear in self.clears.values()]

    def _leaving(self, clear: Clear) -> Clear:
        kept = self.kept.get(clear.key)
        if kept is None or clear.key not in self.allowed:
            return clear
        try:
            return Clear(clear.key, stale_copy(kept.entry), until_ms=kept.until_ms)
        except DamagedEntry:
            return clear

    def add_model(self, rows: Versioned) -> None:
        """Adds everything about a model: its epoch, which is absent in the end, until somebody needs a new one."""
        for each in (rows, *rows.linked):
            self.add(each, [Clear(each.epoch_key)])

    def row_keys(self) -> set[bytes]:
        """The keys of single rows, and of models of which all rows are meant."""
        models = [rows for rows in self.rows.values() if isinstance(rows, RowEntries)]
        prefixes, epochs = tuple(rows.prefix for rows in models), {rows.epoch_key for rows in models}
        return {key for key in self.clears if key in epochs or key.startswith(prefixes)}

    def drop_from(self, scope: Scope | None) -> None:
        """Forgets the keys in a request's scope now, and again at the end."""
        if scope is not None:
            self.scopes.add(scope)
            self._drop(scope)

    def drop(self) -> None:
        """Forgets the keys in the scopes of the requests that wrote."""
        for scope in self.scopes:
            self._drop(scope)

    def _drop(self, scope: Scope) -> None:
        if any(rows.epoch_key in self.clears for rows in self.rows.values()):
            scope.clear()
        else:
            scope.drop(self.clears)
