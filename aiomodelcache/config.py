"""The settings of a cache."""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal, TypedDict, Unpack

from tortoise.exceptions import DoesNotExist
from tortoise.models import Model

from aiomodelcache.durations import CACHE_TIME_H, CACHE_TIME_M, Duration, parse_duration, parse_duration_or_zero
from aiomodelcache.exceptions import CacheConfigurationError, NotFoundError, shown
from aiomodelcache.observe.events import Observer
from aiomodelcache.requirements import unmet_requirement

NotFound = type[Exception] | Callable[[NotFoundError], Exception]
"""The exception of ``get_or_404``: a class, or a function that makes it from the ``NotFoundError`` it replaces."""


class Settings(TypedDict, total=False):
    """The keyword arguments of ``CacheConfig`` and of ``ModelCache``: the fields of ``CacheConfig``."""

    enabled: bool
    require_backend: bool
    inspect_columns: bool
    timeout: Duration
    negative_timeout: Duration
    ttl_jitter: float
    refresh_ahead: float
    lease_ttl: Duration
    load_ttl: Duration
    load_limit: int | None
    load_wait: Duration
    on_overload: Literal["raise", "proceed"]
    compute_ttl: Duration
    lease_wait: Duration
    intent_ttl: Duration
    on_write_error: Literal["retry", "raise"]
    bulk_limit: int
    undelivered_limit: int
    socket_timeout: Duration
    wait_replicas: int
    breaker_cooldown: Duration
    batch_size: int
    guess_size: int
    memory_limit: int
    near: bool
    write_through: bool
    near_memory_limit: int
    near_lag: Duration
    decoded_memory_limit: int
    freeze_gc: bool
    replica_lag: Duration | None
    relay_lag: Duration
    relay: bool
    relay_source: Literal["triggers", "pgoutput"]
    relay_slot_limit: int
    on_relay_loss: Literal["bypass", "serve"]
    untracked_reads: Literal["warn", "error", "ignore"]
    tenant: Callable[[], str | int | bytes | uuid.UUID | None] | None
    secret: bytes | Sequence[bytes] | None
    adopt_rows: bool
    verify: float
    not_found: NotFound
    observers: Sequence[Observer]
    publish_stats: bool


def unknown_setting(owner: str, name: str) -> str:
    """Returns the message for a setting that does not exist: the names that do, the likeliest one first."""
    from difflib import get_close_matches  # few programs misspell a setting

    meant = get_close_matches(name, Settings.__annotations__, 1)
    hint = f" Did you mean {meant[0]}?" if meant else ""
    return f"{owner} has no setting {name!r}.{hint} Its settings: {', '.join(Settings.__annotations__)}."


@dataclass(frozen=True, slots=True, init=False)
class CacheConfig:
    """The settings of one ``ModelCache``. Raises ``CacheConfigurationError`` on a value out of range.

    >>> config = CacheConfig(timeout=600, on_write_error="raise")
    >>> async with ModelCache("redis://localhost:6379/0", config=config, namespace="shop"):
    ...     event = await Event.cache.get(slug="pycon")

    ``ModelCache`` takes the same settings by name. Durations are seconds, a ``timedelta``, or text like ``"5m"``; the
    attributes are seconds.
    """

    enabled: bool = True
    """False sends every read to the database. Writes still invalidate. The store is not needed before the first write.
    """
    require_backend: bool = False
    """True makes ``ModelCache.open`` raise ``BackendError`` if the store does not answer.

    By default the cache opens all the same and logs a warning. Reads go to the database, invalidations are kept, and
    the store is used as soon as it answers.
    """
    inspect_columns: bool = True
    """False trusts the models' declarations of columns, and sends no SQL statement when the cache opens.

    By default ``ModelCache.open`` reads the real types and collations of the columns, in one statement for each
    connection, on SQLite one for each model. Lists by a column that compares otherwise than declared are not cached.
    """
    timeout: float = CACHE_TIME_H
    """The lifetime of an entry."""
    negative_timeout: float = CACHE_TIME_M
    """The lifetime of an absence: an entry that there is no such row."""
    ttl_jitter: float = 0.1
    """The fraction by which lifetimes vary at random, up or down, so that entries do not expire together."""
    refresh_ahead: float = 0.1
    """The last fraction of an entry's life, in which a hit refreshes the entry in the background. 0: never."""
    lease_ttl: float = 5.0
    """The life of a reader's lease on a key that it is filling, extended while the reader's statement runs.

    A row that a lookup by another key finds is stored if the statement took no longer. At most ``intent_ttl`` is used.
    Must be the same in all processes that share a store.
    """
    load_ttl: float = 60.0
    """The longest time for which leases are extended. A slower reader returns its answer, but does not store it."""
    load_limit: int | None = 64
    """Maximum number of statements of lookups in flight on one database connection of this process. None: no limit.

    Statements of ad-hoc queries count, too. The number in force is shown by ``cache.stats.load_limits``. It falls when
    statements take longer than usual, and rises again. Lookups that miss wait beyond it, and those of one key share the
    next statement.
    """
    load_wait: float = 30.0
    """The time that a lookup waits for a statement in flight to end. See ``on_overload``."""
    on_overload: Literal["raise", "proceed"] = "raise"
    """The handling of a lookup that has waited for ``load_wait``.

    "raise" raises ``DatabaseOverloaded``. "proceed" sends the statement beyond the limit.
    """
    compute_ttl: float = 60.0
    """The time that a reader has to fill a computed result, whose method may take longer than a statement."""
    lease_wait: float = 0.4
    """The time that a reader waits while another process fills the same key.

    If the wait times out, the reader asks the database, and further readers do not wait for the same lease.
    """
    intent_ttl: float = 30.0
    """The longest time from the moment that a writer marks its rows until its COMMIT takes effect.

    Without a transaction this includes the waits of the statement for a connection and for locks. If the writer
    vanishes, its rows stay out of the cache for this time and ``lease_ttl``.
    """
    on_write_error: Literal["retry", "raise"] = "retry"
    """The handling of a write whose invalidation cannot reach the cache.

    "retry" lets the write through and sends the invalidation later. "raise" refuses the write.
    """
    bulk_limit: int = 10_000
    """Maximum number of rows that one bulk write invalidates by key. Beyond it, the whole model is invalidated."""
    undelivered_limit: int = 100_000
    """Maximum number of keys whose invalidation is kept for later. Beyond it, whole models are invalidated."""
    socket_timeout: float = 0.5
    """The maximum time of one round trip to Redis, and of connecting to it."""
    wait_replicas: int = 0
    """The number of replicas of a Redis server that must have a write's mark before the write goes on. 0: none.

    The mark waits for them in its own round trip, by ``WAIT``, for at most 0.1 s. If fewer have it by then,
    ``on_write_error`` applies, and reads go on. Of a Cluster it is the number for each node.
    """
    breaker_cooldown: float = 1.0
    """The time for which reads go straight to the database after a failed round trip, before Redis is tried again."""
    batch_size: int = 1_000
    """Maximum number of keys in one MGET, and of values in one SQL statement. More are split."""
    guess_size: int = 10_000
    """Maximum number of index lookups whose rows are predicted, to read index entry and rows in one round trip.

    Beyond it, the least recently used prediction is dropped.
    """
    memory_limit: int = 64 * 1024 * 1024
    """Maximum size of a ``memory://`` backend, in bytes. Beyond it, the least recently used entries are evicted."""
    near: bool = False
    """True keeps entries in this process too, for classes that do not set ``near`` themselves. Needs Redis 6.2.7."""
    write_through: bool = False
    """True lets writers store the rows that they save, for models that do not set ``write_through`` themselves.

    See [the guide](guide/write-through.md) for which rows these are.
    """
    near_memory_limit: int = 16 * 1024 * 1024
    """Approximate maximum size of the entries kept in this process, in bytes.

    Beyond it, a new entry replaces an unused one only if its key was read more often lately, and at least twice.
    """
    near_lag: float = 1.0
    """The longest time that an answer kept in this process may lag behind another process's last acknowledged write.

    The limit holds under every failure of the network, the server and this process. Usually the lag is one message.
    """
    decoded_memory_limit: int = 16 * 1024 * 1024
    """Approximate maximum size of the rows, answers of queries and results that this process keeps decoded, in bytes.

    They are not decoded again if the same bytes are read again. 0 keeps none.
    """
    freeze_gc: bool = False
    """True collects garbage when the cache opens, and lets the collector leave alone all objects that are left.

    With many requests in flight, each full collection otherwise visits everything that the process holds. They are
    unfrozen when the last such cache of the process closes, unless other code had frozen objects before. Open such a
    cache last.
    """
    replica_lag: float | None = None
    """The longest time that a database replica may lag behind. None: all reads go to the primary.

    If set, a row that is looked up by primary key and not cached is read from a replica. A Tortoise router names it
    (``db_for_read``). A row written less than this time ago is read from the primary. A replica that lags longer may
    leave old rows in the cache.
    """
    relay_lag: float = 10.0
    """The longest time after which a write by another program is seen, of models with ``relay = True``.

    Must be the same in all processes, those of relays included.
    """
    relay: bool = False
    """True runs a relay in this process, too. Of several relays, one at a time does the work."""
    relay_source: Literal["triggers", "pgoutput"] = "triggers"
    """The source of a relay on PostgreSQL: lines that triggers write, or changes that the server decodes from its WAL.

    "pgoutput" needs ``aiomodelcache[pgoutput]``. On other databases, a relay reads the lines of triggers.
    """
    relay_slot_limit: int = 10 * 1024**3
    """Maximum size of the WAL, in bytes, that PostgreSQL keeps for a relay with the source "pgoutput".

    Beyond it, the relay gives it up, creates its slot anew, and invalidates all its models.
    """
    on_relay_loss: Literal["bypass", "serve"] = "bypass"
    """The handling of lookups of models with ``relay = True`` while no relay lives.

    "bypass" reads the database. "serve" answers as before, counts these answers, and logs a warning.
    """
    untracked_reads: Literal["warn", "error", "ignore"] = "warn"
    """The handling of a computation that reads what no dependency can be recorded for, like a table without a model.

    Its result is not stored. "warn" logs a warning, once for each function or class. "error" raises ``CacheError`` in
    the computation. "ignore" does neither.
    """
    tenant: Callable[[], str | int | bytes | uuid.UUID | None] | None = None
    """A function that returns the caller's tenant, which becomes part of every key. None: there are no tenants.

    For rows that depend on a context variable: by a manager, by a router, or by the ``TortoiseContext``. Lookups run
    their statements in the context of a caller of the same tenant. If the function returns None or raises
    ``LookupError``, the caller is outside of any tenant. Lookups raise ``TenantError`` there, and writes invalidate
    everything about their model, for all tenants.
    """
    secret: bytes | Sequence[bytes] | None = field(default=None, repr=False)
    """A secret of at least 16 bytes, by which entries are signed. None: entries are not signed.

    An entry without a valid signature is a miss, so that a program that can write to the store cannot make up answers.
    Of several secrets, the first signs, and each verifies.
    """
    adopt_rows: bool = False
    """True lets rows that another release has stored answer, if they have all columns of this release's model.

    So a release that removes columns starts with a warm cache. Processes of the last release use what a release with
    more columns stores. Costs one to three requests when the cache opens.
    """
    verify: float = 0.0
    """The fraction of the entries read that are compared with the database, in the background. 0: none.

    An entry that differs with no writer at work is stale: it is counted in ``cache.stats.verified``, logged, told to
    observers and invalidated. Computed results, and entries kept in this process by ``near``, are not compared.
    """
    not_found: NotFound = NotFoundError
    """The exception that ``get_or_404`` raises in place of ``NotFoundError``.

    Either a web framework's own class that can be made without arguments, or a function, like
    ``lambda error: HTTPException(404, str(error))``.
    """

    observers: Sequence[Observer] = ()
    """Objects that are told of lookups, requests, statements and writes, each an ``aiomodelcache.observe.Observer``."""
    publish_stats: bool = False
    """True publishes the counters of this process to the store, every two seconds, for ``ModelCache.fleet``.

    A ``ModelCacheCollector`` for Prometheus turns it on.
    """

    def __init__(self, **settings: Unpack[Settings]) -> None:
        given: dict[str, Any] = {**settings}
        for setting in fields(self):
            value = given.pop(setting.name, setting.default)
            if setting.name in _DURATIONS and not (value is None and setting.name == "replica_lag"):
                parse = parse_duration_or_zero if setting.name == "lease_wait" else parse_duration
                value = parse(f"CacheConfig.{setting.name}", value)
            requirement = None if setting.name in _DURATIONS else unmet_requirement(setting.name, setting.type, value)
            if requirement:
                text = shown(value) if setting.repr else "wrong"
                raise CacheConfigurationError(f"CacheConfig.{setting.name} is {text}: {requirement}.")
            object.__setattr__(self, setting.name, value)
        for name in given:
            raise TypeError(unknown_setting("CacheConfig", name))

    @property
    def fill_ttl(self) -> float:
        """The time that a reader really has to fill a key: ``lease_ttl``, but at most ``intent_ttl``."""
        return min(self.lease_ttl, self.intent_ttl)

    def no_row(self, model: type[Model]) -> Exception:
        """Returns the exception of ``get_or_404`` for a missing row of the model.

        Raises ``CacheConfigurationError`` if ``not_found`` returns anything else.
        """
        make: Any = self.not_found
        if not isinstance(make, type):
            error = make(NotFoundError(model))
        else:
            error = make(model) if issubclass(make, DoesNotExist) else make()
        if not isinstance(error, Exception):
            kind = None if error is None else type(error).__qualname__
            raise CacheConfigurationError(f"CacheConfig.not_found returned {kind}: it must return an exception.")
        return error


_DURATIONS: Final = frozenset(
    name for name, kind in Settings.__annotations__.items() if kind in (Duration, Duration | None)
)
"""Names of the settings that are durations."""
