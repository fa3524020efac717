"""The requests of plans and their answers, without I/O.

A plan is a generator that yields requests (``Read``, ``Wait``, ``AcquireLeases``, ``Load``, ``ComputeValue``,
``Store``, ``Spawn``), is sent their answers, and returns the lookup's result. ``engine.reader`` drives any number of
plans at once and merges their requests, so tests can try every interleaving of the protocol's reading half without a
server. Must not know what a plan is about.

A plan needs no error handling for the store. When the store cannot be used, every ``Read`` finds nothing, every
``AcquireLeases`` is refused and every ``Store`` is rejected: what is left of a plan is the plain query.
"""

from collections.abc import Generator, Mapping
from typing import Any, NamedTuple, Protocol, TypeVar

from aiomodelcache.entries.indexes import IndexEntries
from aiomodelcache.entries.results import Compute
from aiomodelcache.entries.rows import RowEntries
from aiomodelcache.observe.stats import Counters
from aiomodelcache.orm.meta import RowValues, Values


class Read(NamedTuple):
    """Fetch these keys. Answer: a list of bytes or None, in order."""

    keys: list[bytes]


class Wait(NamedTuple):
    """Somebody else is filling these keys, under these leases: wait for them a little. Answer: None.

    ``longest``: how long to wait if it is somebody in this process, in seconds, if not as long as usual.
    """

    keys: list[bytes]
    leases: list[bytes]
    longest: float | None = None


class Attempt(NamedTuple):
    """One reader's try at filling keys: its token, and the moment (monotonic) when it must give up.

    ``held`` is how the entry begins that is to be replaced, where that is not this attempt's own lease.
    """

    token: bytes
    deadline: float
    held: bytes = b""


class AcquireLeases(NamedTuple):
    """Lease these keys, each either absent or still beginning as given; then read the versions.

    Answer: ``LeaseResult``, with a token that no other ``AcquireLeases`` had: with a token that comes back, a fill that
    was delayed would be accepted under a lease taken later. ``deadline`` is that of the attempt continued.
    """

    keys: list[tuple[bytes, bytes]]
    versions: list[bytes]
    deadline: float | None = None
    ttl: float | None = None
    """How long a fresh attempt may take, in seconds, if not as long as usual."""


class LeaseResult(NamedTuple):
    """What the keys hold now (the attempt's own lease where it was granted), and the versions."""

    attempt: Attempt
    values: list[bytes | None]
    versions: list[bytes | None]


class Loaded(Protocol):
    """One row from the database. Several plans may have asked for it in one statement."""

    values: RowValues
    fillable: bool

    def payload(self) -> bytes:
        """The row as bytes. Raises ``EncodeError``."""
        ...

    def take(self) -> Any:
        """Returns an instance of its own to each taker. To be called before the plan yields again."""
        ...


class Answer(NamedTuple):
    """The rows that the database found for one set of values, in order.

    ``exact``: each of them has these very values, not others that the database holds to be equal.
    """

    rows: list[Loaded]
    exact: bool


class Load(NamedTuple):
    """Ask the database for the rows with these values. Answer: a dict of values to ``Answer``."""

    entry_set: RowEntries | IndexEntries
    wanted: list[Values]
    replica: bool = False
    """Whether a replica will do: it is known that none of these rows was written within ``replica_lag``."""


Filling = tuple[Attempt, bytes, bytes, int]
"""What to store: by which attempt, under which key, the value, and how many milliseconds it shall live."""


class Store(NamedTuple):
    """Replace leases by values (by nothing where empty), each its attempt's own. Answer: which were."""

    fills: list[Filling]


class Spawn(NamedTuple):
    """Begin another plan, which replaces an entry and which nobody waits for. Answer: None.

    It returns whether it was the one to do so. Not begun if this process is, or was just now, about the same entry.
    """

    entry: bytes
    """Its key, and how it begins."""
    plan: "Plan[bool]"
    counters: Counters


class ComputeValue(NamedTuple):
    """Compute a result. Answer: ``Computed``. Several plans of one tick may share one computation."""

    key: bytes
    compute: Compute


class Computed(Protocol):
    """What a method returned, and whether it may be stored."""

    value: Any
    kept: bool

    def take(self) -> Any:
        """Returns the value to the first taker and copies to the others."""
        ...


Request = Read | Wait | AcquireLeases | Load | ComputeValue | Store | Spawn
T = TypeVar("T")
Plan = Generator[Request, Any, T]


class FastLookup(Protocol):
    """A lookup that its first ``Read`` answers nearly always; then it needs no plan, which would cost more.

    ``context`` is what whoever starts it wants to be told again.
    """

    def collect_keys(self, context: Any, wanted: dict[bytes, None], /) -> None:
        """Adds the keys to read first."""
        ...

    def try_hit(self, context: Any, found: Mapping[bytes, bytes | None], /) -> Any:
        """The result, if what was found, by key, is all that it takes, or else a miss.

        Without a trace if it is a miss: the plan judges the same bytes once more. Raises what the result is to raise.
        """
        ...

    def start_plan(self, context: Any, /) -> Plan[Any]:
        """The lookup from its beginning, which is a ``Read``."""
        ...
