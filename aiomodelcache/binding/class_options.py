"""Attributes of cache classes. An attribute that would have no effect is an error."""

from inspect import getattr_static, iscoroutinefunction
from typing import Any, Final

from aiomodelcache.declare.annotations import returned_by
from aiomodelcache.declare.bulk_results import check_bulk_method
from aiomodelcache.declare.classes import COUNTING, DeclaredQuery, InstanceCache, QuerysetCache, ResultCache
from aiomodelcache.declare.options import CLASS_ATTRIBUTES, META_ATTRIBUTES, refuse_misspelt
from aiomodelcache.declare.registry import declared_values, path_of
from aiomodelcache.declare.related import RELATED
from aiomodelcache.declare.values import ValueCache, declaration_of
from aiomodelcache.exceptions import CacheConfigurationError

_RELATED_ATTRIBUTES: Final = frozenset({"model", "key_fields", "relation"})
_METHODS: Final = frozenset({"get_instance", "get_result"})
"""The methods that compute one result."""
_BULK_METHODS: Final = frozenset({"get_instances", "get_results"})
"""The methods that compute many results. Each is named like the one that it replaces, in the plural."""


def is_computed(query: type) -> bool:
    """Returns True if a cache class stores a computed result, and False if it stores the primary keys of rows."""
    if any(name in vars(cls) for name in _METHODS | _BULK_METHODS for cls in _written_by_users(query)):
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


def _take_bulk_method(query: type[DeclaredQuery[Any]], attributes: dict[str, Any]) -> None:
    """Checks a class's bulk method, and removes it from the attributes. Raises ``CacheConfigurationError``."""
    single = _method(query)
    for name in _BULK_METHODS & attributes.keys():
        where = f"{query.__name__}.{name}"
        if single is None or name != f"{single}s":
            raise CacheConfigurationError(f"{where} has no effect: remove it, or derive from another class.")
        check_bulk_method(where, attributes.pop(name), single, both=single in attributes)


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
    _take_bulk_method(query, attributes)
    if issubclass(query, RELATED) and "relation" not in attributes:
        raise CacheConfigurationError(
            f'{origin} has no relation: name the one to follow, like "venue" or "venue__city".'
        )
    for name in sorted(attributes):
        if name in _METHODS:
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
        if name in ("stale_if_error", "soft_timeout", "sliding") and not computes:
            raise CacheConfigurationError(f"{origin}.{name} is for computed results: remove it.")
    refuse_misspelt(origin, attributes, CLASS_ATTRIBUTES)
    return {name: value for name, value in attributes.items() if name in CLASS_ATTRIBUTES}


def check_values() -> None:
    """Checks the declarations of all ``ValueCache`` classes. Raises ``CacheConfigurationError``."""
    seen: dict[str, type] = {}
    for cls in sorted(declared_values, key=lambda cls: (cls.__module__, cls.__qualname__)):
        if cls.__subclasses__():
            continue  # a base class
        other = seen.setdefault(path_of(cls), cls)
        if other is not cls:
            raise CacheConfigurationError(
                f"Two value classes of one module are called {cls.__name__}, "
                f"{other.__module__}.{other.__qualname__} and {cls.__module__}.{cls.__qualname__}: rename one of them."
            )
        value: Any = cls
        base: Any = ValueCache
        has_one = value.get_value is not base.get_value
        if value._bulk is not None:
            method = getattr_static(cls, "get_values")
            check_bulk_method(f"{cls.__name__}.get_values", method, "get_value", both=has_one)
        elif not has_one:
            raise CacheConfigurationError(f"{cls.__name__} has no get_value: define it to compute the value.")
        declaration_of(value).check()
