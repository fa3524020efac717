"""Settings of a cache, the kinds of invalidation, and names for common durations.

All durations are seconds.
"""

import enum
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Final, Literal, TypedDict

from tortoise.exceptions import DoesNotExist
from tortoise.models import Model

from aiomodelcache.exceptions import CacheConfigurationError, NotFoundError

CACHE_TIME_S: Final = 1
CACHE_TIME_5S: Final = 5
CACHE_TIME_15S: Final = 15
CACHE_TIME_30S: Final = 30
CACHE_TIME_M: Final = 60
CACHE_TIME_5M: Final = 5 * CACHE_TIME_M
CACHE_TIME_10M: Final = 10 * CACHE_TIME_M
CACHE_TIME_15M: Final = 15 * CACHE_TIME_M
CACHE_TIME_30M: Final = 30 * CACHE_TIME_M
CACHE_TIME_H: Final = 60 * CACHE_TIME_M
CACHE_TIME_3H: Final = 3 * CACHE_TIME_H
CACHE_TIME_6H: Final = 6 * CACHE_TIME_H
CACHE_TIME_12H: Final = 12 * CACHE_TIME_H
CACHE_TIME_DAY: Final = 24 * CACHE_TIME_H
CACHE_TIME_WEEK: Final = 7 * CACHE_TIME_DAY
CACHE_TIME_MONTH: Final = 30 * CACHE_TIME_DAY
CACHE_TIME_YEAR: Final = 365 * CACHE_TIME_DAY


class InvalidationType(enum.Enum):
    """What a write does to the entries that it touches.

    >>> class Participants(QuerysetCountCache):
    ...     model = Participation
    ...     key_fields = ("event",)
    ...     invalidation = InvalidationType.DYNAMIC
    ...     allowtime = 30
    """

    UNSET = "unset"
    """The entry goes; the next read fills it again. The default."""
    OFF = "off"
    """Nothing: the entry goes by hand or by its timeout only."""
    DYNAMIC = "dynamic"
    """The value stays, known to be stale, and may be served for ``allowtime`` seconds."""
    RESET = "reset"
    """The entry goes and is filled again right away."""


NotFound = type[Exception] | Callable[[NotFoundError], Exception]
"""What ``get_or_404`` raises: a class of exceptions, or what makes one of the error that it stands for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheConfig:
    """The settings of one ``ModelCache``. Raises ``CacheConfigurationError`` on a value out of range.

    >>> config = CacheConfig(timeout=600, on_write_error="raise")
    >>> async with ModelCache("redis://localhost:6379/0", config=config, namespace="shop"):
    ...     event = await Event.cache.get(slug="pycon")

    ``ModelCache`` takes the same settings by name. All times are seconds.
    """

    enabled: bool = True
    """False: every read goes to the database; writes still invalidate."""
    timeout: float = CACHE_TIME_H
    """How long an entry lives."""
    negative_timeout: float = CACHE_TIME_M
    """How long "there is no such row" lives."""
    ttl_jitter: float = 0.1
    """Entries live up to this fraction longer or shorter, so that they do not expire together."""
    refresh_ahead: float = 0.1
    """An entry that is asked for in this last part of its life is filled again meanwhile; 0: none is."""
    lease_ttl: float = 5.0
    """How long a reader may take to fill a key; slower readers answer, but do not fill."""
    compute_ttl: float = 60.0
    """The same for computed results, whose methods may take longer than a statement."""
    lease_wait: float = 0.4
    """How long a reader waits for another process that is filling the same key; if in vain, once only."""
    intent_ttl: float = 30.0
    """How long a writer that vanished keeps its rows out of the cache. Longer than any COMMIT takes."""
    on_write_error: Literal["retry", "raise"] = "retry"
    """A write that cannot reach the cache: goes through and is delivered later, or is refused."""
    bulk_limit: int = 10_000
    """Rows touched by one bulk write; past it, everything about the model is invalidated instead."""
    undelivered_limit: int = 100_000
    """Keys of such writes kept by name; past it, whole models are invalidated instead."""
    socket_timeout: float = 0.5
    """How long one round trip to Redis may take, and connecting to it."""
    breaker_cooldown: float = 1.0
    """After a failed round trip, how long reads go straight to the database before Redis is tried again."""
    batch_size: int = 1_000
    """Keys in one MGET, and values in one SQL statement, at most."""
    guess_size: int = 10_000
    """Index lookups whose last answer is remembered, so that index and rows travel together."""
    memory_limit: int = 64 * 1024 * 1024
    """Bytes that a ``memory://`` backend keeps before it drops what was used least recently."""
    near: bool = False
    """Whether entries are kept in this process too, for classes that do not say so themselves. Needs Redis 6."""
    near_memory_limit: int = 16 * 1024 * 1024
    """Bytes of entries kept in this process, about, before what was used least recently goes."""
    near_lag: float = 1.0
    """The longest that an answer of theirs may lag behind the last acknowledged write of another process, whatever
    happens to the network, the server and this process. Usually it is one message."""
    replica_lag: float | None = None
    """The longest that a database replica may lag behind, if misses are to be read from the replicas that a router
    of Tortoise names (``db_for_read``): a row read by its primary key, unless it was written less than this ago. A
    replica that lags longer may leave old rows in the cache. None: all reads go to where writes go."""
    not_found: NotFound = NotFoundError
    """What ``get_or_404`` raises in place of ``NotFoundError``: a web framework's own class, if that can be made
    without arguments, or a function, like ``lambda error: HTTPException(404, str(error))``."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            demand = _unmet_demand(field.name, field.type, value)
            if demand:
                raise CacheConfigurationError(f"CacheConfig.{field.name} is {value!r}: {demand}.")

    def no_row(self, model: type[Model]) -> Exception:
        """Makes the exception of ``get_or_404``. Raises ``CacheConfigurationError`` if ``not_found`` makes none."""
        make: Any = self.not_found
        if not isinstance(make, type):
            made = make(NotFoundError(model))
        else:
            made = make(model) if issubclass(make, DoesNotExist) else make()
        if not isinstance(made, Exception):
            raise CacheConfigurationError(f"CacheConfig.not_found returned {made!r}: it must return an exception.")
        return made


class Settings(TypedDict, total=False):
    """The fields of ``CacheConfig``, as ``ModelCache`` takes them by name."""

    enabled: bool
    timeout: float
    negative_timeout: float
    ttl_jitter: float
    refresh_ahead: float
    lease_ttl: float
    compute_ttl: float
    lease_wait: float
    intent_ttl: float
    on_write_error: Literal["retry", "raise"]
    bulk_limit: int
    undelivered_limit: int
    socket_timeout: float
    breaker_cooldown: float
    batch_size: int
    guess_size: int
    memory_limit: int
    near: bool
    near_memory_limit: int
    near_lag: float
    replica_lag: float | None
    not_found: NotFound


def is_duration(value: object) -> bool:
    """Whether ``value`` is a finite number of seconds above zero."""
    return not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value) and value > 0


def _unmet_demand(name: str, kind: Any, value: Any) -> str | None:
    """What a setting's value must be and is not."""
    if name == "not_found":
        return _no_exception(value)
    if name == "replica_lag" and value is None:
        return None
    if name == "on_write_error":
        return None if value in ("retry", "raise") else 'use "retry" or "raise"'
    if kind is bool:
        return None if isinstance(value, bool) else "use True or False"
    if kind is int and (isinstance(value, bool) or not isinstance(value, int)):
        return "it must be a whole number"
    if name in ("ttl_jitter", "refresh_ahead"):
        return None if value == 0 or (is_duration(value) and value < 1) else "it must be a fraction below 1"
    if name in ("lease_wait", "guess_size"):
        return None if value == 0 or is_duration(value) else "it must be zero or above"
    if not is_duration(value):
        return "it must be a number above zero"
    return None if value >= 0.001 else "it must be at least a millisecond, 0.001"


def _no_exception(value: Any) -> str | None:
    """What is wrong with ``not_found``."""
    is_class = isinstance(value, type)
    if not callable(value) or (is_class and not issubclass(value, Exception)):
        return "use a class of exceptions, or a function of the NotFoundError that returns one"
    try:
        if not is_class:
            inspect.signature(value).bind(NotFoundError("no row"))
        elif not issubclass(value, DoesNotExist):
            value()
    except TypeError as error:
        kind = "it cannot be made without arguments" if is_class else "it must take one argument, the NotFoundError"
        return f"{kind} ({error}): use a function like lambda error: MyError(404, str(error))"
    return None
