"""The tracker of a computation: what its result was read from.

Knows keys and tokens, not their meaning. A context variable holds the tracker, so tasks that the computation starts
share it. Tasks that outlive the computation have no tracker any more.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from contextvars import ContextVar, Token
from typing import Any, Final, NamedTuple, Protocol

BeforeStatement = Callable[["Tracker", Any, str], Awaitable[None]]
"""A function of a tracker, a connection and SQL, to await before the statement is sent."""
SendAdmitted = Callable[["Tracker", Any, str, Callable[[], Awaitable[Any]]], Awaitable[Any]]
"""A function of the same and of one that sends the statement. It awaits both when the database has room."""


class UnrecordedHits(Protocol):
    """Entries that were read, and are no dependencies yet."""

    def record_hits(self) -> None:
        """Adds it to the dependencies. Idempotent."""
        ...

    def use_tables(self) -> None:
        """Notes the tables whose entries were read. Idempotent."""
        ...


_EMPTY: Final[frozenset[Any]] = frozenset()
CHANGED: Final = "something that it was read from changed meanwhile"
WRITES: Final = "it writes to the database or opens a transaction"


class Tracker:
    """The keys in the store that one computation depends on, each with the first bytes that its value had.

    What most computations leave as it is belongs to the class, because every miss makes a tracker.
    """

    send_admitted: SendAdmitted | None = None
    """The way of the computation's statements, or None if they wait for nothing."""
    selects_rows = False
    """True if the next statement returns whole rows, in which columns in ``queries_ignore`` may be of any age."""
    exempt: bytes | None = None
    """The version of a table that statements do not depend on."""
    declared = False
    """True if the computation has declared what it depends on beside what can be seen."""
    untracked: frozenset[str] = _EMPTY
    """The tables that were read although writes to them are not noticed."""
    pending: Counter[bytes] = Counter()
    """Table versions that were declared and not read yet, with the number of declarations. Replaced, never changed."""
    needed: frozenset[bytes] = _EMPTY
    """The keys of the table versions that the result depends on, or would if they had been read in time."""
    hits: UnrecordedHits | None = None
    """The record of lookups that begin now, or None if a table version was learnt since."""
    unfinished = 0
    """The number of lookups and statements that have begun and not ended."""
    statements: frozenset[tuple[str, str]] = _EMPTY
    """The statements whose tables are dependencies already, with the names of their connections."""
    refusal: str | None = None
    """The first reason for which the result must not be stored."""
    unseen: str | None = None
    """The first reason for which a read could not be recorded."""
    over = False
    _used: frozenset[bytes] = _EMPTY
    _late: frozenset[bytes] = _EMPTY

    def __init__(
        self,
        owner: object,
        name: str,
        before_statement: BeforeStatement,
        versions: Iterable[tuple[bytes, bytes]] = (),
    ) -> None:
        self.owner = owner
        """The guarded backend that the tokens belong to."""
        self.name = name
        self.before_statement = before_statement
        self.recorded: dict[bytes, bytes] = {}
        """The tokens of what was read, by key. Complete when the tracker has ended."""
        self._records: list[UnrecordedHits] = []
        """The records of lookups whose keys may be no dependencies yet."""
        self.versions: dict[bytes, bytes] = dict(versions)
        """Table versions that were read before the tables were, by key. They may become dependencies."""
        self.groups: dict[bytes, list[bytes]] = {}
        """Keys that stand for a table's version in the next statement that names the table once."""

    @property
    def dependencies(self) -> dict[bytes, bytes]:
        """The tokens of all that was read, by key."""
        if not self.over:
            for record in self._records:
                record.record_hits()
        return self.recorded

    @property
    def used(self) -> frozenset[bytes]:
        """The keys of the versions of tables whose entries were read."""
        for record in self._records:
            record.use_tables()
        return self._used

    @property
    def late(self) -> frozenset[bytes]:
        """The keys of table versions that were not known when entries of the table were read."""
        for record in self._records:
            record.use_tables()
        return self._late

    def end(self) -> None:
        """Ends the record. Later reads are no dependencies."""
        if not self.over:
            for record in self._records:
                record.record_hits()
            self.over = True

    def note(self, hits: UnrecordedHits) -> None:
        """Notes what will have answered lookups that begin now."""
        self.hits = hits
        self._records.append(hits)

    def add(self, key: bytes, token: bytes) -> None:
        """Adds a dependency. If it was another one before, it was changed while the result was computed."""
        if self.recorded.setdefault(key, token) != token:
            self.refuse(CHANGED)

    def add_all(self, tokens: Mapping[bytes, bytes]) -> None:
        """Adds dependencies, each as ``add`` does."""
        known = self.recorded
        for key in known.keys() & tokens.keys():
            if known[key] != tokens[key]:
                self.refuse(CHANGED)
        known.update(tokens)

    def add_table(self, key: bytes | None) -> None:
        """Adds the version of a table that was read. It must have been read before the table was."""
        if key is None:
            self.unrecorded("a table was read whose writes are not noticed")
        else:
            self.needed |= {key}
            self.add_version(key)

    def add_version(self, key: bytes) -> None:
        """Adds a version that was read before what it stands for."""
        token = self.versions.get(key)
        if token is None:
            self.refuse("something was read while it was written")
        else:
            self.add(key, token)

    def use(self, tables: Collection[bytes], known: Collection[bytes]) -> None:
        """Notes that entries of tables were read. ``known``: the versions of tables that were known before."""
        self._used = self._used.union(tables)
        self._late = self._late.union(set(tables).difference(known))

    def learn(self, versions: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Stores table versions that have just been read. A version that was known before stays."""
        self.hits = None
        for key, token in versions:
            if token is not None:
                self.versions.setdefault(key, token)

    def unrecorded(self, reason: str) -> None:
        """Notes a read that cannot be recorded. The result is not stored, unless it was declared what it depends on."""
        if self.unseen is None:
            self.unseen = reason

    def refuse(self, reason: str) -> None:
        """Keeps the result from being stored."""
        if self.refusal is None:
            self.refusal = reason


class Tracked(NamedTuple):
    """A computed value, and the tracker of its computation."""

    value: Any
    tracker: Tracker


_current: Final[ContextVar[Tracker | None]] = ContextVar("aiomodelcache_tracker", default=None)


latest_tracker: Final[Callable[[], Tracker | None]] = _current.get
"""Returns the tracker of the computation that this task belongs to, which may be over, or None."""

set_tracker: Final = _current.set
"""Sets the tracker of the current context. Returns a token for ``reset_tracker``."""
reset_tracker: Final = _current.reset
"""Sets the tracker of the current context to the one before."""


def current_tracker() -> Tracker | None:
    """Returns the tracker of the computation that this task belongs to, or None."""
    tracker = _current.get()
    return None if tracker is None or tracker.over else tracker


class TrackingBlock:
    """A block whose reads the tracker records. None: whose reads no tracker records."""

    __slots__ = ("_token", "_tracker")
    _token: Token[Tracker | None]

    def __init__(self, tracker: Tracker | None) -> None:
        self._tracker = tracker

    def __enter__(self) -> None:
        self._token = _current.set(self._tracker)

    def __exit__(self, *_: object) -> None:
        if self._tracker is not None:
            self._tracker.end()
        _current.reset(self._token)
