"""Cache classes: stand-alone declarations of rows, lists and computed results.

A class is only recorded here, because models are not complete before ``Tortoise.init``. ``binding`` resolves it when a
cache opens.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, ClassVar, Final, Generic, NoReturn, TypeVar, cast

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.models import Model
from tortoise.queryset import QuerySet

from aiomodelcache.backends.protocol import Clear
from aiomodelcache.declare.bulk_results import bulk_method, compute_in_bulk
from aiomodelcache.declare.registry import declare
from aiomodelcache.durations import Duration
from aiomodelcache.encoding.codec import Codec
from aiomodelcache.encoding.messages import described
from aiomodelcache.entries.derived import DerivedEntries
from aiomodelcache.entries.model import EntrySet
from aiomodelcache.entries.policy import InvalidationType
from aiomodelcache.entries.results import Compute, DontCache, ResultEntries
from aiomodelcache.exceptions import CacheNotRegistered
from aiomodelcache.open_cache import OpenCache, default_cache
from aiomodelcache.orm.meta import Values
from aiomodelcache.plans.paths import RelationPath, follow_path
from aiomodelcache.plans.requests import Plan
from aiomodelcache.plans.results import instance_of
from aiomodelcache.query.computed import computed
from aiomodelcache.query.lists import ListMethods
from aiomodelcache.query.lookups import LookupQuery, exactly_one, row_key
from aiomodelcache.scopes.request import Scope
from aiomodelcache.write.manual import invalidate_entries

T = TypeVar("T")
M = TypeVar("M", bound=Model)
ResultT = TypeVar("ResultT", bound=Model | None)


class DeclaredOrder(tuple[str, ...]):
    """The ``order_by`` of a cache class: names of fields. Called like a method of a list, it raises ``TypeError``."""

    owner: type

    def __get__(self, instance: object, owner: type) -> "DeclaredOrder":
        bound = DeclaredOrder(self)
        bound.owner = owner
        return bound

    def __call__(self, *fields: str) -> NoReturn:
        name = self.owner.__name__
        raise TypeError(
            f"{name}.order_by is the order that the class declares, and no method of its queries: declare another "
            f"class with that order_by, or use {getattr(self.owner, 'model', Model).__name__}.cache.filter(...), whose "
            "queries have the method."
        )


class DeclaredQuery(LookupQuery[T]):
    """Base of stand-alone cache classes: the class is a declaration, an instance is a query."""

    model: ClassVar[type[Model]]
    key_fields: ClassVar[Sequence[str]] = ()
    timeout: ClassVar[Duration | None] = None
    negative_timeout: ClassVar[Duration | None] = None
    version: ClassVar[object] = None
    invalidation: ClassVar[InvalidationType] = InvalidationType.UNSET
    allowtime: ClassVar[Duration | None] = None
    order_by: ClassVar[Sequence[str]] = DeclaredOrder()
    near: ClassVar[bool | None] = None
    paged: ClassVar[bool] = False
    limit: ClassVar[int | None] = None
    codec: ClassVar[Codec | None] = None
    stale_if_error: ClassVar[Duration | None] = None
    soft_timeout: ClassVar[Duration | None] = None
    sliding: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if type(vars(cls).get("order_by")) in (list, tuple):
            cls.order_by = DeclaredOrder(cls.order_by)
        if not cls.__module__.startswith("aiomodelcache."):
            declare(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(getattr(type(self), "model", Model))
        fields = tuple(type(self).key_fields)
        params = dict(zip(fields, args, strict=False))
        named = {name.removesuffix("__exact"): value for name, value in kwargs.items()}
        for field in fields:  # a relation may be passed by the name of its column
            if field not in named and f"{field}_id" in named:
                named[field] = named.pop(f"{field}_id")
        repeated = len(named) < len(kwargs) or params.keys() & named.keys()
        params.update(named)
        if len(args) > len(fields) or repeated or set(params) != set(fields):
            raise TypeError(
                f"{type(self).__name__} takes its key ({', '.join(fields)}), each once, by position or by name; "
                f"got {len(args)} by position and ({', '.join(kwargs)}) by name."
            )
        self._params = params

    def __repr__(self) -> str:
        params = ", ".join(f"{name}={described(value)}" for name, value in self._params.items())
        return f"<{type(self).__name__}({params})>"

    def declared_entries(self, cache: OpenCache) -> EntrySet | ResultEntries | RelationPath:
        """Returns the entries that the class is bound to. Raises ``CacheNotRegistered``."""
        try:
            return cache.classes[type(self)]
        except KeyError:
            raise CacheNotRegistered(
                f"{type(self).__name__} is not part of the open cache: define it, and load its model with "
                "Tortoise.init, before the cache opens."
            ) from None

    def entry_set(self, cache: OpenCache) -> tuple[EntrySet, list[Any]]:
        entry_set = self.declared_entries(cache)
        base = entry_set.base if isinstance(entry_set, RelationPath) else entry_set
        return cast("EntrySet", base), self._key_values()

    def relation_path(self, cache: OpenCache) -> RelationPath | None:
        entry_set = self.declared_entries(cache)
        return entry_set if isinstance(entry_set, RelationPath) else None

    def _key_values(self) -> list[Any]:
        return [self._params[field] for field in type(self).key_fields]

    def plan(self, cache: OpenCache, scope: Scope | None) -> Plan[T]:
        entry_set = self.declared_entries(cache)
        if isinstance(entry_set, RelationPath):
            return self.finish((yield from self._follow_path(cache, entry_set, scope)))
        if not isinstance(entry_set, ResultEntries):
            return (yield from super().plan(cache, scope))
        values = tuple(map(entry_set.schema.normalise, entry_set.attributes, self._key_values()))
        compute = partial(self._compute, entry_set, values)
        result: T = yield from computed(cache, entry_set, entry_set.key(values), compute, scope)
        return result

    def _follow_path(self, cache: OpenCache, path: RelationPath, scope: Scope | None) -> Plan[list[Any]]:
        """Returns the rows at the end of a path. A request's scope keeps them until a row on the path is written."""
        _, _, values, base = self.locate(cache)
        key = path.key(base)
        known = scope.find(key) if scope is not None else None
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
        """Invalidates the entry of this key in all processes. Inside a transaction it takes effect at COMMIT.

        It does not invalidate rows; ``Model.cache.invalidate`` does.
        """
        cache, entry_set, _, key = self.locate((self.explicit_cache or default_cache()).writable())
        client = entry_set.schema.transaction()
        await invalidate_entries(cache, entry_set.rows, [Clear(key)], [client] if client is not None else [])

    @classmethod
    def computing(cls, result: ResultEntries, values: Values) -> Compute:
        """Returns the function that computes the result for these values."""
        return partial(cls(*values)._compute, result, values)

    async def _compute(
        self,
        result: ResultEntries,
        values: Values,
        client: BaseDBAsyncClient | None,
        versions: Iterable[tuple[bytes, bytes]] = (),
    ) -> Any:
        if isinstance(self, COUNTING):
            schema = result.schema
            rows = schema.queryset(client or schema.client).filter(schema.having(result.attributes, values))
            return await self.count_rows(rows)
        single = "get_instance" if issubclass(type(self), InstanceCache) else "get_result"
        bulk = bulk_method(type(self), f"{single}s")
        if bulk is not None:
            return await compute_in_bulk(bulk, result, result.key(values), values, client, versions)
        params = dict(zip(type(self).key_fields, values, strict=True))
        compute = partial(getattr(self, single), **params)
        if isinstance(result, DerivedEntries):
            return await result.track(result, compute, client, versions)
        return await compute()


class InstanceCache(DeclaredQuery[ResultT], Generic[ResultT]):
    """A cached row of a model, looked up by one key.

    >>> class EventBySlug(InstanceCache[Event]):
    ...     model = Event
    ...     key_fields = ("slug",)
    >>> event = await EventBySlug("pycon")

    A missing row raises Tortoise's ``DoesNotExist``, several raise ``MultipleObjectsReturned``.

    ``select_related = ("organizer", "venue__city")`` attaches these relations to the instance, as if they had been
    fetched with it. It takes foreign keys and one-to-one relations, also backwards, to cached models. A relation
    without a row is None.

    A class that defines ``get_instance`` finds an instance, or None, in another way. The result is stored by the key.
    It is invalidated when a row that has, or had, these values of the key is written:

    >>> class NextEvent(InstanceCache[Event | None]):
    ...     model = Event
    ...     key_fields = ("organizer",)
    ...
    ...     async def get_instance(self, organizer: int) -> Event | None:
    ...         return await Event.filter(organizer_id=organizer, state="open").order_by("start").first()
    """

    select_related: ClassVar[Sequence[str]] = ()

    async def get_instance(self, *args: Any, **params: Any) -> ResultT:
        """Finds the instance, if overridden. Receives the key by name, a relation by its value.

        It runs in the context in which the cache was opened, outside of any transaction. If its caller is inside a
        transaction, it runs in the caller's context.
        """
        raise NotImplementedError

    @classmethod
    async def get_instances(cls, *args: Any, **params: Any) -> Any:
        """Finds many instances at once, if overridden. Replaces ``get_instance``. See ``ResultCache.get_results``."""
        raise NotImplementedError(f"{cls.__name__} has no get_instances.")

    def finish(self, found: Sequence[Any]) -> ResultT:
        return cast("ResultT", exactly_one(self._model, found))


class QuerysetCache(ListMethods[M], DeclaredQuery[list[M]], Generic[M]):
    """A cached list of the rows of a model that share a key, with its own ``order_by`` and ``limit``.

    >>> class LatestEvents(QuerysetCache[Event]):
    ...     model = Event
    ...     key_fields = ("organizer",)
    ...     order_by = ["-created"]
    ...     limit = 10
    >>> events = await LatestEvents(organizer=user)

    ``select_related`` works as in ``InstanceCache``. A class that defines ``get_result`` works like a ``ResultCache``.
    """

    select_related: ClassVar[Sequence[str]] = ()

    async def get_result(self, *args: Any, **params: Any) -> Any:
        """Computes the result, if overridden. See ``ResultCache``."""
        raise NotImplementedError

    @classmethod
    async def get_results(cls, *args: Any, **params: Any) -> Any:
        """Computes many results at once, if overridden. Replaces ``get_result``. See ``ResultCache``."""
        raise NotImplementedError(f"{cls.__name__} has no get_results.")

    def finish(self, found: Sequence[Any]) -> list[M]:
        return list(found)


class ResultCache(DeclaredQuery[T], Generic[T]):
    """A cached result computed from the rows of a model that share a key: a sum, a list of values, a dict.

    >>> class Titles(ResultCache[list[str]]):
    ...     model = Event
    ...     key_fields = ("organizer",)
    ...
    ...     async def get_result(self, organizer: int) -> list[str]:
    ...         return await Event.filter(organizer_id=organizer).values_list("title", flat=True)
    >>> titles = await Titles(organizer=user)

    The result is stored by the key. It is invalidated when a row that has, or had, these values of the key is written.
    Instances in it are stored as references, so they are as fresh as their rows. The return annotation may name
    dataclasses, models of pydantic, enums and others; their objects then need no ``codec``.
    """

    async def get_result(self, *args: Any, **params: Any) -> T | DontCache[T]:
        """Computes the result. Receives the key by name, a relation by its value.

        It runs in the context in which the cache was opened, outside of any transaction. If its caller is inside a
        transaction, it runs in the caller's context.
        """
        raise NotImplementedError(f"{type(self).__name__} needs a get_result method.")

    @classmethod
    async def get_results(cls, *args: Any, **params: Any) -> Any:
        """Computes many results at once, if overridden. Replaces ``get_result``.

        >>> class Sizes(ResultCache[int]):
        ...     model = Event
        ...     key_fields = ("organizer",)
        ...
        ...     @classmethod
        ...     async def get_results(cls, organizers: list[int]) -> dict[int, int]:
        ...         events = Event.filter(organizer_id__in=organizers)
        ...         ids = await events.values_list("organizer_id", flat=True)
        ...         return {organizer: ids.count(organizer) for organizer in organizers}

        All results that lookups of one tick miss are one call. It receives the values of the key, or tuples of them
        for a key of several fields. It returns a list with a result for each, in the same order, or a dict by value,
        where a missing result is None. An exception in the place of a result is raised for that one alone.
        """
        raise NotImplementedError(f"{cls.__name__} has no get_results.")


class QuerysetExistsCache(DeclaredQuery[bool]):
    """A cached boolean: True if any row of a model has these values of a key.

    >>> class HasEvents(QuerysetExistsCache):
    ...     model = Event
    ...     key_fields = ("organizer",)
    >>> await HasEvents(organizer=user)
    True
    """

    async def count_rows(self, rows: QuerySet[Any]) -> bool:
        """Returns True if there are any rows."""
        return await rows.exists()


class QuerysetCountCache(DeclaredQuery[int]):
    """A cached number of rows of a model that have these values of a key.

    >>> class EventCount(QuerysetCountCache):
    ...     model = Event
    ...     key_fields = ("organizer",)
    >>> await EventCount(organizer=user)
    3
    """

    async def count_rows(self, rows: QuerySet[Any]) -> int:
        """Returns the number of rows."""
        return await rows.count()


COUNTING: Final = (QuerysetExistsCache, QuerysetCountCache)
