"""The tracker of a computation: what its result was read from.

Knows keys and tokens, not their meaning. A context variable holds the tracker, so tasks that the computation starts
share it. Tasks that outlive the computation have no tracker any more.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from contextvars import ContextVar, Token
from typing import Any, Final, NamedTuple, Protocol

BeforeStatement = Callable[["Tracker", Any, str], Awaitable[None]]
"""A function of a tracker, a connection and SQL, to await before the statement is sent."""
SendAdmitted = Callable[["Tracker", Any, str, Callable[[], Awaitable[Any]]], Awaitable[Any]]
"""A function of the same and of one that sends the statement. It awaits both when the database has room."""


class Unsettled(Protocol):
    """Entries that were read, and are no dependencies yet."""

    def settle(self) -> None:
        """Adds it to the dependencies. Idempotent."""
        ...


_EMPTY: Final[frozenset[Any]] = frozenset()
"""One set for all that stay empty, because every miss makes a tracker."""
CHANGED: Final = "something that it was read from changed meanwhile"
WRITES: Final = "it writes to the database or opens a transaction"


class Tracker:
    """The keys in the store that one computation depends on, each with the first bytes that its value had."""

    __slots__ = (
        "_dependencies",
        "_unsettled",
        "before_statement",
        "declared",
        "exempt",
        "groups",
        "hits",
        "late",
        "name",
        "needed",
        "over",
        "owner",
        "pending",
        "refusal",
        "selects_rows",
        "send_admitted",
        "statements",
        "unfinished",
        "unseen",
        "untracked",
        "used",
        "versions",
    )

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
        self.send_admitted: SendAdmitted | None = None
        """The way of the computation's statements, or None if they wait for nothing."""
        self.selects_rows = False
        """True if the next statement returns whole rows, in which columns in ``queries_ignore`` may be of any age."""
        self.groups: dict[bytes, list[bytes]] = {}
        """Keys that stand for a table's version in the next statement that names the table once."""
        self.exempt: bytes | None = None
        """The version of a table that statements do not depend on."""
        self.declared = False
        """True if the computation has declared what it depends on beside what can be seen."""
        self.untracked: frozenset[str] = _EMPTY
        """The tables that were read although writes to them are not noticed."""
        self.pending: frozenset[bytes] = _EMPTY
        """Table versions that were declared and not read yet."""
        self.used: frozenset[bytes] = _EMPTY
        """The keys of the versions of tables whose entries were read."""
        self.needed: frozenset[bytes] = _EMPTY
        """The keys of the table versions that the result depends on, or would if they had been read in time."""
        self._dependencies: dict[bytes, bytes] = {}
        self.hits: Unsettled | None = None
        """The record of lookups that begin now, or None if a table version was learnt since."""
        self._unsettled: list[Unsettled] = []
        """The records of lookups whose keys may be no dependencies yet."""
        self.versions: dict[bytes, bytes] = dict(versions) if versions else {}
        """Table versions that were read before the tables were, by key. They may become dependencies."""
        self.late: frozenset[bytes] = _EMPTY
        """The keys of table versions that were not known when entries of the table were read."""
        self.unfinished = 0
        """The number of lookups and statements that have begun and not ended."""
        self.statements: frozenset[tuple[str, str]] = _EMPTY
        """The statements whose tables are dependencies already, with the names of their connections."""
        self.refusal: str | None = None
        """The first reason for which the result must not be stored."""
        self.unseen: str | None = None
        """The first reason for which a read could not be recorded."""
        self.over = False

    @property
    def dependencies(self) -> dict[bytes, bytes]:
        """The tokens of all that was read, by key."""
        for hits in self._unsettled:
            hits.settle()
        return self._dependencies

    def end(self) -> None:
        """Ends the record. Later reads are no dependencies."""
        self._dependencies, self._unsettled, self.over = self.dependencies, [], True

    def note(self, hits: Unsettled) -> None:
        """Notes what will have answered lookups that begin now."""
        self.hits = hits
        self._unsettled.append(hits)

    def add(self, key: bytes, token: bytes) -> None:
        """Adds a dependency. If it was another one before, it was changed while the result was computed."""
        if self._dependencies.setdefault(key, token) != token:
            self.refuse(CHANGED)

    def add_all(self, tokens: Mapping[bytes, bytes]) -> None:
        """Adds dependencies, each as ``add`` does."""
        known = self._dependencies
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
        self.used = self.used.union(tables)
        self.late = self.late.union(set(tables).difference(known))

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
