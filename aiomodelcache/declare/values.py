"""``ValueCache``: values of any kind, computed by a method and cached by its arguments.

Values batch with other lookups. Concurrent callers share one computation. A value expires by timeout or is
invalidated by hand.
"""

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, TypeVar, cast

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.models import Model

from aiomodelcache.backends.protocol import Clear
from aiomodelcache.declare.annotations import returned_by
from aiomodelcache.declare.bulk_results import BulkMethod, bulk_method, compute_in_bulk
from aiomodelcache.declare.registry import declared_values, path_of
from aiomodelcache.declare.resilience import returning_errors
from aiomodelcache.declare.value_declarations import BULK_SIGNATURE, Timeout, ValueDeclaration, key_part, tuple_of
from aiomodelcache.durations import Duration
from aiomodelcache.encoding.codec import Codec
from aiomodelcache.encoding.messages import described, safe_cause, safe_reason
from aiomodelcache.encoding.together import KnownKeys
from aiomodelcache.entries.derived import DerivedEntries
from aiomodelcache.entries.policy import InvalidationType
from aiomodelcache.entries.results import Compute, DontCache, ResultEntries
from aiomodelcache.open_cache import OpenCache, default_cache
from aiomodelcache.plans.computing import refuse_cycle
from aiomodelcache.plans.requests import FastLookup, Plan
from aiomodelcache.plans.results import result_at, result_hit
from aiomodelcache.query.base import CacheQuery
from aiomodelcache.query.computed import computed
from aiomodelcache.query.dependencies import fresh_arguments
from aiomodelcache.scopes.request import Scope
from aiomodelcache.scopes.tracking import Tracker, TrackingBlock, current_tracker
from aiomodelcache.write.manual import clear_declarations, invalidate_entries, is_invalidated_in, transactions

if TYPE_CHECKING:
    from aiomodelcache.query.explain import Explanation

T = TypeVar("T")
_PLAIN_TYPES: Final = frozenset({int, str, bool, float, bytes, type(None)})
"""Types of arguments that hold no instances."""


class BaseValueQuery(CacheQuery[T]):
    """A query for one value. The value is stored under ``key``; ``compute`` returns it on a miss."""

    __slots__ = ("_compute", "_declaration", "_key")

    def __init__(
        self, declaration: ValueDeclaration, key: Any, compute: Callable[[], Awaitable[T | DontCache[T]]]
    ) -> None:
        super().__init__()
        self._declaration = declaration
        self._key = key
        self._compute = compute

    def __repr__(self) -> str:
        key: object = self._key
        parts = cast("tuple[object, ...]", key if isinstance(key, tuple) else (key,))
        return f"<{self._declaration.origin}({', '.join(map(described, parts))})>"

    def locate(self, cache: OpenCache) -> tuple[ResultEntries, bytes]:
        """Returns the entries and the key of the value. Raises ``TypeError`` if an argument cannot be part of a key."""
        result = self._declaration.result(cache)
        key: Any = self._key
        try:
            is_plain = cast("Any", type(key)) is tuple and _PLAIN_TYPES.issuperset(map(type, key))
            return result, result.key(([*key] if is_plain else key_part(key),))
        except TypeError as error:
            raise TypeError(f"{self._declaration.origin}: {safe_reason(error)}") from safe_cause(error)

    def located(self, cache: OpenCache) -> tuple[Any, Iterable[bytes]]:
        result, key = self.locate(cache)
        return result, (key,)

    def transaction(self, cache: OpenCache) -> BaseDBAsyncClient | None:
        """Returns the open transaction in which the value is computed, if any.

        A tracked value is computed in every transaction, because the transaction may see uncommitted rows. A value
        that is not tracked is computed only in a transaction that has invalidated it. Callers outside of the
        transaction are unaffected until it commits.
        """
        clients = transactions(cache)
        if not clients or self._declaration.tracked:
            return next(iter(clients), None)
        result, key = self.locate(cache)
        return next((client for client in clients if is_invalidated_in(client, cache, result, key)), None)

    def fast_lookup(self, cache: OpenCache) -> FastLookup:
        result, key = self.locate(cache)
        refuse_cycle(result, key)  # here, because the plan may run in another context than the caller's
        return _LocatedValue(self, result, key)

    def plan(self, cache: OpenCache, scope: Scope | None) -> Plan[T]:
        result, key, compute = self._computation(cache)
        value: T = yield from computed(cache, result, key, compute, scope)
        return value

    def refresh_plan(self, cache: OpenCache) -> Plan[T]:
        """Returns the plan that computes the value, whatever is stored."""
        value: T = yield from result_at(*self._computation(cache), cache.predictions, forced=True)
        return value

    def _computation(self, cache: OpenCache) -> tuple[ResultEntries, bytes, Compute]:
        """Returns the entries and the key of the value, and the function that computes it."""
        result, key = self.locate(cache)
        return result, key, self._computing(cache, result, key)

    def _computing(self, cache: OpenCache, result: ResultEntries, key: bytes) -> Compute:
        """Returns the function that computes the value."""
        errors = result.resilience.errors
        compute: Compute = partial(returning_errors, errors, self._run) if errors else self._run
        if isinstance(result, DerivedEntries):
            function: Any = self._compute
            if cast("Any", type(function)) is partial and not self._records_plainly(function):
                function = partial(self._compute_tracked, cache)
            function = partial(returning_errors, errors, function) if errors else function
            compute = partial(result.track, result, function)
        return compute

    def _run(self, client: BaseDBAsyncClient | None) -> Awaitable[Any]:
        return self._compute()

    def _records_plainly(self, call: "partial[Any]") -> bool:
        """Returns True if a call is recorded, and depends on nothing else: on no tag, and no row of an argument."""
        plain = _PLAIN_TYPES.issuperset(map(type, (*call.args, *call.keywords.values())))
        return plain and self._declaration.records and not self._declaration.tags

    async def _compute_tracked(self, cache: OpenCache) -> Any:
        call, tracker = cast("Any", self._compute), current_tracker()
        if tracker is None:
            return await call()
        args, kwargs = await self._depend_on_arguments(cache, tracker, call.args, call.keywords)
        with nullcontext() if self._declaration.records else TrackingBlock(None):
            return await call.func(*args, **kwargs)

    async def _depend_on_arguments(
        self, cache: OpenCache, tracker: Tracker, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        """Adds the tags of a call to the tracker. Returns the arguments, with the rows of instances as they are now.

        The caller's instances may be older.
        """
        if self._declaration.tags:
            tags = self._declaration.tags_of(args, kwargs)
            await cache.derivations.depend_on_versions(tracker, [cache.space.tag_key(tag) for tag in tags])
        if not self._declaration.records or _PLAIN_TYPES.issuperset(map(type, (*args, *kwargs.values()))):
            return args, kwargs
        current = {name: await fresh_arguments(value) for name, value in kwargs.items()}
        return tuple([await fresh_arguments(value) for value in args]), current

    async def explain(self) -> "Explanation":
        """Returns, as data, the source that would answer now, and the reason. Sends no SQL, and computes nothing."""
        from aiomodelcache.query.explain import explain_key

        cache = self.open_cache()
        result, key = self.locate(cache)
        return await explain_key(cache, self, result, (), key)

    async def refresh(self) -> T:
        """Computes the value now, stores it in place of the former one, and returns it.

        Values that other callers are computing already are not stored. Raises the exceptions of the computation.
        """
        cache = self.open_cache()
        result, key = self.locate(cache)
        await invalidate_entries(cache, result, [Clear(key)], transactions(cache))
        return await _Refresh(self)

    async def invalidate(self) -> None:
        """Invalidates this value in all processes. Inside a transaction it takes effect at COMMIT."""
        cache = (self.explicit_cache or default_cache()).writable()
        result, key = self.locate(cache)
        await invalidate_entries(cache, result, [Clear(key)], transactions(cache), allow_ms=result.policy.allow_ms)


class _Refresh(CacheQuery[T]):
    """A value that is computed whatever is stored."""

    __slots__ = ("_query",)

    def __init__(self, query: BaseValueQuery[T]) -> None:
        super().__init__(query.explicit_cache)
        self._query = query

    def located(self, cache: OpenCache) -> tuple[Any, Iterable[bytes]]:
        return self._query.located(cache)

    def transaction(self, cache: OpenCache) -> BaseDBAsyncClient | None:
        return self._query.transaction(cache)

    def plan(self, cache: OpenCache, scope: Scope | None) -> Plan[T]:
        return self._query.refresh_plan(cache)


class _LocatedValue:
    """One await of a query, with the key of its arguments as they are now."""

    __slots__ = ("_epoch_key", "_key", "_query", "_result")
    lookup_event: None = None

    def __init__(self, query: BaseValueQuery[Any], result: ResultEntries, key: bytes) -> None:
        self._query = query
        self._result = result
        self._key = key
        self._epoch_key = result.epoch_of(key)

    def collect_keys(self, cache: OpenCache, wanted: dict[bytes, None], /) -> KnownKeys | None:
        return cache.predictions.predict(self._key).collect_keys(self._epoch_key, self._key, wanted)

    def try_hit(self, cache: OpenCache, found: Mapping[bytes, bytes | None], /) -> Any:
        return result_hit(self._result, self._epoch_key, self._key, cache.predictions.predict(self._key), found)

    def start_plan(self, cache: OpenCache, /) -> Plan[Any]:
        return self._query.plan(cache, None)


# As a class ---------------------------------------------------------------------------------------------------


class ValueCache(BaseValueQuery[T], Generic[T]):
    """A value of any kind, computed by ``get_value`` and cached by its arguments.

    >>> class Rate(ValueCache[Decimal]):
    ...     timeout = 60
    ...
    ...     async def get_value(self, base: str, quote: str = "EUR") -> Decimal:
    ...         return await ask_the_exchange(base, quote)
    >>> rate = await Rate("USD")
    >>> await Rate("USD").invalidate()

    The return annotation may name dataclasses, models of pydantic, enums and others, which then need no ``codec``.

    An instance is a query like any other: it is lazy, can be awaited any number of times, and can be part of batches.
    ``timeout``, ``negative_timeout`` (for None) and ``allowtime`` are durations: seconds, a ``timedelta``, or text like
    ``"5m"``. For ``allowtime`` after an invalidation, callers get the old value while one of them computes a new one. A
    new ``version`` makes old values unusable. For ``stale_if_error``, ``soft_timeout``, ``cache_errors`` and a
    ``timeout`` that is a function of the value, see ``cached``.
    """

    timeout: ClassVar[Timeout] = None
    negative_timeout: ClassVar[Duration | None] = None
    allowtime: ClassVar[Duration | None] = None
    version: ClassVar[object] = None
    codec: ClassVar[Codec | None] = None
    near: ClassVar[bool | None] = None
    invalidation: ClassVar[InvalidationType] = InvalidationType.UNSET
    depends_on: ClassVar[type[Model] | tuple[type[Model], ...]] = ()
    tags: ClassVar[tuple[str | Callable[..., str | Iterable[str]], ...]] = ()
    stale_if_error: ClassVar[Duration | None] = None
    soft_timeout: ClassVar[Duration | None] = None
    sliding: ClassVar[bool] = False
    cache_errors: ClassVar[Mapping[type[Exception], Duration] | None] = None
    _declared: ClassVar[ValueDeclaration]
    _bulk: ClassVar[BulkMethod | None]
    """The class's ``get_values``, or None."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        arguments = self._declared.arguments(self, *args, **kwargs)[1:]
        super().__init__(self._declared, arguments, partial(self.get_value, *args, **kwargs))
        self._key = self.key(*args, **kwargs)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._bulk = bulk_method(cls, "get_values")
        cls._declared = ValueDeclaration(
            name=path_of(cls),
            origin=cls.__name__,
            signature=BULK_SIGNATURE if cls._bulk else inspect.signature(cast("Any", cls).get_value),
            timeout=cls.timeout,
            negative_timeout=cls.negative_timeout,
            allowtime=cls.allowtime,
            version=cls.version,
            codec=cls.codec,
            near=cls.near,
            invalidation=cls.invalidation,
            depends_on=tuple_of(cls.__name__, "depends_on", cls.depends_on),
            tags=tuple_of(cls.__name__, "tags", cls.tags),
            stale_if_error=cls.stale_if_error,
            soft_timeout=cls.soft_timeout,
            sliding=cls.sliding,
            cache_errors=cls.cache_errors,
            returns=partial(returned_by, cls, "get_value", ValueCache),
        )
        declared_values.add(cls)

    async def get_value(self, *args: Any, **kwargs: Any) -> T | DontCache[T]:
        """Computes the value. Runs in the context in which the cache was opened, not in the caller's.

        It may await other values. Awaiting the value that it computes raises ``CacheError``.
        """
        raise NotImplementedError(f"{type(self).__name__} needs a get_value method.")

    @classmethod
    async def get_values(cls, *args: Any, **params: Any) -> Any:
        """Computes many values at once, if overridden. Replaces ``get_value``.

        >>> class Rate(ValueCache[Decimal]):
        ...     @classmethod
        ...     async def get_values(cls, bases: list[str]) -> dict[str, Decimal]:
        ...         return await ask_the_exchange_for_all(bases)

        All values that lookups of one tick miss are one call. It receives the argument of each value, or a tuple of its
        arguments if there are several. It returns a list with a value for each, in the same order, or a dict by
        argument. A value that the dict lacks is None. An exception in the place of a value is raised for that one
        alone. Arguments are passed by position. Each value depends on everything that the call has read.
        """
        raise NotImplementedError(f"{cls.__name__} has no get_values.")

    def _computing(self, cache: OpenCache, result: ResultEntries, key: bytes) -> Compute:
        bulk = self._bulk
        if bulk is None:
            return super()._computing(cache, result, key)
        method = bulk._replace(call=partial(self._get_all, cache, bulk))
        return partial(compute_in_bulk, method, result, key, cast("Any", self._compute).args)

    async def _get_all(self, cache: OpenCache, bulk: BulkMethod, arguments: list[tuple[Any, ...]]) -> Any:
        """Computes the values for each of these arguments."""
        tracker = current_tracker()
        if tracker is not None:
            arguments = [(await self._depend_on_arguments(cache, tracker, args, {}))[0] for args in arguments]
        with nullcontext() if self._declaration.records else TrackingBlock(None):
            return await bulk.call(arguments)

    def key(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the key of the value for the arguments of ``get_value``: by default all of them.

        An override returns any value that a cache key can hold. It may be a number, a string, a date, an instance of a
        model, or a tuple of such values.
        """
        return self._declared.arguments(self, *args, **kwargs)[1:]

    @classmethod
    async def clear(cls) -> None:
        """Invalidates all values of this class in all processes, in O(1). Raises ``BackendError``.

        Inside a transaction it takes effect at COMMIT. If the backend cannot be reached then, the invalidation is kept
        and sent later.
        """
        cache = default_cache().writable()
        await clear_declarations(cache, [(cls._declared.result(cache), transactions(cache))])


def declaration_of(cls: type[ValueCache[Any]]) -> ValueDeclaration:
    """Returns the name and the settings of a class of values."""
    return cast("Any", cls)._declared  # type: ignore[no-any-return]
