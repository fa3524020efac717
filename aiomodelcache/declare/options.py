"""Settings of one declaration, checked for form: names, lists of names, durations. Does not look at models."""

import sys
from collections.abc import Iterable, Mapping, Sequence, Set
from inspect import iscoroutinefunction
from typing import Any, Final, TypeGuard, cast

import msgspec

from aiomodelcache.durations import parse_optional_duration
from aiomodelcache.entries.policy import InvalidationType
from aiomodelcache.exceptions import CacheConfigurationError, shown


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one declaration, checked for form. ``origin`` names the declaration in errors."""

    origin: str
    gets: tuple[tuple[str, ...], ...] = ()
    filters: tuple[tuple[str, ...], ...] = ()
    foreign_keys: tuple[str, ...] = ()
    many_to_many: tuple[str, ...] = ()
    timeout: float | None = None
    negative_timeout: float | None = None
    version: object = None
    invalidation: InvalidationType = InvalidationType.UNSET
    allowtime: float | None = None
    order_by: tuple[str, ...] = ()
    limit: int | None = None
    select_related: tuple[str, ...] = ()
    relation: str | None = None
    near: bool | None = None
    write_through: bool | None = None
    keep_unchanged: bool | None = None
    relay: bool | None = None
    queries: bool | None = None
    queries_ignore: tuple[str, ...] = ()
    queries_by: tuple[str, ...] = ()
    paged: bool = False
    stale_if_error: float | None = None
    soft_timeout: float | None = None
    sliding: Any = False


MAX_VERSION_BITS: Final = 1_024
"""Number of bits from which on an integer is refused as a ``version``. Python does not print one of 14,000 bits."""

META_ATTRIBUTES: Final = frozenset(
    {
        "get_key_fields_list",
        "filter_key_fields_list",
        "cached_foreignkeys",
        "cached_manytomany",
        "timeout",
        "negative_timeout",
        "version",
        "invalidation",
        "allowtime",
        "order_by",
        "near",
        "write_through",
        "keep_unchanged",
        "relay",
        "queries",
        "queries_by",
        "queries_ignore",
        "paged",
    }
)
"""Attributes that a ``CacheMeta`` may set. A ``ModelCacheManager`` may set them, and attributes of its own."""


CLASS_ATTRIBUTES: Final = META_ATTRIBUTES - {
    "get_key_fields_list",
    "filter_key_fields_list",
    "cached_foreignkeys",
    "cached_manytomany",
    "write_through",
    "keep_unchanged",
    "relay",
    "queries",
    "queries_by",
    "queries_ignore",
} | {"model", "key_fields", "limit", "codec", "select_related", "relation", "stale_if_error", "soft_timeout", "sliding"}
"""Attributes that stand-alone cache classes may set beside their own. No kind of class takes all."""


def declared_attributes(declaration: type, names: Iterable[str]) -> dict[str, Any]:
    """Returns the attributes of these names that a declaration, or a user's base of it, sets."""
    attributes: dict[str, Any] = {}
    for cls in reversed(declaration.__mro__):
        if not cls.__module__.startswith("aiomodelcache.") and cls is not object:
            attributes.update({name: value for name, value in vars(cls).items() if name in names})
    return attributes


def meta_attributes(meta: type, origin: str) -> dict[str, Any]:
    """Returns the settings of a ``CacheMeta``. Raises ``CacheConfigurationError`` for an unknown name."""
    names = {name for cls in meta.__mro__[:-1] for name in vars(cls) if not name.startswith("__")}
    for name in sorted(names - META_ATTRIBUTES):
        raise CacheConfigurationError(
            f"{origin}.{name} is not a setting of the cache. It may set: {', '.join(sorted(META_ATTRIBUTES))}."
        )
    return declared_attributes(meta, META_ATTRIBUTES)


def refuse_misspelt(origin: str, own: Mapping[str, Any], settings: Set[str]) -> None:
    """Raises ``CacheConfigurationError`` for an attribute that is no method and is named almost like a setting."""
    for name in sorted(own.keys() - settings):
        from difflib import get_close_matches  # few declarations have attributes of their own

        value = own[name]
        is_method = callable(value) or isinstance(value, classmethod | staticmethod | property)
        if not is_method and (meant := get_close_matches(name, settings, 1, 0.85)):
            raise CacheConfigurationError(f"{origin}.{name} is not a setting of the cache: use {meant[0]}.")


def manager_attributes(manager: type) -> dict[str, Any]:
    """Returns the settings of a manager class. Raises ``CacheConfigurationError`` for a misspelt one."""
    classes = [cls for cls in reversed(manager.__mro__) if not cls.__module__.startswith("aiomodelcache.")]
    own = {name: value for cls in classes for name, value in vars(cls).items() if not name.startswith("__")}
    refuse_misspelt(manager.__name__, own, META_ATTRIBUTES)
    return declared_attributes(manager, META_ATTRIBUTES)


def parse_options(origin: str, attributes: dict[str, Any]) -> Options:
    """Checks the form of a declaration's attributes and returns them as ``Options``.

    Raises ``CacheConfigurationError``.
    """
    invalidation = attributes.get("invalidation", InvalidationType.UNSET)
    if not isinstance(invalidation, InvalidationType):
        raise CacheConfigurationError(f"{origin}.invalidation is {shown(invalidation)}: use an InvalidationType.")
    limit = attributes.get("limit")
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or not 0 < limit <= sys.maxsize):
        raise CacheConfigurationError(f"{origin}.limit is {shown(limit)}: it must be a whole number above zero.")
    return Options(
        origin=origin,
        gets=_keys(origin, "get_key_fields_list", attributes),
        filters=_keys(origin, "filter_key_fields_list", attributes),
        foreign_keys=_names(origin, "cached_foreignkeys", attributes),
        many_to_many=_names(origin, "cached_manytomany", attributes),
        timeout=_seconds(origin, "timeout", attributes),
        negative_timeout=_seconds(origin, "negative_timeout", attributes),
        version=version_option(origin, attributes.get("version")),
        invalidation=invalidation,
        allowtime=_seconds(origin, "allowtime", attributes),
        order_by=_names(origin, "order_by", attributes),
        limit=limit,
        select_related=_names(origin, "select_related", attributes),
        relation=_relation(origin, attributes),
        near=flag_option(origin, "near", attributes.get("near")),
        write_through=flag_option(origin, "write_through", attributes.get("write_through")),
        keep_unchanged=flag_option(origin, "keep_unchanged", attributes.get("keep_unchanged")),
        relay=flag_option(origin, "relay", attributes.get("relay")),
        queries=_queries(origin, attributes),
        queries_ignore=_names(origin, "queries_ignore", attributes),
        queries_by=_names(origin, "queries_by", attributes),
        paged=_paged(origin, attributes),
        stale_if_error=_seconds(origin, "stale_if_error", attributes),
        soft_timeout=_seconds(origin, "soft_timeout", attributes),
        sliding=attributes.get("sliding", False),
    )


def merged_options(first: Options, second: Options, origin: str) -> Options:
    """Returns the settings of two declarations of one model, of which at most one sets each setting but the lists."""
    return Options(
        origin=origin,
        gets=first.gets + second.gets,
        filters=first.filters + second.filters,
        foreign_keys=first.foreign_keys + second.foreign_keys,
        many_to_many=first.many_to_many + second.many_to_many,
        timeout=first.timeout or second.timeout,
        negative_timeout=first.negative_timeout or second.negative_timeout,
        version=first.version if first.version is not None else second.version,
        invalidation=(second if first.invalidation is InvalidationType.UNSET else first).invalidation,
        allowtime=first.allowtime or second.allowtime,
        order_by=first.order_by or second.order_by,
        near=first.near if first.near is not None else second.near,
        write_through=first.write_through if first.write_through is not None else second.write_through,
        keep_unchanged=first.keep_unchanged if first.keep_unchanged is not None else second.keep_unchanged,
        relay=first.relay if first.relay is not None else second.relay,
        queries=first.queries if first.queries is not None else second.queries,
        queries_ignore=first.queries_ignore or second.queries_ignore,
        queries_by=first.queries_by or second.queries_by,
        paged=first.paged or second.paged,
    )


def version_option(origin: str, value: object) -> object:
    """Checks a declaration's ``version`` and returns it. Raises ``CacheConfigurationError``."""
    if value is None or _is_version(value):
        return value
    raise CacheConfigurationError(f"{origin}.version is {shown(value)}: use a number or a string.")


def _is_version(value: object) -> bool:
    """Returns True if the ``repr`` of a value, by which processes compare versions, is the same in all of them."""
    if isinstance(value, tuple):
        return all(map(_is_version, cast("tuple[object, ...]", value)))
    if isinstance(value, int):
        return value.bit_length() < MAX_VERSION_BITS
    return isinstance(value, float | str)


def flag_option(origin: str, name: str, value: object) -> bool | None:
    """Checks a setting that is True or False and returns it. Raises ``CacheConfigurationError``."""
    if value is None or isinstance(value, bool):
        return value
    raise CacheConfigurationError(f"{origin}.{name} is {shown(value)}: use True or False.")


def codec_option(origin: str, value: Any) -> Any:
    """Checks a ``codec`` and returns it. Raises ``CacheConfigurationError``."""
    methods = [] if isinstance(value, type) else [getattr(value, name, None) for name in ("encode", "decode")]
    if value is None or (methods and all(map(callable, methods))):
        return value
    raise CacheConfigurationError(f"{origin}.codec is {shown(value)}: use an object with the methods of a Codec.")


def key_option(origin: str, value: Any, takes: str) -> Any:
    """Checks a function that returns the key of a call and returns it. Raises ``CacheConfigurationError``."""
    if value is None or (callable(value) and not iscoroutinefunction(value)):
        return value
    raise CacheConfigurationError(f"{origin}: key is {shown(value)}: it must be a plain function of {takes}.")


def _paged(origin: str, attributes: dict[str, Any]) -> bool:
    value = attributes.get("paged", False)
    if isinstance(value, bool):
        return value
    raise CacheConfigurationError(f"{origin}.paged is {shown(value)}: use True or False.")


def _seconds(origin: str, name: str, attributes: dict[str, Any]) -> float | None:
    return parse_optional_duration(f"{origin}.{name}", attributes.get(name))


def _queries(origin: str, attributes: dict[str, Any]) -> bool | None:
    value = attributes.get("queries")
    if value is not None and not isinstance(value, bool):
        raise CacheConfigurationError(f"{origin}.queries is {shown(value)}: use True or False.")
    for name in ("queries_ignore", "queries_by"):
        if value is False and attributes.get(name):
            raise CacheConfigurationError(f"{origin}.{name} has no effect with queries = False: remove one.")
    return value


def _names(origin: str, name: str, attributes: dict[str, Any]) -> tuple[str, ...]:
    value: Any = attributes.get(name)
    if value is None:
        return ()
    if _is_text(value) and value and name in ("order_by", "select_related", "queries_by"):
        return (str.__str__(value),)
    if not is_key(value):
        raise CacheConfigurationError(
            f'{origin}.{name} is {shown(value)}: it must be a list of field names, like ["organizer"].'
        )
    return tuple(map(str.__str__, value))


def _relation(origin: str, attributes: dict[str, Any]) -> str | None:
    value = attributes.get("relation")
    if value is not None and not (_is_text(value) and value):
        raise CacheConfigurationError(
            f'{origin}.relation is {shown(value)}: name the relation to follow, like "venue" or "venue__city".'
        )
    return value


def is_key(key: Any) -> bool:
    """Returns True if ``key`` is a list or tuple of field names. The empty key stands for all rows."""
    return _is_list(key) and all(map(_is_text, key))


def _is_text(value: object) -> TypeGuard[str]:
    return issubclass(type(value), str)  # isinstance() believes a mock


def _is_list(value: object) -> TypeGuard[Sequence[Any]]:
    return issubclass(type(value), list | tuple)


def _keys(origin: str, name: str, attributes: dict[str, Any]) -> tuple[tuple[str, ...], ...]:
    value: Any = attributes.get(name)
    if value is None:
        return ()
    if not _is_list(value) or not all(map(is_key, value)):
        raise CacheConfigurationError(
            f'{origin}.{name} is {shown(value)}: it must be a list of tuples of field names, like [("id",), ("slug",)].'
        )
    return tuple(tuple(map(str.__str__, key)) for key in cast("Iterable[Iterable[str]]", value))
