"""The requests of plans and their answers, without I/O.

A plan is a generator that yields requests (``Read``, ``Wait``, ``AcquireLeases``, ``Load``, ``ComputeValue``,
``StoreFills``, ``Spawn``), is sent their answers, and returns the lookup's result. ``engine.reader`` drives any number
of plans at once and merges their requests. Tests can try every interleaving of the protocol's reading half without a
server. Must not know what a plan is about.

A plan needs no error handling for the store. When the store cannot be used, every ``Read`` returns only misses, every
``AcquireLeases`` is refused and every ``StoreFills`` is rejected. The plan then amounts to the plain query.
"""

from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, TypeVar

from aiomodelcache.backends.protocol import LateFill
from aiomodelcache.encoding.together import KnownKeys
from aiomodelcache.entries.indexes import IndexEntries
from aiomodelcache.entries.predictions import Predictions
from aiomodelcache.entries.results import Compute
from aiomodelcache.entries.rows import RowEntries
from aiomodelcache.observe.events import Lookup
from aiomodelcache.observe.stats import Counters
from aiomodelcache.orm.meta import RowValues, Values
from aiomodelcache.scopes.tracking import Tracker


class Read(NamedTuple):
    """A request to fetch keys. Answer: a list of bytes or None, in order."""

    keys: list[bytes]


class Wait(NamedTuple):
    """A request to wait briefly for keys that other readers are filling under these leases. Answer: None.

    ``timeout``: maximum seconds to wait for a reader of this process; None for the default, ``load_ttl``.
    """

    keys: list[bytes]
    leases: list[bytes]
    timeout: float | None = None


class Attempt(NamedTuple):
    """One reader's attempt at filling keys: its token, and the monotonic time at which it must give up.

    The time is infinite if the reader had its leases before its statement: then the leases alone decide.

    ``replaces``: the first bytes of the entry to replace, if that is not this attempt's own lease.
    """

    token: bytes
    deadline: float
    replaces: bytes = b""


class AcquireLeases(NamedTuple):
    """A request to lease keys, and then to read the versions.

    A lease is granted if the key is absent, or if its value still begins with the bytes paired with it.

    Answer: ``LeaseResult``, with a token that no other ``AcquireLeases`` had. If a token were reused, a delayed fill
    could be accepted under a lease that was taken later. ``deadline``: the deadline of the attempt that this request
    continues, or of the rows to lease that a statement has found (``Answer.deadline``).
    """

    keys: list[tuple[bytes, bytes]]
    versions: list[bytes]
    deadline: float | None = None
    ttl: float | None = None
    """The life of the leases in seconds; None for the default, ``lease_ttl``, which is extended up to ``load_ttl``."""
    timed: bool = False
    """True if the plan may store rows without leases of their own (``LeaseResult.late_until_ms``)."""
    unread: Mapping[bytes, tuple[bytes, bytes]] = MappingProxyType({})
    """The keys of the epoch and the stamp of partitions that only a statement has shown, by keys to lease."""
    anew: bool = False
    """True if nothing that the plan has read before is part of its answer."""


class LeaseResult(NamedTuple):
    """The values that the keys hold now, and the versions.

    Where a lease was granted, the value is the attempt's own lease.
    """

    attempt: Attempt
    values: list[bytes | None]
    versions: list[bytes | None]
    late_until_ms: int = 0
    """The time by the store's clock until which rows may be stored without a lease; 0 if the store cannot do that."""
    late_deadline: float = 0.0
    """The same by the monotonic clock of this process."""
    reads_late: bool = False
    """True if the store can say whether a stamp has changed since a statement that has ended."""
    epochs: Mapping[bytes, bytes | None] = MappingProxyType({})
    """Epochs of ``unread`` whose leases were granted, by their keys. None if the stamp may have changed since."""


class Loaded(Protocol):
    """One row from the database. Several plans may have asked for it in one statement."""

    values: RowValues
    fillable: bool

    def payload(self) -> bytes:
        """Returns the row as bytes. Raises ``EncodeError``."""
        ...

    def take(self) -> Any:
        """Returns a separate instance to each caller. Must be called before the plan yields again."""
        ...


class Answer(NamedTuple):
    """The rows that the database returned for one set of values, in order.

    ``exact``: True if each row has these very values, not values that the database merely compares as equal.
    ``deadline``: the monotonic time until which the rows may be leased.
    """

    rows: list[Loaded]
    exact: bool
    deadline: float = 0.0


class Load(NamedTuple):
    """A request to select rows from the database: those with the values of each key. Answer: an ``Answer`` by key."""

    entry_set: RowEntries | IndexEntries
    wanted: Mapping[bytes, Values]
    """The values by their cache keys, which tell values apart as the database does."""
    replica: bool = False
    """True if a replica may answer, because none of these rows was written within ``replica_lag``."""
    only_pks: bool = False
    """True if the rows' primary keys suffice."""


PlannedFill = tuple[Attempt, bytes, bytes, int]
"""A fill for ``StoreFills``: the attempt, the key, the value, and the value's lifetime in milliseconds."""


class StoreFills(NamedTuple):
    """A request to replace each attempt's lease by its value, or to delete the lease if the value is empty.

    Answer: for each fill, True if it was stored. Then for each of ``late`` None if it was stored, else the value that
    its key holds, or ``b""`` if that does not matter.
    """

    fills: list[PlannedFill]
    late: Sequence[LateFill] = ()
    """Rows to store without a lease, each with a token of its own."""


class Spawn(NamedTuple):
    """A request to start another plan without a waiter, which refreshes an entry. Answer: None.

    The plan returns True if this process was elected to refresh the entry. It is not started if this process is
    refreshing the same entry, or tried to within ``REFRESH_RETRY_DELAY``.
    """

    entry: bytes
    """The entry's key, followed by the entry's first bytes."""
    plan: "Plan[bool]"
    counters: Counters


class ComputeValue(NamedTuple):
    """A request to compute a result. Answer: ``Computed``. Several plans of one tick may share one computation."""

    key: bytes
    compute: Compute
    soft_timeout: float | None = None
    """Seconds after which the plan is thrown ``StillComputing`` instead of an answer. None: it waits for the answer."""


class StillComputing(Exception):
    """Thrown into a plan whose ``ComputeValue`` takes longer than its ``soft_timeout``. The computation goes on."""

    def __init__(self, outcome: Callable[[Any], Awaitable[Any]]) -> None:
        self.outcome = outcome
        """A ``compute`` for another ``ComputeValue``, which waits for the end of the computation."""


class StaleAnswer(NamedTuple):
    """A note that the plan returns a last good value, which nothing may be derived from. Answer: None."""

    key: bytes
    """The key of the copy that holds it."""


class Computed(Protocol):
    """The value that a method returned. ``storable``: True if the value may be stored."""

    value: Any
    storable: bool
    tracker: Tracker | None
    """The record of all that the value was computed from, if there is one."""

    def take(self) -> Any:
        """Returns the value to the first caller and copies to later callers."""
        ...


PlanRequest = Read | Wait | AcquireLeases | Load | ComputeValue | StaleAnswer | StoreFills | Spawn
T = TypeVar("T")
Plan = Generator[PlanRequest, Any, T]


class Missed(NamedTuple):
    """A lookup whose entry is absent. One plan can find the rows of several (``plans.absent``)."""

    entry_set: RowEntries | IndexEntries
    key: bytes
    values: Values
    predictions: Predictions
    finish: Callable[[list[Any]], Any]
    """Returns the lookup's result, made of its rows, or raises the exception that is the result."""


class FastLookup(Protocol):
    """A lookup that its first ``Read`` answers nearly always, so that it needs no plan. A plan would cost more.

    ``context`` is an object of the driver's caller, which the driver passes on unchanged.
    """

    @property
    def lookup_event(self) -> Lookup | None:
        """The lookup as observers are told of it, or None if there are no observers."""
        ...

    def collect_keys(self, context: Any, wanted: dict[bytes, None], /) -> KnownKeys | None:
        """Adds the keys to read first. May return them if ``wanted`` was empty before."""
        ...

    def try_hit(self, context: Any, entries: Mapping[bytes, bytes | None], /) -> Any:
        """Returns the result if ``entries`` (by key) hold all that the lookup needs, else a miss.

        A miss leaves no trace, because the plan judges the same bytes again. Raises the exceptions that are the
        lookup's result.
        """
        ...

    def start_plan(self, context: Any, /) -> Plan[Any]:
        """Returns the plan of the whole lookup. Its first request is a ``Read``."""
        ...
