"""``@cached``: results of a coroutine function, cached by its arguments."""

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Iterable, Mapping
from functools import partial, update_wrapper
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, cast, overload

from tortoise.models import Model

from aiomodelcache.declare.annotations import return_type
from aiomodelcache.declare.options import key_option
from aiomodelcache.declare.registry import module_of
from aiomodelcache.declare.value_declarations import ValueDeclaration, tuple_of
from aiomodelcache.declare.values import BaseValueQuery, T
from aiomodelcache.durations import Duration
from aiomodelcache.encoding.codec import Codec
from aiomodelcache.entries.policy import InvalidationType
from aiomodelcache.entries.results import DontCache
from aiomodelcache.exceptions import CacheConfigurationError
from aiomodelcache.open_cache import default_cache
from aiomodelcache.write.manual import clear_declarations, transactions

if TYPE_CHECKING:
    from aiomodelcache.query.explain import Explanation

P = ParamSpec("P")
Rest = ParamSpec("Rest")
Tag = Callable[..., str | Iterable[str]]
"""A function of the arguments of a call that returns the names of its tags."""


# As a decorator ----------------------------------------------------------------------------------------------


class CachedFunction(Generic[P, T]):
    """A coroutine function whose results are cached. See ``cached``."""

    def __init__(
        self,
        function: Callable[P, Coroutine[Any, Any, T | DontCache[T]]],
        declaration: ValueDeclaration,
        key: Callable[..., Any] | None,
        bound: tuple[Any, ...] = (),
    ) -> None:
        self._function = function
        self._declaration = declaration
        self._key_of = key
        self._bound = bound
        update_wrapper(self, function)
        mark: Any = getattr(inspect, "markcoroutinefunction", None)  # since Python 3.12
        if mark is not None:
            mark(self)
        else:
            self._is_coroutine = getattr(asyncio.coroutines, "_is_coroutine")  # noqa: B009

    def __repr__(self) -> str:
        return f"<cached {self._declaration.name}>"

    @property
    def declaration(self) -> ValueDeclaration:
        """The name and the settings of the function's results."""
        return self._declaration

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.query(*args, **kwargs)

    def __get__(
        self: "CachedFunction[Concatenate[Any, Rest], T]", instance: object, owner: type | None = None
    ) -> "CachedFunction[Rest, T]":
        if instance is None:
            return cast("CachedFunction[Rest, T]", self)
        bound = CachedFunction(self._function, self._declaration, self._key_of, (*self._bound, instance))
        return cast("CachedFunction[Rest, T]", bound)

    def query(self, *args: P.args, **kwargs: P.kwargs) -> "ValueQuery[T]":
        """Returns the call as a lazy query, for a ``BatchCacheQuery``."""
        function: Any = self._function
        arguments = self._declaration.arguments(*self._bound, *args, **kwargs)
        key = arguments if self._key_of is None else self._key_of(*self._bound, *args, **kwargs)
        return ValueQuery(self._declaration, key, partial(function, *self._bound, *args, **kwargs))

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Returns the key in the store for these arguments. Raises ``CacheNotOpen``."""
        _, key = self.query(*args, **kwargs).locate(default_cache().usable())
        return key.decode("utf-8", "backslashreplace")

    async def explain(self, *args: P.args, **kwargs: P.kwargs) -> "Explanation":
        """Returns, as data, the source that would answer a call with these arguments now, and the reason."""
        return await self.query(*args, **kwargs).explain()

    async def refresh(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Computes the result for these arguments now, stores it in place of the former one, and returns it.

        Results that other callers are computing already are not stored. Raises the exceptions of the function.
        """
        return await self.query(*args, **kwargs).refresh()

    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Invalidates the result for these arguments in all processes. Inside a transaction, at COMMIT."""
        await self.query(*args, **kwargs).invalidate()

    async def clear(self) -> None:
        """Invalidates all results of this function in all processes, in O(1). Raises ``BackendError``.

        Inside a transaction it takes effect at COMMIT. If the backend cannot be reached then, the invalidation is kept
        and sent later.
        """
        cache = default_cache().writable()
        await clear_declarations(cache, [(self._declaration.result(cache), transactions(cache))])


class ValueQuery(BaseValueQuery[T], Generic[T]):
    """A lazy call of a cached function: the function runs only if the query is awaited and misses."""

    __slots__ = ()


@overload
def cached(function: Callable[P, Coroutine[Any, Any, T | DontCache[T]]], /) -> CachedFunction[P, T]: ...


@overload
def cached(
    *,
    timeout: Duration | Callable[[Any], Duration | None] | None = None,
    negative_timeout: Duration | None = None,
    allowtime: Duration | None = None,
    version: object = None,
    key: Callable[..., Any] | None = None,
    codec: Codec | None = None,
    near: bool | None = None,
    invalidation: InvalidationType = InvalidationType.UNSET,
    depends_on: type[Model] | Iterable[type[Model]] = (),
    tags: str | Tag | Iterable[str | Tag] = (),
    stale_if_error: Duration | None = None,
    soft_timeout: Duration | None = None,
    sliding: bool = False,
    cache_errors: Mapping[type[Exception], Duration] | None = None,
) -> Callable[[Callable[P, Coroutine[Any, Any, T | DontCache[T]]]], CachedFunction[P, T]]: ...


def cached(
    function: Callable[..., Coroutine[Any, Any, Any]] | None = None,
    /,
    *,
    timeout: Duration | Callable[[Any], Duration | None] | None = None,
    negative_timeout: Duration | None = None,
    allowtime: Duration | None = None,
    version: object = None,
    key: Callable[..., Any] | None = None,
    codec: Codec | None = None,
    near: bool | None = None,
    invalidation: InvalidationType = InvalidationType.UNSET,
    depends_on: type[Model] | Iterable[type[Model]] = (),
    tags: str | Tag | Iterable[str | Tag] = (),
    stale_if_error: Duration | None = None,
    soft_timeout: Duration | None = None,
    sliding: bool = False,
    cache_errors: Mapping[type[Exception], Duration] | None = None,
) -> Any:
    """Caches the results of a coroutine function by its arguments, for as long as what it reads stays the same.

    >>> @cached
    ... async def front_page() -> list[dict]:
    ...     events = await Event.filter(state="open").order_by("start").limit(20).prefetch_related("venue")
    ...     return [{"title": event.title, "city": event.venue.city} for event in events]
    >>> await front_page()

    What the function reads through ``Event.cache`` and through Tortoise is recorded, and checked at each call. A result
    that is older than an acknowledged write is not returned. In a transaction the function is always called.

    >>> @cached(timeout=60, invalidation=InvalidationType.OFF)
    ... async def permissions(actor: int, organisation: int) -> list[str]:
    ...     return await ask_the_directory(actor, organisation)
    >>> await permissions(7, organisation=3)
    >>> await permissions.invalidate(7, 3)
    >>> batch = BatchCacheQuery(mine=permissions.query(7, 3), event=Event.cache.get(id=1))

    ``invalidation=InvalidationType.OFF``: nothing is recorded, and a result ends by its timeout or ``invalidate``.
    ``depends_on``: models that every result depends on, beside those that are recorded. ``tags``: names, or functions
    of the arguments that return names, by which ``ModelCache.invalidate_tags`` invalidates results.

    ``stale_if_error``: for so long after its timeout, the last good value answers if computing fails, and with
    ``soft_timeout`` also if computing takes longer than that. ``cache_errors``: exceptions that are stored like values,
    by type, and for how long. ``timeout`` may be a function of the result. ``sliding``: a hit in the last half of a
    result's life extends the life to the full timeout.

    Durations are seconds, a ``timedelta``, or text like ``"5m"``. ``negative_timeout`` is for None; for ``allowtime``
    see ``ValueCache``. ``key`` takes the arguments and returns the key of the result, by default all arguments.
    Concurrent callers share one computation. Other exceptions are passed on to the callers and not stored. The function
    runs in the context in which the cache was opened, not in its caller's. Arguments that are instances are read again,
    and are dependencies.

    The return annotation may name dataclasses, models of pydantic, enums and others; their objects then need no
    ``codec``.

    Raises ``CacheConfigurationError`` for a wrong setting, or if the function is not a coroutine function.
    """

    def decorate(function: Callable[..., Coroutine[Any, Any, Any]]) -> CachedFunction[Any, Any]:
        if not inspect.iscoroutinefunction(function) or not hasattr(function, "__qualname__"):  # such as a partial
            raise CacheConfigurationError(
                f"@cached is for coroutine functions, and {function!r} is not one: define it by `async def`."
            )
        name = f"{module_of(function)}.{function.__qualname__}"
        declaration = ValueDeclaration(
            name=name,
            origin=name,
            signature=inspect.signature(function),
            timeout=timeout,
            negative_timeout=negative_timeout,
            allowtime=allowtime,
            version=version,
            codec=codec,
            near=near,
            invalidation=invalidation,
            depends_on=tuple_of(name, "depends_on", depends_on),
            tags=tuple_of(name, "tags", tags),
            stale_if_error=stale_if_error,
            soft_timeout=soft_timeout,
            sliding=sliding,
            cache_errors=cache_errors,
            returns=partial(return_type, function),
        )
        declaration.check()
        return CachedFunction(function, declaration, key_option(name, key, "the arguments"))

    return decorate if function is None else decorate(function)
