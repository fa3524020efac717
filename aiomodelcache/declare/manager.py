"""``Event.cache``: the manager of a model's cache, and the attribute that returns the manager."""

from collections.abc import Awaitable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar, cast, overload

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.fields.relational import ManyToManyRelation
from tortoise.models import Model

from aiomodelcache.declare.registry import declare, declared
from aiomodelcache.durations import Duration
from aiomodelcache.encoding.keys import key_text
from aiomodelcache.encoding.messages import described
from aiomodelcache.entries.policy import InvalidationType
from aiomodelcache.open_cache import OpenCache, default_cache, default_cache_or_none
from aiomodelcache.orm.connections import named_client
from aiomodelcache.query.base import CacheQuery
from aiomodelcache.query.bulk import BulkQuery, ManyQuery
from aiomodelcache.query.lookups import (
    CountQuery,
    ExistsQuery,
    FilterQuery,
    GetOr404Query,
    GetOrNoneQuery,
    GetQuery,
    LookupQuery,
)
from aiomodelcache.query.prefetch import prefetch, set_related
from aiomodelcache.query.querysets import QuerysetQuery
from aiomodelcache.write.manual import clear_models, invalidate_key, invalidate_rows, invalidate_values
from aiomodelcache.write.many_to_many import list_query
from aiomodelcache.write.update import update_row

if TYPE_CHECKING:
    from aiomodelcache.query.explain import Explanation

M = TypeVar("M", bound=Model)
T = TypeVar("T")


class ModelCacheManager(Generic[M]):
    """The cache of one model: ``Event.cache``.

    Derive from it to declare keys outside the model, for models that are not a ``CachedModel``, or to add
    methods of your own:

    >>> class EventCaches(ModelCacheManager[Event]):
    ...     model = Event
    ...     get_key_fields_list = [("slug",)]
    ...
    ...     def upcoming(self, organizer):
    ...         return self.filter(organizer=organizer, state="upcoming")

    To let type checkers know the manager, declare ``cache: ClassVar["EventCaches"]`` in the model.

    Lookups return lazy queries. A lookup by fields that have no cache raises ``CacheNotRegistered``.
    """

    model: ClassVar[type[Model]]
    get_key_fields_list: ClassVar[Sequence[tuple[str, ...]]] = ()
    filter_key_fields_list: ClassVar[Sequence[tuple[str, ...]]] = ()
    cached_foreignkeys: ClassVar[Sequence[str]] = ()
    cached_manytomany: ClassVar[Sequence[str]] = ()
    timeout: ClassVar[Duration | None] = None
    negative_timeout: ClassVar[Duration | None] = None
    version: ClassVar[object] = None
    invalidation: ClassVar[InvalidationType] = InvalidationType.UNSET
    allowtime: ClassVar[Duration | None] = None
    order_by: ClassVar[Sequence[str]] = ()
    near: ClassVar[bool | None] = None
    write_through: ClassVar[bool | None] = None
    keep_unchanged: ClassVar[bool | None] = None
    relay: ClassVar[bool | None] = None
    queries: ClassVar[bool | None] = None
    queries_ignore: ClassVar[Sequence[str]] = ()
    queries_by: ClassVar[Sequence[str]] = ()
    paged: ClassVar[bool] = False

    def __init__(self, model: type[M], cache: OpenCache | None = None) -> None:
        self._model = model
        self._cache = cache

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        declare(cls)
        model: Any = cls.__dict__.get("model")
        if isinstance(model, type) and issubclass(model, Model) and not hasattr(model, "cache"):
            setattr(model, "cache", CacheAttribute())  # noqa: B010 - a plain model has no such attribute

    def __repr__(self) -> str:
        cache = self._cache or default_cache_or_none()
        entries = cache.models.get(self._model) if cache is not None else None
        keys = entries.describe() if entries is not None else "not bound to an open cache"
        return f"<{self._model.__name__}.cache: {keys}>"

    def using(self, connection: str | BaseDBAsyncClient, /) -> Self:
        """Returns the manager whose lookups ask another connection, by its alias or its client.

        >>> event = await Event.cache.using("default").get(slug="pycon")

        Keys contain the connection's name. Writes on that connection, like ``save(using_db=...)``, invalidate them;
        writes on other connections do not, even if they lead to the same database. Raises ``ConfigurationError`` for an
        unknown alias.
        """
        client = named_client(connection)
        return type(self)(cast("Any", self._model), (self._cache or default_cache()).using(client))

    def get(self, **key: Any) -> GetQuery[M]:
        """Returns a query for the one row with these values. Raises ``DoesNotExist`` or ``MultipleObjectsReturned``."""
        return GetQuery(self._model, key, self._cache)

    def get_or_none(self, **key: Any) -> GetOrNoneQuery[M]:
        """Returns a query for the one row with these values, or None. Awaited, raises ``MultipleObjectsReturned``."""
        return GetOrNoneQuery(self._model, key, self._cache)

    def get_or_404(self, **key: Any) -> GetOr404Query[M]:
        """Returns a query for the one row with these values.

        Awaiting it raises ``NotFoundError``, or the exception that the cache's ``not_found`` makes.
        """
        return GetOr404Query(self._model, key, self._cache)

    def filter(self, **key: Any) -> FilterQuery[M]:
        """Returns a query for the list of rows with these values."""
        return FilterQuery(self._model, key, self._cache)

    def all(self) -> FilterQuery[M]:
        """Returns a query for the list of all rows. ``filter_key_fields_list`` must contain the empty key ``()``."""
        return FilterQuery(self._model, {}, self._cache)

    def query(self, queryset: Awaitable[T], /, *, timeout: Duration | None = None) -> QuerysetQuery[T]:
        """Returns a query for the answer of any queryset of the model, which ends when anything changes that it read.

        >>> upcoming = Event.filter(start__gte=7, venue__city__name="Lisbon").order_by("start").limit(20)
        >>> events = await Event.cache.query(upcoming.prefetch_related("venue"), timeout="5m")
        >>> number = await Event.cache.query(Event.filter(state="open").count())

        Also takes ``first()``, ``get()``, ``values()``, ``in_bulk()`` and the like, and unions. Equal querysets share
        an answer: round moments in filters. Raises ``CacheError`` for ``select_for_update``, ``raw`` and functions
        that differ each time, and ``TypeError`` for a queryset of another model.
        """
        return QuerysetQuery(self._model, queryset, timeout, self._cache)

    def exists(self, **key: Any) -> ExistsQuery:
        """Returns a query that is True if a row has these values. The fields' list or unique key answers it."""
        return ExistsQuery(self._model, key, self._cache)

    def count(self, **key: Any) -> CountQuery:
        """Returns a query for the number of rows with these values. The fields' list or unique key answers it."""
        return CountQuery(self._model, key, self._cache)

    def get_many(self, values: Iterable[Any], key: str | tuple[str, ...] = "pk") -> CacheQuery[list[M]]:
        """Returns a query for the rows that exist, in the order of ``values``, each once.

        If several rows may have a value, all of them follow in the list's order: ``get_many([1, 2], key="organizer")``.
        """
        return cast("CacheQuery[list[M]]", ManyQuery(self._model, values, key, self._cache))

    def in_bulk(self, values: Iterable[Any], key: str | tuple[str, ...] = "pk") -> BulkQuery[M]:
        """Returns a query for the rows that exist, as a dict by value. ``key`` must be unique."""
        return BulkQuery(self._model, values, key, self._cache)

    get_query = get_from_cache = get
    filter_query = filter
    get_many_from_cache = get_many

    @overload
    def key(self, query: LookupQuery[Any], /) -> str: ...

    @overload
    def key(self, /, **key: Any) -> str: ...

    def key(self, query: LookupQuery[Any] | None = None, /, **key: Any) -> str:
        """Returns the key in Redis under which a lookup finds its entry, as ``redis-cli`` shows it.

        >>> Event.cache.key(slug="pycon")
        'amc:i:default:event:slug:spycon'

        Takes the values of a key, or a query like ``Event.cache.key(Event.cache.filter(organizer=1))``. If the fields
        are declared for both ``get`` and ``filter``, their values mean ``get``. Raises ``CacheNotRegistered``,
        ``CacheNotOpen`` and, for a bad value, ``ValueError``.
        """
        cache = self._cache or default_cache()
        cache = cache.usable() if cache.tenanted else cache
        return key_text(self._lookup(cache, query, key).locate(cache).key)

    @overload
    async def explain(self, query: LookupQuery[Any] | ManyToManyRelation[Any], /) -> "Explanation": ...

    @overload
    async def explain(self, /, **key: Any) -> "Explanation": ...

    async def explain(
        self, query: LookupQuery[Any] | ManyToManyRelation[Any] | None = None, /, **key: Any
    ) -> "Explanation":
        """Returns, as data, the source that would answer a lookup now, and the reason.

        >>> explanation = await Event.cache.explain(slug="pycon")
        >>> explanation.source, explanation.reason
        ('cache', 'hit')

        Takes the arguments of ``key``, or a many-to-many relation of an instance: ``explain(event.tags)``. Values and
        ``@cached`` functions have an ``explain`` of their own.

        Reads the entries that the lookup would read, in one or two round trips, and two more for each relation that it
        follows. Changes nothing: it sends no SQL and fills no entry.
        """
        from aiomodelcache.query.explain import explain

        cache = (self._cache or default_cache()).usable()
        lookup = list_query(query, cache) if isinstance(query, ManyToManyRelation) else query
        return await explain(cache, self._lookup(cache, lookup, key))

    @overload
    async def refresh(self, query: LookupQuery[T], /) -> T: ...

    @overload
    async def refresh(self, /, **key: Any) -> M | list[M]: ...

    async def refresh(self, query: LookupQuery[Any] | None = None, /, **key: Any) -> Any:
        """Reads a lookup's rows from the database and replaces the cached entries. Takes the arguments of ``key``.

        >>> event = await Event.cache.refresh(slug="pycon")
        >>> events = await Event.cache.refresh(Event.cache.filter(organizer=7))

        Returns and raises the same as the lookup. First it invalidates all entries of these values, and of the rows
        that have them now, like ``invalidate``; then it runs the lookup. So it is safe beside readers and writers:
        the fill of a reader that began earlier is refused. Costs two statements.
        """
        cache = (self._cache or default_cache()).usable()
        lookup = self._lookup(cache, query, key)
        located = lookup.locate(cache)
        entries = cache.entries_of(located.entry_set.schema.model)
        await invalidate_values(cache, entries, located.entry_set.attributes, located.values)
        return await lookup

    async def prefetch(self, instances: Iterable[M], /, *relations: str) -> None:
        """Fills relations of instances from the cache, in one round per level, however many instances there are.

        >>> events = await Event.cache.filter(organizer=7)
        >>> await Event.cache.prefetch(events, "organizer", "venue__city")
        >>> events[0].venue.city.name           # no I/O

        Fills foreign keys, one-to-one relations, cached many-to-many relations, and the reverse of foreign keys. For
        the reverse, ``filter_key_fields_list`` of the other model must have the foreign key. Relations that an instance
        has loaded already are kept. As with Tortoise's ``prefetch_related``, a row that several instances refer to is
        one object. Raises ``ValueError`` for a name that is not a relation, and ``CacheNotRegistered`` for a relation
        that the cache cannot fill.
        """
        cache = (self._cache or default_cache()).usable()
        await prefetch(cache, self._model, instances, relations)

    def set_related(self, instance: M, relation: str, row: Model | None, /) -> None:
        """Attaches a loaded row to a foreign key of an instance, without any I/O.

        >>> owners = await User.cache.in_bulk({event.organizer_id for event in events})
        >>> for event in events:
        ...     Event.cache.set_related(event, "organizer", owners[event.organizer_id])

        Raises ``TypeError`` for a row of another model, ``ValueError`` for one that the instance does not refer to.
        """
        set_related(self._cache or default_cache(), self._model, instance, relation, row)

    async def update(self, instance: M, /, **values: Any) -> None:
        """Writes only these columns of the instance's row, and sets them on the instance.

        >>> await Event.cache.update(event, title="PyCon", venue=venue, position=F("position") + 1)

        Works like ``save(update_fields=...)``: it writes columns with ``auto_now`` too, and sends the same signals.
        A relation takes an instance or its key. Values that the database computes (``F``) are read back by one
        statement in the same transaction. Without values it does nothing.

        Raises ``FieldError`` for a field that does not exist or cannot be written, and ``ValueError`` for a value that
        the field cannot have. Both are raised before anything is sent. If the update fails, the instance keeps its old
        values.
        """
        if not isinstance(instance, self._model):  # pyright: ignore[reportUnnecessaryIsInstance]  # untyped callers
            name = self._model.__name__
            raise TypeError(f"{name}.cache.update takes an instance of {name}; got {described(instance)}.")
        await update_row(instance, values)

    async def invalidate(self, rows: Any = None, /, **key: Any) -> int:
        """Invalidates rows that were written without Tortoise: by raw SQL, or by another program.

        ``rows`` is an instance, a primary key, a collection of either, or a queryset. ``key`` is the values of a key,
        as in ``invalidate(slug="x")``. Returns the number of rows. Inside a transaction it takes effect at COMMIT.
        Costs one statement, which reads the keys under which the rows are found now.
        """
        if (rows is None) == (not key):
            raise TypeError(
                f"{self._model.__name__}.cache.invalidate takes either rows or the values of a key; "
                "to invalidate all rows of the model, use clear()."
            )
        cache = (self._cache or default_cache()).writable()
        entries = cache.entries_of(self._model)
        return await (invalidate_key(cache, entries, key) if rows is None else invalidate_rows(cache, entries, rows))

    async def clear(self) -> None:
        """Invalidates all entries of this model in all processes, in O(1). Raises ``BackendError``.

        Inside a transaction it takes effect at COMMIT. If the backend is away then, the invalidation is sent later.
        """
        await clear_models((self._cache or default_cache()).writable(), [self._model])

    def _lookup(self, cache: OpenCache, query: LookupQuery[T] | None, key: dict[str, Any]) -> LookupQuery[Any]:
        """Returns ``query``, or the query for these values of a key. Raises ``CacheNotRegistered``."""
        name = self._model.__name__
        if (query is None) == (not key):
            raise TypeError(f'{name}.cache takes either the values of a key, like slug="x", or a query.')
        if query is not None:
            if not isinstance(query, LookupQuery):  # pyright: ignore[reportUnnecessaryIsInstance]  # untyped callers
                raise TypeError(f"{name}.cache takes the query of one key; got {described(query)}.")
            return query
        kind: Any = GetQuery if cache.entries_of(self._model).kind(key) == "get" else FilterQuery
        return cast("LookupQuery[Any]", kind(self._model, key, self._cache))


def manager_of(model: type[M], cache: OpenCache | None = None) -> ModelCacheManager[M]:
    """Returns a manager of a model, of the class declared for it if there is one."""
    opened = cache or default_cache_or_none()
    entries = opened.models.get(model) if opened is not None else None
    cls: Any = entries.manager if entries is not None else _declared_manager(model)
    return cast("ModelCacheManager[M]", (cls or ModelCacheManager)(model, cache))


def _declared_manager(model: type[Model]) -> type | None:
    managers: list[Any] = [cls for cls in declared if issubclass(cls, ModelCacheManager)]
    return next((cls for cls in managers if getattr(cls, "model", None) is model), None)


class CacheAttribute:
    """The ``cache`` attribute of a model: its manager, typed by the class that it is read from."""

    @overload
    def __get__(self, instance: None, owner: type[M]) -> ModelCacheManager[M]: ...

    @overload
    def __get__(self, instance: M, owner: type[M]) -> ModelCacheManager[M]: ...

    def __get__(self, instance: M | None, owner: type[M]) -> ModelCacheManager[M]:
        cache = default_cache_or_none()
        if cache is None:
            return manager_of(owner)
        manager: ModelCacheManager[M] | None = cache.managers.get(owner)
        if manager is None:
            manager = cache.managers[owner] = manager_of(owner)
        return manager

    def __set__(self, instance: Any, value: Any) -> None:
        raise AttributeError(f"{type(instance).__name__}.cache is the model's cache manager and cannot be assigned")
