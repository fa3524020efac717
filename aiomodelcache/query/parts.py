"""Parts of lists: slices, the first row, and pages.

A part reads the list's entry and its own rows. ``plans.lists`` knows how they are found and checked.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Generic, NamedTuple, NoReturn, Protocol, TypeVar, cast

import msgspec
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.models import Model

from aiomodelcache.entries.indexes import IndexEntries
from aiomodelcache.open_cache import OpenCache
from aiomodelcache.orm.hydrate import fetch_instances
from aiomodelcache.orm.keyset import after_condition, columns_of_order
from aiomodelcache.orm.meta import Values
from aiomodelcache.orm.schema import ModelSchema
from aiomodelcache.plans.lists import ListPart, Window, part_of_list
from aiomodelcache.plans.requests import Computed, ComputeValue, Plan
from aiomodelcache.plans.results import instance_of
from aiomodelcache.plans.rows import row_values, rows_by_pk
from aiomodelcache.query.base import CacheQuery, T
from aiomodelcache.query.cursors import cursor_of, decode_cursor
from aiomodelcache.scopes.request import Scope

M = TypeVar("M", bound=Model)


class LocatedList(NamedTuple):
    """A list in one open cache: its index, its values and its key."""

    entry_set: IndexEntries
    values: Values
    key: bytes


class ListSource(Protocol):
    """A query for a whole list."""

    explicit_cache: OpenCache | None

    def located_list(self, cache: OpenCache, /) -> LocatedList | None:
        """Returns the entry of the list, or None if it has none of its own, and has to be made as a whole."""
        ...

    def list_schema(self, cache: OpenCache, /) -> ModelSchema | None:
        """Returns the schema of the rows, or None if the list is computed and may hold anything."""
        ...

    def subjects(self) -> set[object]: ...

    def located(self, cache: OpenCache, /) -> tuple[Any, Iterable[bytes]]: ...

    def transaction(self, cache: OpenCache, /) -> BaseDBAsyncClient | None: ...

    def plan(self, cache: OpenCache, scope: Scope | None, /) -> Plan[list[Any]]: ...


class Slice(NamedTuple):
    """The rows of a list from one position to before another. None stands for the end."""

    start: int
    stop: int | None
    counted: bool = False

    def positions_in(self, pks: Sequence[Any]) -> slice:
        """Returns the positions that exist."""
        end = len(pks) if self.stop is None else min(self.stop, len(pks))
        start = min(self.start, end)
        return slice(start, end)


class CursorWindow(NamedTuple):
    """The rows of a list from the row that a cursor marks, and a number of rows after it."""

    pk: Any
    size: int
    counted: bool = True

    def positions_in(self, pks: Sequence[Any]) -> slice | None:
        """Returns the positions, or None if the marked row is not in the list."""
        if self.pk not in pks:
            return None
        at = pks.index(self.pk)
        return slice(at, min(at + 1 + self.size, len(pks)))


class AwaitedWhole:
    """Methods that a query does not have whose answer is only given as a whole."""

    __slots__ = ()

    def __getitem__(self, positions: object) -> NoReturn:
        raise TypeError(f"{self!r} takes no positions: await it, and slice or index the answer.")

    def __aiter__(self) -> NoReturn:
        raise TypeError(f"{self!r} is not read in chunks: await it, and iterate over the answer.")


class PartQuery(CacheQuery[T]):
    """A part of a list."""

    __slots__ = ("_source", "_window")

    def __init__(self, source: ListSource, window: Window) -> None:
        super().__init__(source.explicit_cache)
        self._source = source
        self._window = window

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._source!r}>"

    def subjects(self) -> set[object]:
        return self._source.subjects()

    def located(self, cache: OpenCache) -> tuple[Any, Iterable[bytes]]:
        return self._source.located(cache)

    def transaction(self, cache: OpenCache) -> BaseDBAsyncClient | None:
        return self._source.transaction(cache)

    def finish(self, part: ListPart, located: LocatedList | None) -> T:
        """Returns the result, made of the instances of a part."""
        raise NotImplementedError

    def plan(self, cache: OpenCache, scope: Scope | None) -> Plan[T]:
        located = self._source.located_list(cache)
        if located is None:
            part = _cut((yield from self._source.plan(cache, scope)), self._window)
        else:
            part = yield from find_part(located, self._window, cache, scope)
        assert part is not None, "a slice is part of any list"
        return self.finish(part, located)


def find_part(located: LocatedList, window: Window, cache: OpenCache, scope: Scope | None) -> Plan[ListPart | None]:
    """Finds a part of a list, with instances. None if the window finds no part.

    A request's scope keeps the part until a write to the list, or to a row that was checked.
    """
    entry_set, values, list_key = located
    generation, key = 0, b"%b %b" % (list_key, repr(window).encode())
    if scope is not None:
        whole, known = scope.find(list_key), scope.find(key)
        if whole is not None:
            return _cut(whole, window)
        if known is not None:
            return cast("ListPart", known[0])
        generation = scope.generation
    part = yield from part_of_list(entry_set, values, list_key, cache.predictions, window)
    if part is None:
        return None
    instances = [instance_of(entry_set, row) for row in part.rows]
    if scope is None:
        return part._replace(rows=instances)
    row_key = entry_set.rows.key
    part = part._replace(rows=[scope.own(row_key(instance.pk), instance, generation) for instance in instances])
    scope.keep_result(key, part, [list_key, *map(row_key, part.checked)], generation)
    return part


def _cut(rows: Sequence[Any], window: Window) -> ListPart | None:
    """Returns the part of a list that is known as a whole. The rows of a computed list may be any values."""
    part = window.positions_in([getattr(row, "pk", None) for row in rows])
    return ListPart(rows[part], part.start, len(rows), ()) if part is not None else None


class SliceQuery(AwaitedWhole, PartQuery[list[M]], Generic[M]):
    """Some of the rows of a list, in the list's order: ``Event.cache.filter(organizer=7)[20:40]``."""

    __slots__ = ()

    def finish(self, part: ListPart, located: LocatedList | None) -> list[M]:
        return list(part.rows)


class FirstQuery(PartQuery[M | None], Generic[M]):
    """The first row of a list, or None if the list is empty."""

    __slots__ = ()

    def finish(self, part: ListPart, located: LocatedList | None) -> M | None:
        return part.rows[0] if part.rows else None


class RowsQuery(PartQuery[list[M]], Generic[M]):
    """Those of the given rows that belong to a list. Its window is not used."""

    __slots__ = ("_pks",)

    def __init__(self, source: ListSource, pks: Sequence[Any]) -> None:
        super().__init__(source, Slice(0, 0))
        self._pks = pks

    def plan(self, cache: OpenCache, scope: Scope | None) -> Plan[list[M]]:
        located = self._source.located_list(cache)
        assert located is not None, "the primary keys of a list come from its entry"
        entry_set, values, _ = located
        rows, generation = entry_set.rows, scope.generation if scope is not None else 0
        found = yield from rows_by_pk(rows, {rows.key(pk): pk for pk in self._pks})
        instances: list[Any] = []
        for key, row in found.items():
            instance = instance_of(entry_set, row)
            known = vars(instance)
            if known.keys() >= set(entry_set.attributes) and not entry_set.confirms([instance.pk], [known], values):
                continue  # it has left the list
            instances.append(scope.own(key, instance, generation) if scope is not None else instance)
        return instances


# Pages -------------------------------------------------------------------------------------------------


class Page(msgspec.Struct, Generic[M], frozen=True):
    """A page of a list.

    >>> page = await Event.cache.filter(organizer=7).page(2, size=20)
    >>> page.items, page.total, page.has_next
    >>> following = await Event.cache.filter(organizer=7).after(page.cursor, size=20)
    """

    items: list[M]
    """The rows of the page, in the list's order."""
    total: int
    """The number of rows of the whole list."""
    has_next: bool
    """True if rows follow after the page."""
    cursor: str | None = None
    """The position of the last row, for ``after``. If the page is empty, the cursor that it was asked for.

    None if there is no such row, and for lists that have no entry of their own.
    """


class PageQuery(PartQuery[Page[M]], Generic[M]):
    """A page of a list."""

    __slots__ = ()

    def finish(self, part: ListPart, located: LocatedList | None) -> Page[M]:
        return _page(part, located, None)


def _page(part: ListPart, located: LocatedList | None, cursor: str | None) -> Page[Any]:
    if located is not None and part.rows:
        entry_set = located.entry_set
        cursor = cursor_of(entry_set.schema, entry_set.order_by, row_values(part.rows[-1]))
    return Page(list(part.rows), part.total, part.start + len(part.rows) < part.total, cursor)


class AfterQuery(PageQuery[M], Generic[M]):
    """The page of a list that follows after a cursor."""

    __slots__ = ("_cursor", "_size")

    def __init__(self, source: ListSource, cursor: str | None, size: int) -> None:
        super().__init__(source, Slice(0, size, counted=True))
        self._cursor = cursor
        self._size = size

    def plan(self, cache: OpenCache, scope: Scope | None) -> Plan[Page[M]]:
        located = self._source.located_list(cache)
        if located is None:
            raise TypeError(
                f"{self._source!r} has no cursors, because it has no entry of its own: use page(), or a list without "
                "select_related, without order_by() and without a method that computes it."
            )
        if self._cursor is None:
            return (yield from super().plan(cache, scope))
        entry_set = located.entry_set
        schema, order_by = entry_set.schema, entry_set.order_by
        position = decode_cursor(schema, order_by, self._cursor)
        window = CursorWindow(position[schema.pk], self._size)
        part = yield from find_part(located, window, cache, scope)
        if part is not None and cursor_of(schema, order_by, row_values(part.rows[0])) == self._cursor:
            part = part._replace(rows=part.rows[1:], start=part.start + 1)
        else:  # the row was deleted or moved: only the database knows which rows follow after it
            rows_after = partial(_rows_after, located, position, self._size)
            compute = partial(
                cache.reader.overloads.compute, schema.name, located.entry_set.counters, schema.client, rows_after
            )
            key = b"%b after %b %d" % (located.key, self._cursor.encode(), self._size)
            computed: Computed = yield ComputeValue(key, compute)
            part = computed.take()
        return _page(part, located, self._cursor)


async def _rows_after(
    located: LocatedList, position: dict[str, Any], size: int, client: BaseDBAsyncClient | None
) -> ListPart:
    """Returns the rows of a list that follow after a position, from the database."""
    entry_set, values, _ = located
    schema = entry_set.schema
    whole = schema.queryset(client or schema.client).filter(schema.having(entry_set.attributes, values))
    after = whole.filter(after_condition(columns_of_order(schema.model, entry_set.order_by), position, schema.dialect))
    total, following = await whole.count(), await after.count()
    start, limit = total - following, total if entry_set.limit is None else min(entry_set.limit, total)
    size = max(0, min(size, limit - start))
    rows = await fetch_instances(schema, after.order_by(*entry_set.order_by).limit(size)) if size else []
    return ListPart(rows, min(start, limit), limit, ())
