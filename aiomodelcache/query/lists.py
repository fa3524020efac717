"""Lists: what every query for a list can do, and lists in an order of the caller's.

Parts of lists are in ``parts``.
"""

from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, Final, Generic, TypeVar, cast

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.models import Model

from aiomodelcache.encoding.messages import described
from aiomodelcache.open_cache import OpenCache
from aiomodelcache.orm.keyset import columns_of_order, orders_alike, sort_key
from aiomodelcache.orm.schema import ModelSchema
from aiomodelcache.plans.lists import pks_of_list
from aiomodelcache.plans.requests import Plan
from aiomodelcache.query.base import CacheQuery
from aiomodelcache.query.parts import (
    AfterQuery,
    FirstQuery,
    ListSource,
    LocatedList,
    PageQuery,
    PartQuery,
    RowsQuery,
    Slice,
    SliceQuery,
)
from aiomodelcache.scopes.request import Scope

M = TypeVar("M", bound=Model)

ITERATION_SIZE: Final = 500
"""Number of rows that ``async for`` reads at once."""


class ListMethods(Generic[M]):
    """Methods of every query for a list."""

    __slots__ = ()

    def __getitem__(self, positions: slice) -> SliceQuery[M]:
        """Returns a query for the rows at these positions. Raises ``TypeError`` or ``ValueError`` for others."""
        return SliceQuery(self._source(), _slice(self, positions))

    def first(self) -> FirstQuery[M]:
        """Returns a query for the first row, or None if the list is empty."""
        return FirstQuery(self._source(), Slice(0, 1))

    def page(self, number: int, size: int) -> PageQuery[M]:
        """Returns a query for a page of ``size`` rows. The first page has number 1.

        A page after the last one has no items. Raises ``ValueError`` for a number or size below 1.
        """
        _check_positive(self, "page number", number)
        _check_positive(self, "page size", size)
        return PageQuery(self._source(), Slice((number - 1) * size, number * size, counted=True))

    def after(self, cursor: str | None, size: int) -> AfterQuery[M]:
        """Returns a query for the page of ``size`` rows after a cursor, or for the first page if it is None.

        ``cursor`` is the ``cursor`` of a page of the same list. It marks the position of a row even if the row is
        deleted or moved. Awaiting the query raises ``ValueError`` for any other text.
        """
        if cursor is not None and not isinstance(cursor, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"{self!r}: a cursor is the text that a page has, or None; got {described(cursor)}.")
        _check_positive(self, "page size", size)
        return AfterQuery(self._source(), cursor, size)

    async def __aiter__(self) -> AsyncIterator[M]:
        """Iterates over the rows. Reads the list once, and its rows in chunks.

        Rows that are deleted meanwhile, or leave the list, are left out.
        """
        source = self._source()
        pks = await PksQuery(source)
        if pks is None:
            for row in await cast("CacheQuery[list[M]]", self):
                yield row
            return
        for start in range(0, len(pks), ITERATION_SIZE):
            chunk: RowsQuery[M] = RowsQuery(source, pks[start : start + ITERATION_SIZE])
            for row in await chunk:
                yield row

    def _source(self) -> ListSource:
        return cast("ListSource", self)


def _slice(query: object, positions: object) -> Slice:
    """Returns the positions of a slice. Raises ``TypeError`` or ``ValueError`` for anything else."""
    if type(positions) is not slice:
        raise TypeError(
            f"{query!r} takes slices like [20:40]; got {described(positions)}. Use first(), or index the awaited list."
        )
    given = positions
    bounds: list[object] = [given.start, given.stop, given.step]
    for bound in bounds:
        if bound is not None and not _is_whole(bound):
            raise TypeError(f"{query!r} takes slices of whole numbers; got {described(bound)}.")
    start: int = given.start or 0
    stop: int | None = given.stop
    if start < 0 or (stop is not None and stop < 0):
        raise ValueError(f"{query!r} takes no negative positions: await the whole list, and slice that.")
    if given.step not in (None, 1):
        raise ValueError(f"{query!r} takes no slices with a step: await the slice, and take each n-th row of that.")
    return Slice(start, stop if stop is None else max(start, stop))


def _check_positive(query: object, name: str, value: object) -> None:
    if not _is_whole(value):
        raise TypeError(f"{query!r}: a {name} is a whole number; got {described(value)}.")
    if cast("int", value) < 1:
        raise ValueError(f"{query!r}: a {name} must be 1 or more.")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


class PksQuery(PartQuery[list[Any] | None]):
    """The primary keys that a list's entry names, or None if the list has no entry of its own."""

    __slots__ = ()

    def __init__(self, source: ListSource) -> None:
        super().__init__(source, Slice(0, 0))

    def plan(self, cache: OpenCache, scope: Scope | None) -> Plan[list[Any] | None]:
        located = self._source.located_list(cache)
        if located is None:
            return None
        known = scope.find(located.key) if scope is not None else None
        if known is not None:
            return [row.pk for row in known]
        return (yield from pks_of_list(*located, cache.predictions))


class OrderableList(ListMethods[M], Generic[M]):
    """Methods of a list whose class declares no order of its own."""

    __slots__ = ()

    def order_by(self, *fields: str) -> "OrderedQuery[M]":
        """Returns a query for the same rows in another order, like ``order_by("-start")``. Sorts the whole list.

        Takes columns of numbers, dates, times and UUIDs. Awaiting the query raises ``ValueError`` for others, which the
        database may order otherwise than Python: declare a ``QuerysetCache`` with that ``order_by`` for them.
        """
        for field in fields:
            if not isinstance(field, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # untyped callers
                raise TypeError(f"{self!r} is ordered by names of fields; got {described(field)}.")
        return OrderedQuery(self._source(), fields)


class OrderedQuery(OrderableList[M], CacheQuery[list[M]], Generic[M]):
    """The rows of a list in another order."""

    __slots__ = ("_fields", "_ordered")

    def __init__(self, source: ListSource, fields: Sequence[str]) -> None:
        super().__init__(source.explicit_cache)
        self._ordered = source
        self._fields = fields

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._ordered!r} by ({', '.join(self._fields)})>"

    def located_list(self, cache: OpenCache) -> LocatedList | None:
        """Returns None, because no entry has this order."""
        return None

    def list_schema(self, cache: OpenCache) -> ModelSchema | None:
        """Returns the schema of the rows."""
        return self._ordered.list_schema(cache)

    def subjects(self) -> set[object]:
        return self._ordered.subjects()

    def located(self, cache: OpenCache) -> tuple[Any, Iterable[bytes]]:
        return self._ordered.located(cache)

    def transaction(self, cache: OpenCache) -> BaseDBAsyncClient | None:
        return self._ordered.transaction(cache)

    def plan(self, cache: OpenCache, scope: Scope | None) -> Plan[list[M]]:
        schema = self._ordered.list_schema(cache)
        if schema is None:
            raise TypeError(f"{self._ordered!r} is computed, and cannot be ordered by columns: sort the awaited list.")
        for name in self._fields:
            attribute = schema.attribute(name.removeprefix("-"))
            if attribute is None:
                fields = ", ".join(schema.field_names())
                raise ValueError(f"{self!r}: {name!r} is not a column of {schema.name}. Its fields: {fields}.")
            if not orders_alike(schema.model, attribute):
                raise ValueError(
                    f"{self!r}: the database may order the values of {schema.name}.{attribute} otherwise than Python: "
                    f"declare a QuerysetCache with order_by = [{name!r}], and look the rows up by that."
                )
        rows: list[M] = list((yield from self._ordered.plan(cache, scope)))
        for attribute, descending in reversed(columns_of_order(schema.model, self._fields)):
            rows.sort(key=sort_key(attribute, schema.dialect), reverse=descending)
        return rows
