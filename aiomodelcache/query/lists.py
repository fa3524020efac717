"""Parts of lists: slices, the first row, and pages by number.

A part reads the list's entry and its own rows. ``plans.lists`` knows how they are found and checked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, cast

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.models import Model

from aiomodelcache.encoding.messages import described
from aiomodelcache.entries.indexes import IndexEntries
from aiomodelcache.open_cache import OpenCache
from aiomodelcache.orm.meta import Values
from aiomodelcache.plans.lists import ListPart, Window, part_of_list
from aiomodelcache.plans.requests import Plan
from aiomodelcache.plans.results import instance_of
from aiomodelcache.query.base import CacheQuery, T
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

    def transaction(self, cache: OpenCache, /) -> BaseDBAsyncClient | None: ...

    def plan(self, cache: OpenCache, scope: Scope | None, /) -> Plan[list[Any]]: ...


class Slice(NamedTuple):
    """The rows of a list from one position to before another. None stands for the end."""

    start: int
    stop: int | None
    counted: bool = False

    def find(self, pks: Sequence[Any]) -> slice:
        """Returns the positions that exist."""
        end = len(pks) if self.stop is None else min(self.stop, len(pks))
        start = min(self.start, end)
        return slice(start, end)


class PartQuery(CacheQuery[T]):
    """A part of a list."""

    __slots__ = ("_source", "_window")

    def __init__(self, source: ListSource, window: Window) -> None:
        super().__init__(source.explicit_cache)
        self._source = source
        self._window = window

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._source!r}: {self._window!r}>"

    def transaction(self, cache: OpenCache) -> BaseDBAsyncClient | None:
        return self._source.transaction(cache)

    def finish(self, part: ListPart) -> T:
        """Returns the result, made of the instances of a part."""
        raise NotImplementedError

    def plan(self, cache: OpenCache, scope: Scope | None) -> Plan[T]:
        located = self._source.located_list(cache)
        known = scope.recall(located.key) if scope is not None and located is not None else None
        if located is None or known is not None:
            rows = known if known is not None else (yield from self._source.plan(cache, scope))
            return self.finish(self._cut(rows))
        if scope is None:
            part = yield from self._find(located, cache)
            return self.finish(part._replace(rows=[instance_of(located.entry_set, row) for row in part.rows]))
        return self.finish((yield from self._find_in_scope(located, cache, scope)))

    def _cut(self, rows: Sequence[Any]) -> ListPart:
        """Returns the part of a list that is known as a whole."""
        part = cast("slice", self._window.find(rows))
        return ListPart(rows[part], part.start, len(rows), ())

    def _find(self, located: LocatedList, cache: OpenCache) -> Plan[ListPart]:
        entry_set, values, key = located
        part = yield from part_of_list(entry_set, values, key, cache.predictions, self._window)
        assert part is not None, "a slice is part of any list"
        return part

    def _find_in_scope(self, located: LocatedList, cache: OpenCache, scope: Scope) -> Plan[ListPart]:
        """Finds the part once in a request's scope. A write to the list, or to a row that was checked, removes it."""
        key = b"%b %b" % (located.key, repr(self._window).encode())
        known = scope.recall(key)
        if known is not None:
            part: ListPart = known[0]
            return part
        generation, rows = scope.generation, located.entry_set.rows
        part = yield from self._find(located, cache)
        instances = [instance_of(located.entry_set, row) for row in part.rows]
        instances = [scope.own(rows.key(instance.pk), instance, generation) for instance in instances]
        part = part._replace(rows=instances)
        scope.keep_result(key, part, [located.key, *map(rows.key, part.checked)], generation)
        return part


class SliceQuery(PartQuery[list[M]], Generic[M]):
    """Some of the rows of a list, in the list's order: ``Event.cache.filter(organizer=7)[20:40]``."""

    __slots__ = ()

    def finish(self, part: ListPart) -> list[M]:
        return list(part.rows)


class FirstQuery(PartQuery[M | None], Generic[M]):
    """The first row of a list, or None if the list is empty."""

    __slots__ = ()

    def finish(self, part: ListPart) -> M | None:
        return part.rows[0] if part.rows else None


@dataclass(frozen=True, slots=True)
class Page(Generic[M]):
    """A page of a list.

    >>> page = await Event.cache.filter(organizer=7).page(2, size=20)
    >>> page.items, page.total, page.has_next
    """

    items: list[M]
    """The rows of the page, in the list's order."""
    total: int
    """The number of rows of the whole list."""
    has_next: bool
    """True if rows follow after the page."""


class PageQuery(PartQuery[Page[M]], Generic[M]):
    """A page of a list."""

    __slots__ = ()

    def finish(self, part: ListPart) -> Page[M]:
        return Page(list(part.rows), part.total, part.start + len(part.rows) < part.total)


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
