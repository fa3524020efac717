"""What plans ask for, and what they are answered: the requests of look-ups, without doing any I/O.

A plan is a generator that yields requests (``Read``, ``Wait``, ``Take``, ``Load``, ``Call``, ``Store``, ``Spawn``)
and is sent their answers; what it returns is the look-up's result. ``reader`` drives any number of plans at once
and merges their requests. So every interleaving of the consistency protocol's reading half can be tried without
a server. What a plan is about (rows, indexes, results) is not known here.

A plan needs no error handling for the cache: where the cache cannot be used, every ``Read`` is answered
with nothing, every ``Take`` is refused and every ``Store`` is rejected, and what is left of any plan then is
the plain query.
"""

from collections.abc import Awaitable, Callable, Generator, Mapping
from typing import Any, NamedTuple, Protocol, TypeVar

from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache.entries.base import Row
from aiomodelcache.entries.indexes import Index
from aiomodelcache.entries.rows import Rows
from aiomodelcache.observe.stats import Counters
from aiomodelcache.orm.meta import Values


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


class Take(NamedTuple):
    """Lease these keys, each either absent or still beginning as given; then read the versions.

    Answer: ``Taken``, with a token that no other ``Take`` had: with a token that comes back, a fill that was
    delayed would be accepted under a lease taken later. ``deadline`` is that of the attempt continued.
    """

    keys: list[tuple[bytes, bytes]]
    versions: list[bytes]
    deadline: float | None = None
    ttl: float | None = None
    """How long a fresh attempt may take, in seconds, if not as long as usual."""


class Taken(NamedTuple):
    """What the keys hold now (the attempt's own lease where it was granted), and the versions."""

    attempt: Attempt
    values: list[bytes | None]
    versions: list[bytes | None]


class Loaded(Protocol):
    """One row from the database. Several plans may have asked for it in one statement."""

    values: Row
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

    source: Rows | Index
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


Compute = Callable[[BaseDBAsyncClient | None], Awaitable[Any]]
"""Makes a result: on this transaction's connection, or, given None, in autocommit mode."""


class Call(NamedTuple):
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


Request = Read | Wait | Take | Load | Call | Store | Spawn
T = TypeVar("T")
Plan = Generator[Request, Any, T]


class Look(Protocol):
    """A look-up that its first ``Read`` answers nearly always; then it needs no plan, which would cost more.

    ``context`` is what whoever starts it wants to be told again.
    """

    def ask(self, context: Any, wanted: dict[bytes, None], /) -> None:
        """Adds the keys to read first."""
        ...

    def answer(self, context: Any, found: Mapping[bytes, bytes | None], /) -> Any:
        """The result, if what was found, by key, is all that it takes, or else a miss.

        Without a trace if it is a miss: the plan judges the same bytes once more. Raises what the result is to raise.
        """
        ...

    def begin(self, context: Any, /) -> Plan[Any]:
        """The look-up from its beginning, which is a ``Read``."""
        ...
