"""What users declare as classes of their own: cache classes, and what is allowed in them.

A declaration is only recorded here; models are not complete before ``Tortoise.init``. ``entries_of`` resolves
it when a cache opens.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, Final, Generic, TypeVar, cast

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.models import Model
from tortoise.queryset import QuerySet

from aiomodelcache.backends.protocol import Clear
from aiomodelcache.config import InvalidationType
from aiomodelcache.declare.registry import declared
from aiomodelcache.encoding.codec import Codec
from aiomodelcache.entries.model import EntrySet
from aiomodelcache.entries.results import Compute, DontCache, ResultEntries
from aiomodelcache.exceptions import CacheNotRegistered
from aiomodelcache.open_cache import OpenCache
from aiomodelcache.orm.meta import Values
from aiomodelcache.plans.paths import RelationPath, follow_path
from aiomodelcache.plans.requests import Plan
from aiomodelcache.plans.results import instance_of
from aiomodelcache.query.lookups import LookupQuery, computed, exactly_one, row_key
from aiomodelcache.scopes.request import Scope
from aiomodelcache.write.manual import invalidate_entries

T = TypeVar("T")
M = TypeVar("M", bound=Model)
ResultT = TypeVar("ResultT", bound=Model | None)


class DeclaredQuery(LookupQuery[T]):
    """What stand-alone cache classes share: a class is the declaration, an instance a query."""

    model: ClassVar[type[Model]]
    key_fields: ClassVar[Sequence[str]] = ()
    timeout: ClassVar[float | None] = None
    negative_timeout: ClassVar[float | None] = None
    version: ClassVar[object] = None
    invalidation: ClassVar[InvalidationType] = InvalidationType.UNSET
    allowtime: ClassVar[float | None] = None
    order_by: ClassVar[Sequence[str]] = ()
    near: ClassVar[bool | None] = None
    limit: ClassVar[int | None] = None
    codec: ClassVar[Codec | None] = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not cls.__module__.startswith("aiomodelcache."):
            declared.add(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(getattr(type(self), "model", Model))
        fields = tuple(type(self).key_fields)
        params = dict(zip(fields, args, strict=False))
        named = {name.removesuffix("__exact"): value for name, value in kwargs.items()}
        for field in fields:  # a relation may be given by its column
            if field not in named and f"{field}_id" in named:
                named[field] = named.pop(f"{field}_id")
        twice = len(named) < len(kwargs) or params.keys() & named.keys()
        params.update(named)
        if len(args) > len(fields) or twice or set(params) != set(fields):
            raise TypeError(
                f"{type(self).__name__} takes its key ({', '.join(fields)}), each once, by position or by name; "
                f"got {len(args)} by position and ({', '.join(kwargs)}) by name."
            )
        self._params = params

    def __repr__(self) -> str:
        return f"<{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self._params.items())})>"

    def declared_entries(self, cache: OpenCache) -> EntrySet | ResultEntries | RelationPath:
        """What the class was bound to. Raises ``CacheNotRegistered``."""
        try:
            return cache.classes[type(self)]
        except KeyError:
            raise CacheNotRegistered(
                f"{type(self).__name__} is not part of the open cache: define it, and load its model with "
                "Tortoise.init, before the cache opens."
            ) from None

    def entry_set(self, cache: OpenCache) -> tuple[EntrySet, list[Any]]:
        entry_set = self.declared_entries(cache)
        return cast("EntrySet", entry_set.base if isinstance(entry_set, RelationPath) else entry_set), self._given()

    def _given(self) -> list[Any]:
        return [self._params[field] for field in type(self).key_fields]

    def plan(self, cache: OpenCache, scope: Scope | None) -> Plan[T]:
        entry_set = self.declared_entries(cache)
        if isinstance(entry_set, RelationPath):
            return self.finish((yield from self._follow_path(cache, entry_set, scope)))
        if not isinstance(entry_set, ResultEntries):
            return (yield from super().plan(cache, scope))
        values = tuple(map(entry_set.schema.normalise, entry_set.attributes, self._given()))
        compute = partial(self._compute, entry_set, values)
        result: T = yield from computed(cache, entry_set, entry_set.key(values), compute, scope)
        return result

    def _follow_path(self, cache: OpenCache, path: RelationPath, scope: Scope | None) -> Plan[list[Any]]:
        """What a walk leads to; a request's scope remembers it as long as nothing on the way is written."""
        _, _, values, base = self.locate(cache)
        key = path.key(base)
        known = scope.recall(key) if scope is not None else None
        if known is not None:
            return list(known[0])
        generation = scope.generation if scope is not None else 0

        def make(entry_set: EntrySet, row: Any) -> Model:
            instance = instance_of(entry_set.rows, row)
            return scope.own(row_key(entry_set, instance), instance, generation) if scope is not None else instance

        found, passed = yield from follow_path(path, values, base, cache.predictions, make)
        if scope is not None:
            scope.keep_result(key, list(found), passed, generation)
        return found

    async def invalidate(self) -> None:
        """Forgets what is cached under this key, in all processes. Inside a transaction it takes effect at COMMIT.

        Rows themselves are forgotten by ``Model.cache.invalidate``.
        """
        cache, entry_set, _, key = self.locate(self.open_cache())
        client = entry_set.schema.transaction()
        await invalidate_entries(cache, entry_set.rows, [Clear(key)], [client] if client is not None else [])

    @classmethod
    def computing(cls, result: ResultEntries, values: Values) -> Compute:
        """How the result for these values is computed."""
        return partial(cls(*values)._compute, result, values)

    async def _compute(self, result: ResultEntries, values: Values, client: BaseDBAsyncClient | None) -> Any:
        if isinstance(self, COUNTING):
            schema = result.schema
            rows = schema.queryset(client or schema.client).filter(schema.matching(result.attributes, [values]))
            return await self.count_rows(rows)
        params = dict(zip(type(self).key_fields, values, strict=True))
        query = cast("Any", self)
        return await (query.get_instance if isinstance(self, InstanceCache) else query.get_result)(**params)


class InstanceCache(DeclaredQuery[ResultT], Generic[ResultT]):
    """One row of a model by one key, as a class of its own.

    >>> class EventBySlug(InstanceCache[Event]):
    ...     model = Event
    ...     key_fields = ("slug",)
    >>> event = await EventBySlug("pycon")

    A missing row raises Tortoise's ``DoesNotExist``, several raise ``MultipleObjectsReturned``.

    ``select_related = ("organizer", "venue__city")`` has these relations attached to the instance, as if they had been
    fetched with it: foreign keys and one-to-one relations, also backwards, to cached models. None where there
    is no such row.

    With a ``get_instance`` of its own it finds an instance, or None, in another way. What that returns is stored by
    the key and forgotten when a row that has, or had, these values of the key is written:

    >>> class NextEvent(InstanceCache[Event | None]):
    ...     model = Event
    ...     key_fields = ("organizer",)
    ...
    ...     async def get_instance(self, organizer: int) -> Event | None:
    ...         return await Event.filter(organizer_id=organizer, state="open").order_by("start").first()
    """

    select_related: ClassVar[Sequence[str]] = ()

    async def get_instance(self, *args: Any, **params: Any) -> ResultT:
        """Finds the instance, if overridden. Gets the key by name, a relation by its value.

        It runs in the context in which the cache was opened, outside of any transaction; inside one in its caller's.
        """
        raise NotImplementedError

    def finish(self, found: Sequence[Any]) -> ResultT:
        return cast("ResultT", exactly_one(self._model, found))


class QuerysetCache(DeclaredQuery[list[M]], Generic[M]):
    """The rows of a model that share a key, as a class of its own; ``order_by`` and ``limit`` are its own.

    >>> class LatestEvents(QuerysetCache[Event]):
    ...     model = Event
    ...     key_fields = ("organizer",)
    ...     order_by = ["-created"]
    ...     limit = 10
    >>> events = await LatestEvents(organizer=user)

    ``select_related`` is as with ``InstanceCache``. With a ``get_result`` of its own it is a ``ResultCache``.
    """

    select_related: ClassVar[Sequence[str]] = ()

    async def get_result(self, *args: Any, **params: Any) -> Any:
        """Computes the result, if overridden. See ``ResultCache``."""
        raise NotImplementedError

    def finish(self, found: Sequence[Any]) -> list[M]:
        return list(found)


class ResultCache(DeclaredQuery[T], Generic[T]):
    """Anything computed from the rows of a model that share a key: a sum, a list of values, a dict.

    >>> class Titles(ResultCache[list[str]]):
    ...     model = Event
    ...     key_fields = ("organizer",)
    ...
    ...     async def get_result(self, organizer: int) -> list[str]:
    ...         return await Event.filter(organizer_id=organizer).values_list("title", flat=True)
    >>> titles = await Titles(organizer=user)

    The result is stored by the key and forgotten when a row that has, or had, these values of the key is
    written. Instances in it are stored as references: they are as fresh as their rows.
    """

    async def get_result(self, *args: Any, **params: Any) -> T | DontCache[T]:
        """Computes the result. Gets the key by name, a relation by its value.

        It runs in the context in which the cache was opened, outside of any transaction; inside one in its caller's.
        """
        raise NotImplementedError(f"{type(self).__name__} needs a get_result method.")


class QuerysetExistsCache(DeclaredQuery[bool]):
    """Whether any row of a model has these values of a key.

    >>> class HasEvents(QuerysetExistsCache):
    ...     model = Event
    ...     key_fields = ("organizer",)
    >>> await HasEvents(organizer=user)
    True
    """

    async def count_rows(self, rows: QuerySet[Any]) -> bool:
        """What is stored about the rows."""
        return await rows.exists()


class QuerysetCountCache(DeclaredQuery[int]):
    """How many rows of a model have these values of a key.

    >>> class EventCount(QuerysetCountCache):
    ...     model = Event
    ...     key_fields = ("organizer",)
    >>> await EventCount(organizer=user)
    3
    """

    async def count_rows(self, rows: QuerySet[Any]) -> int:
        """What is stored about the rows."""
        return await rows.count()


COUNTING: Final = (QuerysetExistsCache, QuerysetCountCache)
