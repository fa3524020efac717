"""The comparison of another cache's entries with the database.

An entry is read, then its row, and the two are compared. If they differ, both are read again. The entry is stale only
if neither has changed meanwhile: then the cache held it after the database had the other values. Must not know where
entries come from.
"""

import datetime
import statistics
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from tortoise.models import Model

from aiomodelcache.inspection.foreign_caches import ForeignCache, ForeignEntry, UnreadableEntry
from aiomodelcache.orm.meta import RowValues, meta_of
from aiomodelcache.orm.samples import AuditedRows


@dataclass(frozen=True, slots=True)
class StaleEntry:
    """An entry that differs from its row. ``cached`` or ``stored`` is None if it says that there is no row."""

    pk: Any
    differs: list[str]
    """The names of columns, or a description."""
    cached: RowValues | None
    stored: RowValues | None
    late: float | None
    """Seconds since the row was written last; None if that is not known. The entry is late by at least as many."""


@dataclass(slots=True)
class Audit:
    """One audit of another cache, and its result so far.

    ``ignored``: columns that are not compared. ``updated``: the column with the time of a row's last write.
    """

    cache: ForeignCache
    rows: AuditedRows
    ignored: Collection[str] = ()
    updated: str | None = None

    sampled: int = 0
    not_cached: int = 0
    agree: int = 0
    changed: int = 0
    """Entries that differed, and changed meanwhile or had rows that did: no fault."""
    unreadable: Counter[str] = field(default_factory=Counter[str])
    """Entries that cannot be decoded, by the reason."""
    stale: list[StaleEntry] = field(default_factory=list[StaleEntry])
    held: set[str] = field(default_factory=set[str])
    """The columns that entries have held."""

    @property
    def compared(self) -> int:
        """The number of entries that agree or are stale."""
        return self.agree + len(self.stale)

    @property
    def differing(self) -> Counter[str]:
        """The number of stale entries by the columns that differ."""
        return Counter(name for entry in self.stale for name in entry.differs)

    @property
    def late(self) -> tuple[float, float] | None:
        """The median and the maximum of the seconds by which stale entries are late at least; None if unknown."""
        found = [entry.late for entry in self.stale if entry.late is not None]
        return (statistics.median(found), max(found)) if found else None

    async def compare(self, pks: Sequence[Any]) -> None:
        """Compares the entries of these rows. Counts all of them at its end, or none if it is cancelled."""
        entries = await self.cache.entries(pks)
        stored = await self.rows.read(pks)
        found = {pk: entry for pk, entry in zip(pks, entries, strict=True) if isinstance(entry, ForeignEntry)}
        differing = {pk: names for pk, entry in found.items() if (names := self._differences(entry, stored.get(pk)))}
        stale: list[StaleEntry] = []
        if differing:
            again = await self.cache.entries([*differing])
            stored_again = await self.rows.read([*differing])
            for (pk, names), entry in zip(differing.items(), again, strict=True):
                row = stored.get(pk)
                if entry != found[pk] or stored_again.get(pk) != row:
                    continue
                written: Any = row[self.updated] if row is not None and self.updated is not None else None
                late = None if written is None else _seconds_since(written)
                stale.append(StaleEntry(pk, names, found[pk].values, row, late))
        self.sampled += len(pks)
        self.not_cached += entries.count(None)
        self.unreadable.update(entry.reason for entry in entries if isinstance(entry, UnreadableEntry))
        self.agree += len(found) - len(differing)
        self.changed += len(differing) - len(stale)
        self.stale += stale
        self.held.update(name for entry in found.values() for name in entry.values or ())

    def _differences(self, entry: ForeignEntry, row: RowValues | None) -> list[str]:
        if entry.values is None or row is None:
            return [] if entry.values is row else ["the row exists no longer" if row is None else "the row exists"]
        fields = meta_of(self.rows.model).fields_map
        names = [name for name in self.rows.columns if name in entry.values and name not in self.ignored]
        model = self.rows.model
        return [name for name in names if not is_same(model, fields[name], entry.values[name], row[name])]


def _seconds_since(moment: datetime.datetime) -> float:
    """Returns the seconds since a moment, which is local time if it has no zone; 0 for a clock that is ahead."""
    return max(0.0, (datetime.datetime.now(moment.tzinfo) - moment).total_seconds())


def is_same(model: type[Model], declared: Any, cached: Any, stored: Any) -> bool:
    """Returns True if a cached value is the stored one, or another form of it, such as the text of a date in JSON.

    ``declared``: the field of the column, which converts the other form. Values of types without ``==`` are compared as
    the field would write them.
    """
    if _is_equal(cached, stored):
        return True
    if cached is None or stored is None:
        return False
    if isinstance(cached, float) and isinstance(stored, Decimal):
        return cached == float(stored)
    try:
        own, others = declared.to_python_value(cached), declared.to_python_value(stored)
        return _is_equal(own, others) or _is_equal(
            declared.to_db_value(own, model), declared.to_db_value(others, model)
        )
    except Exception:  # the field does not accept it, so it is no form of the stored value
        return False


def _is_equal(cached: Any, stored: Any) -> bool:
    """Returns True also for two NaN."""
    return bool(cached == stored) or (cached != cached and stored != stored)
