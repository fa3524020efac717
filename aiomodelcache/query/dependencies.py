"""``depends_on``: dependencies of a tracked computation that cannot be seen."""

from asyncio import gather
from collections import Counter
from collections.abc import Awaitable, Generator, Iterable
from typing import Any, cast

from tortoise.models import Model

from aiomodelcache.encoding.messages import described
from aiomodelcache.exceptions import CacheError
from aiomodelcache.open_cache import OpenCache, default_cache
from aiomodelcache.query.lookups import GetOrNoneQuery
from aiomodelcache.scopes.tracking import Tracker, current_tracker


class Declared:
    """The dependencies declared by one call of ``depends_on``. Awaiting it reads their present state."""

    __slots__ = ("_cache", "_dependencies", "_tables", "_tracker")

    def __init__(self, tracker: Tracker, cache: OpenCache, dependencies: Iterable[type[Model] | Model]) -> None:
        self._tracker = tracker
        self._cache = cache
        self._dependencies = dependencies
        self._tables = Counter(table_key_of(cache, _model_of(each)) for each in dependencies)
        tracker.declared = True
        tracker.pending = tracker.pending + self._tables

    def __await__(self) -> Generator[Any, None, None]:
        return self._read().__await__()

    async def _read(self) -> None:
        tables, rows = set[bytes](), list[GetOrNoneQuery[Any]]()
        for each in self._dependencies:
            if isinstance(each, Model) and self._has_entry(each):
                rows.append(GetOrNoneQuery(type(each), {"pk": each.pk}, self._cache))
            else:
                tables.add(table_key_of(self._cache, _model_of(each)))
        await self._cache.derivations.depend_on(self._tracker, list(tables))
        await gather(*rows)
        self._tracker.pending = self._tracker.pending - self._tables

    def _has_entry(self, instance: Model) -> bool:
        """Returns True if a lookup of the instance's row is recorded. If not, the table stands for the row."""
        transaction = self._cache.entries_of(type(instance)).schema.transaction()
        return instance.pk is not None and transaction is None and not self._cache.bypass.off


def _model_of(dependency: type[Model] | Model) -> type[Model]:
    return dependency if isinstance(dependency, type) else type(dependency)


class _Nothing:
    """The awaitable that ``depends_on`` returns outside of a tracked computation. Does nothing."""

    def __await__(self) -> Generator[Any, None, None]:
        return
        yield


def depends_on(*dependencies: type[Model] | Model) -> Awaitable[None]:
    """Declares, inside a cached function, dependencies of its result that cannot be seen.

    >>> @cached
    ... async def busiest_days() -> list[dict]:
    ...     await depends_on(Event, Ticket)
    ...     return await connections.get("default").execute_query_dict("SELECT * FROM busiest_days_view")

    Takes models, which stand for their tables, and instances, which stand for their rows. Await it before the read that
    it declares. Without ``await`` it stands for the tables as they were when the computation began. So do instances
    that are not saved, and those in a transaction. Outside of a tracked computation it does nothing. Raises
    ``TypeError`` for anything else, and ``CacheNotRegistered`` for a model without a cache.
    """
    for each in dependencies:
        if not issubclass(type(each), Model) and not issubclass(each if isinstance(each, type) else object, Model):
            raise TypeError(f"depends_on takes models and instances of models; got {described(each)}.")
    tracker = current_tracker()
    if tracker is None:
        return _Nothing()
    return Declared(tracker, default_cache().usable(), dependencies)


async def fresh_arguments(value: Any) -> Any:
    """Returns an argument of a tracked computation with each instance in it read again, so that it is a dependency."""
    if isinstance(value, Model):
        return await _read_again(value)
    kind = cast("Any", type(value))
    if kind in (list, tuple):
        return cast("Any", kind)([await fresh_arguments(item) for item in cast("Iterable[Any]", value)])
    if kind is dict:
        return {name: await fresh_arguments(item) for name, item in value.items()}
    return value


async def _read_again(instance: Model) -> Model:
    model, tracker = type(instance), current_tracker()
    assert tracker is not None, "arguments are read again inside a tracked computation"
    cache = default_cache().usable()
    if model not in cache.models:
        tracker.untracked |= {f"an argument of {model.__name__}"}
        return instance
    row: Model | None = await GetOrNoneQuery[Any](model, {"pk": instance.pk}, cache).resolve()
    if row is None:
        tracker.refuse("the row of an argument does not exist")
    return row or instance


def table_key_of(cache: OpenCache, model: type[Model]) -> bytes:
    """Returns the key of the version of a model's table. Raises ``CacheNotRegistered``, or ``CacheError`` for none."""
    rows = cache.entries_of(model).rows
    if rows.table_key is None:
        raise CacheError(
            f"{model.__name__} has queries = False or invalidation = OFF, so nothing notices writes to its table: set "
            "queries = True."
        )
    return rows.table_key
