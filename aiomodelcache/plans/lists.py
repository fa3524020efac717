"""Lookups of parts of a list: a slice or a page of the rows that an index entry lists.

Reads the entry and the rows of the part. An entry may list a row that has left the list, and then the rows behind it
have moved up. So the rows before the part are read and checked, too, unless the list is *exact*. Writers of an exact
list invalidate the entry of a row that leaves. A number of rows takes all rows of a list that is not exact.

If there is no entry, one statement loads the primary keys of the whole list, and another the rows of the part that are
missing. A list may be much longer than the part.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from aiomodelcache.entries.base import NoValue
from aiomodelcache.entries.indexes import IndexEntries
from aiomodelcache.entries.predictions import Predictions
from aiomodelcache.orm.meta import Values
from aiomodelcache.plans.indexes import follow_to_rows, index_refresh, load_index
from aiomodelcache.plans.requests import Answer, Load, Plan, Read
from aiomodelcache.plans.rows import row_values, rows_by_pk
from aiomodelcache.plans.steps import read_by_key, wait_for_leases


class Window(Protocol):
    """The part of a list that a query asks for."""

    @property
    def counted(self) -> bool:
        """True if the query needs the number of rows of the whole list."""
        ...

    def positions_in(self, pks: Sequence[Any]) -> slice | None:
        """Returns the positions of the part in a list of these primary keys, or None if the list does not show them."""
        ...


class ListPart(NamedTuple):
    """A part of a list."""

    rows: Sequence[Any]
    start: int
    """The number of rows before the part."""
    total: int
    """The number of rows of the list. An upper bound if the window is not ``counted`` and the list not exact."""
    checked: Sequence[Any]
    """The primary keys of all rows that the part depends on."""


def part_of_list(
    index: IndexEntries, values: Values, key: bytes, predictions: Predictions, window: Window
) -> Plan[ListPart | None]:
    """Finds a part of the list with these values, whose entry is under ``key``. None if the window finds no part."""
    prediction = predictions.predict(key)
    _, checked = _positions(index, window, prediction.pks)
    predicted = prediction.keys_of(prediction.pks[checked])
    epochs = index.partitions.epochs_of([key, *predicted])
    found = yield from read_by_key([*epochs, key, *predicted])
    epoch, entry = found[index.epoch_of(key)], found[key]
    pks = prediction.pks if index.hit(entry, epoch, prediction) else index.read(entry, epoch)
    if not isinstance(pks, list):
        index.counters.misses += 1
    else:
        predictions.learn(key, pks, index.rows)
        part, checked = _positions(index, window, pks)
        if part is None:
            return None
        rows: dict[bytes, list[Any]] = {}
        wanted, listed = {key: values}, {key: pks[checked]}
        yield from follow_to_rows(index, wanted, listed, found, rows, {})
        if key in rows:
            if entry is not None and index.lifetimes.is_due(entry):
                yield index_refresh(index, values, key, entry, predictions, only_pks=True)
            return ListPart(rows[key][part.start - checked.start :][: _size(part)], part.start, len(pks), pks[checked])
    return (yield from _load_part(index, values, key, entry, predictions, window))


def pks_of_list(index: IndexEntries, values: Values, key: bytes, predictions: Predictions) -> Plan[list[Any]]:
    """Finds the primary keys of the rows with these values. Unless the list is exact, some rows may have left."""
    epoch, entry = yield Read([index.epoch_of(key), key])
    pks = index.read(entry, epoch)
    if isinstance(pks, list):
        index.counters.hits += 1
        return pks
    index.counters.misses += 1
    return (yield from _load_pks(index, values, key, entry, predictions))[0]


def _positions(index: IndexEntries, window: Window, pks: Sequence[Any]) -> tuple[slice | None, slice]:
    """Returns the positions of a window's part, and of all rows to check before the part can be trusted."""
    part = window.positions_in(pks)
    if part is None:
        return None, slice(0, 0)
    if index.exact:
        return part, part
    return part, slice(0, len(pks) if window.counted else part.stop)


def _size(part: slice) -> int:
    return int(part.stop - part.start)


def _load_part(
    index: IndexEntries, values: Values, key: bytes, entry: bytes | None, predictions: Predictions, window: Window
) -> Plan[ListPart | None]:
    """Finds a part of a list whose entry is a miss. ``entry`` is what its key holds."""
    rows = index.rows
    pks, is_fresh = yield from _load_pks(index, values, key, entry, predictions)
    part, checked = _positions(index, window, pks)
    if part is None:
        return None
    needed = part if is_fresh else checked  # the database has just shown that no other row has left
    by_key = yield from rows_by_pk(rows, {rows.key(pk): pk for pk in pks[needed]})
    found = [by_key.get(rows.key(pk)) for pk in pks[needed]]
    if None in found or not index.confirms(pks[needed], list(map(row_values, found)), values):
        # A row has left since the primary keys were loaded. One statement for all rows sees them at one moment.
        answers: dict[bytes, Answer] = yield Load(index, {key: values})
        found = [row.take() for row in answers[key].rows]
        pks, needed = [row_values(row)[index.schema.pk] for row in found], slice(0, len(found))
        part, checked = _positions(index, window, pks)
        if part is None:
            return None
    return ListPart(found[part.start - needed.start :][: _size(part)], part.start, len(pks), pks[checked])


def _load_pks(
    index: IndexEntries, values: Values, key: bytes, entry: bytes | None, predictions: Predictions
) -> Plan[tuple[list[Any], bool]]:
    """Returns the primary keys of a list, and True if they come from the database: it was asked during this lookup."""
    result: dict[bytes, list[Any]] = {}
    pending = yield from load_index(index, {key: values}, {key: entry}, predictions, result, only_pks=True)
    if pending:
        yield from wait_for_leases(pending, pending.values())
        epoch, entry = yield Read([index.epoch_of(key), key])
        pks = index.read(entry, epoch)
        if pks is not NoValue.MISS and isinstance(pks, list):
            return pks, False
        yield from load_index(index, {key: values}, {key: entry}, predictions, result, fill=False, only_pks=True)
    return result[key], True
