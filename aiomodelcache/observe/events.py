"""The events that observers get: operations, which begin and end, and notes, which say what happened at one moment.

Knows no caches. The parts of the library make the events, and ``observers`` hands them on.
"""

import hashlib
import secrets
from contextvars import Context, copy_context
from time import perf_counter
from typing import Any, ClassVar, Final, Literal

from msgspec import Struct, field

_SECRET: Final = secrets.token_bytes(16)
Outcome = Literal[
    "hit", "absent", "stale", "near", "scope", "waited", "miss", "bypass", "fault", "error", "cancelled"
]  # fmt: skip

Refusal = Literal["replaced", "late", "fault", "bypass", "released"]
Stage = Literal["announced", "cleared", "undelivered", "delivered", "unknown"]


class Operation(Struct, weakref=True, eq=False, kw_only=True):
    """Work that takes time. Each operation is an object of its own, so an observer may keep it as a dictionary's key.

    The fields that say how it went are set when ``Observer.end`` is called.
    """

    context: Context = field(default_factory=copy_context)
    """The context variables of the caller, as a mapping: ``operation.context.get(variable)``.

    Of work for several lookups, those of the first. Of work without a caller, those of the background.
    """
    started: float = field(default_factory=perf_counter)
    """The time of the beginning, by ``time.perf_counter``."""
    duration: float | None = None
    """Seconds from the beginning to the end. None before the end."""
    error: BaseException | None = None
    """The exception that ended the operation. Its text may hold values of columns."""

    _hidden: ClassVar = frozenset({"context", "started", "lookups"})
    """The names of fields that ``repr`` leaves out."""

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [(name, getattr(self, name)) for name in self.__struct_fields__ if name not in self._hidden]

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.__rich_repr__())
        return f"{type(self).__name__}({shown})"


class Lookup(Operation, eq=False, kw_only=True):
    """One lookup, from its ``await`` to its answer. A ``BatchCacheQuery`` has one for each of its queries.

    ============== =================================================================================================
    ``outcome``     meaning
    ============== =================================================================================================
    ``hit``         entries in the store answered
    ``absent``      an entry said that there is no such row
    ``stale``       a stale copy answered, within ``allowtime``, or the last good value (``reason``: ``failed`` or
                    ``slow``)
    ``near``        entries kept in this process answered
    ``scope``       a surrounding ``local_cache()`` answered
    ``waited``      another lookup filled the entry meanwhile
    ``miss``        the database answered, or the value was computed
    ``bypass``      the store was not used: ``reason`` is ``transaction``, ``disabled``, ``unreachable``,
                    ``undelivered`` or ``relay lost``
    ``fault``       a request to the store failed, so the database answered
    ``error``       an exception, before any of these
    ``cancelled``   the caller was cancelled before any of these
    ============== =================================================================================================
    """

    cache: str
    """The name under which ``cache.stats.by_cache`` counts, like ``Event(slug)``."""
    kind: str
    """The class of the query, like ``GetQuery`` or a cache class. ``refresh`` for a lookup without a caller."""
    keys: tuple[bytes, ...] = ()
    """The keys in the store. They hold the values that were looked up: do not log them."""
    prefix: bytes = b""
    """The part that all keys of the cache class share. It holds no values."""
    outcome: Outcome | None = None
    """The place that the answer came from. None before the end."""
    reason: str | None = None
    """The reason of a ``bypass``. ``only_cache`` for a miss that was not allowed to use the database.

    ``failed`` or ``slow`` if a computation failed or took longer than ``soft_timeout``.
    """
    size: int = 0
    """Bytes of the entries that were read from the store or from this process for it."""
    background: bool = False
    """True if no caller waits: an entry is refreshed, or filled again after a write."""

    _hidden: ClassVar = Operation._hidden | {"keys", "prefix"}  # they hold values

    @property
    def key(self) -> str:
        """The first key with a digest in place of its values, like ``amc:i:default:event:slug:#1f0c...``.

        The digest has a secret of the process, so that no value can be guessed from it.
        """
        return safe_key(self.prefix, self.keys[0]) if self.keys else ""


class RoundTrip(Operation, eq=False, kw_only=True):
    """One request to the store. ``begin`` and ``end`` may be called in different contexts."""

    command: str
    """The method of the backend: ``read``, ``lease``, ``fill``, ``mark`` or ``clear``."""
    keys: int
    """The number of keys in the request."""
    backend: str
    """The class of the backend, like ``RedisBackend``."""
    server: str = ""
    """The address of the store, like ``localhost:6379`` or the path of a socket. Empty if it has none."""

    @property
    def peer(self) -> tuple[str, int | None]:
        """The host and the port of a single server, or the path of a socket and None. Empty if there are several."""
        host, _, port = self.server.rpartition(":")
        if host and port.isdecimal() and "," not in host:
            return host, int(port)
        return (self.server if self.server.startswith("/") else ""), None

    lookups: tuple[Lookup, ...] = ()
    """The lookups that share the request. Empty for requests of writers."""


class Statement(Operation, eq=False, kw_only=True):
    """One SQL statement of lookups that missed. ``begin`` and ``end`` are called in the task that sends it."""

    model: str
    """The name of the model."""
    table: str
    """The name of the table."""
    connection: str
    """The name of the connection."""
    dialect: str
    """The dialect of Tortoise: ``sqlite``, ``postgres``, ``mysql``."""
    keys: int
    """The number of values or combinations of values that it asks for."""
    lookups: tuple[Lookup, ...] = ()
    """The lookups that share the statement."""


class Computation(Operation, eq=False, kw_only=True):
    """One call of a method or function whose value is cached.

    ``begin`` and ``end`` are called in the task that calls it. The SQL that it sends belongs to no ``Statement``.
    """

    cache: str
    """The name under which ``cache.stats.by_cache`` counts."""
    lookups: tuple[Lookup, ...] = ()
    """The lookups that share the value."""


class Note(Struct, frozen=True, kw_only=True):
    """An occurrence at one moment."""


class Fill(Note, frozen=True, kw_only=True):
    """An entry was stored, or was not."""

    cache: str
    """The name of the cache class that was looked up, as in ``Lookup.cache``."""
    accepted: bool
    """True if the entry was stored."""
    reason: Refusal | None = None
    """The reason for which it was not stored, else None.

    ``replaced``: a writer or another reader was in the way, or the lease had expired in the store. ``late``: the row's
    key was not known before the statement, which took longer than ``lease_ttl``. ``fault``: the request failed.
    ``bypass``: the store must not be used by now. ``released``: there is nothing to store, because the answer cannot be
    stored or the database failed.
    """
    size: int = 0
    """Bytes of the entry."""


class Write(Note, frozen=True, kw_only=True):
    """A step of the invalidation of one write or of one transaction.

    ``announced``: the keys are marked, before the COMMIT. ``cleared``: the marks are withdrawn, after it.
    ``undelivered``: the invalidation could not be sent, and is kept. ``delivered``: it was sent after all. ``unknown``:
    it is not known whether the write was committed, so its keys stay marked until the marks expire.
    """

    stage: Stage
    keys: int
    """The number of keys that the write affects."""
    caches: tuple[str, ...]
    """The names of the models and classes of values that are written to, as in ``cache.stats.by_cache``."""


class Breaker(Note, frozen=True, kw_only=True):
    """The circuit breaker has opened, so that reads bypass the store, or has closed again."""

    state: Literal["open", "closed"]
    reason: str = ""
    """The error that opened it."""


class Overload(Note, frozen=True, kw_only=True):
    """Lookups that missed have waited for longer than ``load_wait``, because too many statements were in flight."""

    connection: str
    """The name of the database connection."""
    lookups: int
    """The number of lookups."""
    limit: int
    """The number of statements that may be in flight."""


class NearChange(Note, frozen=True, kw_only=True):
    """Entries kept in this process were removed, or the server refused to report changes.

    ``invalidated``: the server reported a change. ``dropped``: all entries, because changes are no longer reported or a
    request failed. ``evicted``: to stay within ``near_memory_limit``. ``refused``: by the server.
    """

    kind: Literal["invalidated", "dropped", "evicted", "refused"]
    keys: int
    """The number of entries."""


class Verification(Note, frozen=True, kw_only=True):
    """An entry was compared with the database in the background, by ``ModelCache(verify=...)``.

    ``same``: it agrees. ``stale``: it differed with no writer at work, and was invalidated. ``changed``: it was written
    or replaced meanwhile. ``failed``: the database or the store failed.
    """

    cache: str
    """The name of the cache class, as in ``Lookup.cache``."""
    key: str
    """The key with a digest in place of its values, as in ``Lookup.key``."""
    outcome: Literal["same", "stale", "changed", "failed"]
    differs: tuple[str, ...] = ()
    """The columns in which a stale row differs, or the difference in words. No values."""


class Observer:
    """Base of observers. Override the methods that you need.

    >>> class Slow(Observer):
    ...     def end(self, operation: Operation) -> None:
    ...         if isinstance(operation, Statement) and operation.duration > 0.1:
    ...             print(f"{operation.model}: {operation.duration:.3f} s")
    >>> cache = ModelCache("redis://localhost:6379/0", observers=[Slow()])

    The methods are called between two steps of the library, so they must not wait. An exception that they raise is
    counted as ``observer_errors``, and logged once. A cache that writes come to from several threads may call them
    from all of these.
    """

    def begin(self, operation: Operation) -> None:
        """Called when an operation begins: for a ``Lookup`` in its caller's context."""

    def end(self, operation: Operation) -> None:
        """Called when an operation has ended, in the context of ``begin`` unless its class says otherwise."""

    def note(self, note: Note) -> None:
        """Called when something has happened: for a ``Write`` in its caller's context."""


def safe_key(prefix: bytes, key: bytes) -> str:
    """Returns a key with a digest in place of the values that follow after its prefix."""
    values = key.removeprefix(prefix)
    digest = hashlib.blake2b(values, digest_size=8, key=_SECRET)
    return f"{prefix.decode('utf-8', 'surrogatepass')}#{digest.hexdigest()}"
