"""Attributes of cache classes. An attribute that would have no effect is an error."""

from inspect import iscoroutinefunction
from typing import Any, Final, cast

from aiomodelcache.declare.annotations import returned_by
from aiomodelcache.declare.classes import COUNTING, DeclaredQuery, InstanceCache, QuerysetCache, ResultCache
from aiomodelcache.declare.options import CLASS_ATTRIBUTES, META_ATTRIBUTES
from aiomodelcache.declare.related import RELATED
from aiomodelcache.exceptions import CacheConfigurationError

_RELATED_ATTRIBUTES: Final = frozenset({"model", "key_fields", "relation"})


def is_computed(query: type) -> bool:
    """Returns True if a cache class stores a computed result, and False if it stores the primary keys of rows."""
    if any(
        name in vars(cls) for name in ("get_instance", "get_result", "get_results") for cls in _written_by_users(query)
    ):
        return True
    return issubclass(query, (ResultCache, *COUNTING))


def _method(query: type) -> str | None:
    """Returns the name of the method that computes the result of this kind of class."""
    if issubclass(query, InstanceCache):
        return "get_instance"
    return "get_result" if issubclass(query, QuerysetCache | ResultCache) else None


def returned_by_class(query: type) -> Any:
    """Returns the annotated type of what a class of computed results computes, or Any."""
    name = _method(query)
    bases: list[type] = [InstanceCache, QuerysetCache, ResultCache]
    found = [base for base in bases if issubclass(query, base)]
    return returned_by(query, name, found[0]) if name is not None else Any


def _written_by_users(query: type) -> list[type]:
    return [cls for cls in query.__mro__ if not cls.__module__.startswith(("aiomodelcache.", "typing", "builtins"))]


def _check_bulk_method(query: type[DeclaredQuery[Any]], method: Any, *, single: bool) -> None:
    """Checks a class's ``get_results``. Raises ``CacheConfigurationError``."""
    where = f"{query.__name__}.get_results"
    if not issubclass(query, ResultCache):
        raise CacheConfigurationError(f"{where} has no effect: remove it, or derive from ResultCache.")
    if single:
        raise CacheConfigurationError(f"{where} replaces get_result, which has no effect: remove one of them.")
    if not (isinstance(method, classmethod) and iscoroutinefunction(cast("Any", method).__func__)):
        raise CacheConfigurationError(f"{where} is not a class method: define it by @classmethod and async def.")


def class_attributes(query: type[DeclaredQuery[Any]]) -> dict[str, Any]:
    """Returns the settings of a cache class.

    Raises ``CacheConfigurationError`` for a missing method or relation, and for an attribute that has no effect.
    """
    origin = query.__name__
    attributes = {
        name: value
        for cls in reversed(_written_by_users(query))
        for name, value in vars(cls).items()
        if not name.startswith("_")
    }
    computes = is_computed(query)
    method_name = _method(query)
    if issubclass(query, ResultCache) and attributes.keys().isdisjoint(("get_result", "get_results")):
        raise CacheConfigurationError(f"{origin} has no get_result: define it to compute the result.")
    if "get_results" in attributes:
        _check_bulk_method(query, attributes.pop("get_results"), single="get_result" in attributes)
    if issubclass(query, RELATED) and "relation" not in attributes:
        raise CacheConfigurationError(
            f'{origin} has no relation: name the one to follow, like "venue" or "venue__city".'
        )
    for name in sorted(attributes):
        if name in ("get_instance", "get_result"):
            if name != method_name:
                raise CacheConfigurationError(
                    f"{origin}.{name} has no effect: remove it, or derive from another class."
                )
            if not iscoroutinefunction(attributes[name]):
                raise CacheConfigurationError(f"{origin}.{name} is not a coroutine function: define it by `async def`.")
        if name in META_ATTRIBUTES - CLASS_ATTRIBUTES:
            raise CacheConfigurationError(f"{origin}.{name} belongs to a ModelCacheManager: declare key_fields.")
        if name == "relation" and not issubclass(query, RELATED):
            raise CacheConfigurationError(
                f"{origin}.relation has no effect: derive from RelatedInstanceCache or RelatedQuerysetCache."
            )
        if name in CLASS_ATTRIBUTES - _RELATED_ATTRIBUTES and issubclass(query, RELATED):
            raise CacheConfigurationError(
                f"{origin}.{name} has no effect, because the class stores no entries of its own: "
                f"set it in {query.model.__name__}.CacheMeta, if it belongs there."
            )
        if name == "select_related" and (computes or not issubclass(query, InstanceCache | QuerysetCache)):
            raise CacheConfigurationError(
                f"{origin}.{name} is for rows: remove it, or derive from InstanceCache or QuerysetCache."
            )
        if name in ("order_by", "limit", "paged") and (computes or not issubclass(query, QuerysetCache)):
            raise CacheConfigurationError(f"{origin}.{name} is for lists: remove it, or derive from QuerysetCache.")
        if name == "codec" and (not computes or issubclass(query, COUNTING)):
            raise CacheConfigurationError(f"{origin}.{name} is for computed results: remove it.")
        if name in ("stale_if_error", "soft_timeout") and not computes:
            raise CacheConfigurationError(f"{origin}.{name} is for computed results: remove it.")
        value = attributes[name]
        is_method = callable(value) or isinstance(value, classmethod | staticmethod | property)
        if name not in CLASS_ATTRIBUTES and not is_method:
            raise CacheConfigurationError(
                f"{origin}.{name} is not a setting of the cache. It may set: {', '.join(sorted(CLASS_ATTRIBUTES))}."
            )
    return {name: value for name, value in attributes.items() if name in CLASS_ATTRIBUTES}
