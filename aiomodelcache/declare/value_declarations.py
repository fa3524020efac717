"""The name and the settings of a kind of cached value, and its entries in each open cache."""

import inspect
import secrets
import weakref
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from functools import partial
from inspect import Parameter
from typing import Any, Final, cast

import msgspec
from tortoise.models import Model

from aiomodelcache.declare.options import codec_option, flag_option, version_option
from aiomodelcache.declare.registry import declared_values, label_of
from aiomodelcache.declare.resilience import resilience_of
from aiomodelcache.durations import Duration, parse_optional_duration
from aiomodelcache.encoding.codec import Codec
from aiomodelcache.encoding.messages import SafeTypeError, described
from aiomodelcache.entries.base import keep_near
from aiomodelcache.entries.by_value import ByValueEntries
from aiomodelcache.entries.copies import set_resilience
from aiomodelcache.entries.policy import InvalidationType, Lifetimes, Policy
from aiomodelcache.entries.resilience import SLIDING_PART, Resilience
from aiomodelcache.entries.results import ResultEntries
from aiomodelcache.exceptions import CacheConfigurationError, shown
from aiomodelcache.open_cache import OpenCache
from aiomodelcache.orm.meta import full_name
from aiomodelcache.query.dependencies import table_key_of

Timeout = Duration | Callable[[Any], Duration | None] | None
"""A timeout, or a function that returns the timeout of a value: None for the default, 0 for a value not to store."""

BULK_SIGNATURE: Final = inspect.Signature(
    [
        inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY),
        inspect.Parameter("args", inspect.Parameter.VAR_POSITIONAL),
    ]
)
"""The arguments of a value that ``get_values`` computes."""


class ValueDeclaration(msgspec.Struct, frozen=True, kw_only=True, eq=False, weakref=True):
    """Name and settings of a kind of cached value.

    ``name`` is unique among declarations in use, because the keys in the store begin with it. ``origin`` names the
    declaration in errors.
    """

    name: str
    origin: str
    signature: inspect.Signature
    timeout: Timeout
    negative_timeout: Duration | None
    allowtime: Duration | None
    version: object
    codec: Codec | None
    near: bool | None
    invalidation: InvalidationType
    depends_on: tuple[Any, ...]
    tags: tuple[Any, ...]
    """Names, and functions of the arguments that return one or several names."""
    stale_if_error: Duration | None
    soft_timeout: Duration | None
    sliding: bool = False
    cache_errors: Mapping[type[Exception], Duration] | None
    returns: Callable[[], Any]
    """A function that returns the annotated type of the value, or Any. The names in it may be defined later."""
    reference: Any = None
    """A weak reference to this declaration."""
    _defaults: tuple[Any, ...] | None = None
    """The defaults of all parameters, ``Parameter.empty`` for none. None if some cannot be passed by position."""
    _required: int = 0
    """The number of parameters without a default."""

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "reference", weakref.ref(self))
        parameters = self.signature.parameters.values()
        defaults = tuple([each.default for each in parameters])
        positional = all(each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD) for each in parameters)
        msgspec.structs.force_setattr(self, "_defaults", defaults if positional else None)
        msgspec.structs.force_setattr(self, "_required", sum(default is Parameter.empty for default in defaults))

    def check(self) -> None:
        """Checks the settings. Raises ``CacheConfigurationError`` for one that is out of range."""
        for name in ("timeout", "negative_timeout", "allowtime"):
            self._seconds(name)
        resilience = self._resilience()
        if flag_option(self.origin, "near", self.near) and (resilience.errors or resilience.timeout_of):
            raise CacheConfigurationError(
                f"{self.origin}: near keeps all values of a class for one timeout, so it does not go with "
                "cache_errors, nor with a timeout that is a function: remove one of them."
            )
        version_option(self.origin, self.version)
        codec_option(self.origin, self.codec)
        if self.records and self.invalidation is not InvalidationType.UNSET:
            raise CacheConfigurationError(
                f"{self.origin}: invalidation is {shown(self.invalidation)}: use InvalidationType.OFF for values that "
                "only a timeout or invalidate() ends, or leave it out."
            )
        for model in self.depends_on:
            if not issubclass(model if isinstance(model, type) else object, Model):
                raise CacheConfigurationError(
                    f"{self.origin}: depends_on names {shown(model)}: it must be a tuple of models."
                )

        for tag in self.tags:
            is_model = issubclass(tag if isinstance(tag, type) else object, Model)
            if is_model or not ((isinstance(tag, str) and tag) or callable(tag)):
                raise CacheConfigurationError(
                    f"{self.origin}: tags has {shown(tag)}: name tags, or functions of the arguments that return names."
                )

    @property
    def records(self) -> bool:
        """True if it is recorded what a value is computed from."""
        return self.invalidation is not InvalidationType.OFF

    @property
    def tracked(self) -> bool:
        """True if a value is forgotten when something changes that it depends on."""
        return self.records or bool(self.tags)

    def tags_of(self, args: Iterable[Any], kwargs: Mapping[str, Any]) -> list[str]:
        """Returns the tags of a call. Raises ``TypeError`` if a function of the arguments returns anything else."""
        found: list[Any] = []
        for tag in self.tags:
            named = tag if isinstance(tag, str) else tag(*args, **kwargs)
            found += [named] if isinstance(named, str) else named
        for name in found:
            if not isinstance(name, str):
                raise TypeError(f"{self.origin}: a function in tags returned {described(name)}: return names of tags.")
        return found

    def _seconds(self, name: str) -> float | None:
        value = getattr(self, name)
        return (
            None if name == "timeout" and callable(value) else parse_optional_duration(f"{self.origin}: {name}", value)
        )

    def _resilience(self) -> Resilience:
        return resilience_of(
            self.origin,
            stale_if_error=self.stale_if_error,
            soft_timeout=self.soft_timeout,
            sliding=self.sliding,
            timeout=self.timeout,
            cache_errors=self.cache_errors,
        )

    def result(self, cache: OpenCache) -> ResultEntries:
        """Returns the entries of this declaration in one open cache, created at the first use.

        A declaration takes the place of a former one of the same name that is not in use any more, as in a notebook.
        The entries of the former one are misses then. Raises ``CacheConfigurationError`` if that is still in use.
        """
        found = cache.values.get(self.name)
        if found is not None and found[0] is self.reference:
            return found[1]
        self.check()
        if found is not None and found[0]() is not None:
            raise CacheConfigurationError(
                f"Two values are cached as {self.name}: rename one of them, or pass as an argument what differs."
            )
        config, label, resilience = cache.config, self._label(cache), self._resilience()
        varies = bool(resilience.errors or resilience.timeout_of)
        lifetimes = Lifetimes(
            self._seconds("timeout") or config.timeout,
            self._seconds("negative_timeout") or config.negative_timeout,
            config.ttl_jitter,
            SLIDING_PART if resilience.sliding else 0.0 if resilience.timeout_of else config.refresh_ahead,
        )
        counters, background = cache.stats.of(label), cache.reader.background
        if found is not None:
            background.unwatch(found[1].lifetimes)
            counters.warn_once(
                "defined again", "aiomodelcache: %s is defined again, so its former results are not used", label
            )
        background.watch(lifetimes)
        kind: Callable[..., ResultEntries] = ResultEntries
        if self.tracked:
            tables = [table_key_of(cache, model) for model in self.depends_on]
            kind = partial(ByValueEntries, depends_on=tables)
        entries = kind(
            label,
            [self.name],
            connection="",
            space=cache.space,
            rows=None,
            attributes=(),
            watched=frozenset(),
            bound=cache.models,
            codec=self.codec,
            returns=self.returns(),
            version=self.version if found is None else [self.version, secrets.token_hex(8)],
            lifetimes=lifetimes,
            policy=Policy.with_allowtime(InvalidationType.DYNAMIC, self._seconds("allowtime")),
            lease_ttl=config.compute_ttl,
            counters=counters,
        )
        cache.values[self.name] = self.reference, entries
        set_resilience(entries, resilience)
        entries.near = (config.near if self.near is None else self.near) and not varies
        keep_near(cache.guarded.near, entries, cache.space)
        cache.guarded.start_tracking()
        if isinstance(entries, ByValueEntries):
            entries.tracked_in(cache.versions, cache.derivations.compute, cache.reader.reads_apart, cache.decoded)
        return entries

    def _label(self, cache: OpenCache) -> str:
        """Returns the name under which the values are counted: that of the class, with its module if need be."""
        own = next((cls for cls in declared_values if cast("Any", cls)._declared is self), None)
        return self.origin if own is None else label_of(own, [*cache.models, *cache.classes, *declared_values])

    def arguments(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Returns the arguments in one form, passed by position or by name. Raises ``TypeError`` like the call."""
        defaults = self._defaults
        if defaults is not None and not kwargs and self._required <= len(args) <= len(defaults):
            return args + defaults[len(args) :]  # what `bind` returns, in a tenth of its time
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self.origin}{self.signature}: {error}") from None
        bound.apply_defaults()
        return tuple(bound.arguments.values())


def tuple_of(origin: str, name: str, value: Any) -> tuple[Any, ...]:
    """Returns a setting as a tuple. A single tag or model may be given without one.

    Raises ``CacheConfigurationError`` for anything else that is not iterable.
    """
    if isinstance(value, str) or callable(value):  # as a model is, whose class has a __getitem__ without an end
        return (value,)
    if not issubclass(type(value), Iterable):
        raise CacheConfigurationError(
            f"{origin}: {name} is {shown(value)}: it must be a tuple of {'models' if name == 'depends_on' else name}."
        )
    return tuple(value)


def key_part(value: Any) -> Any:
    """Converts an argument to a part of a key: an instance to its model's full name and its primary key.

    One moment in two time zones is two parts, because a function may ask for its day.
    """
    if isinstance(value, Model):
        if value.pk is None:
            raise SafeTypeError(
                f"This {type(value).__name__} has no primary key yet, so no value can be cached for it: save it first."
            )
        return full_name(type(value)), value.pk
    kind = cast("Any", type(value))
    if kind in (tuple, list):
        return [key_part(item) for item in value]
    if kind in (set, frozenset):
        return frozenset([_hashable(key_part(item)) for item in value])
    if kind is dict:
        return {_hashable(key_part(name)): key_part(item) for name, item in value.items()}
    if isinstance(value, datetime) and value.utcoffset():
        return value, value.utcoffset()
    return value


def _hashable(part: Any) -> Any:
    """Returns a part of a key that can be an item of a set, or a key of a dict."""
    return tuple(map(_hashable, part)) if cast("Any", type(part)) is list else part
