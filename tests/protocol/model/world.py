"""The state that modelled processes share: the store, the database, the clock, and loads in flight.

The store's operations are those of ``aiomodelcache.backends``. Each is one step for each key, since a pipeline is not
atomic and a cluster does not keep its order. The database is one row with a history of all its versions. The rules of
the protocol are in the parts, which use these operations.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from tests.protocol.model.engine import AtOnce, Operation, Outcome, Violation

ROW, INDEX, EPOCH, STAMP, OTHER_ROW, VERSION, OTHER_VERSION, GROUP, INNER, DERIVED, INDEX_EPOCH, INDEX_STAMP = range(12)
KEYS = (
    *("row", "index", "epoch", "stamp"),
    *("other row", "table version", "other table version", "group version", "inner", "derived"),
    *("epoch of the index", "stamp of the index"),
)

INTENT_TTL = 1
"""Maximum ticks from a writer's mark to its COMMIT. A slower write is refused."""
LEASE_TTL = 1
"""Maximum ticks that a reader may take. A slower reader does not fill."""


class Row(NamedTuple):
    """One version of the row. ``None`` in its place means that the row does not exist."""

    version: int
    slug: str = "a"

    def __str__(self) -> str:
        return f"v{self.version}" + (f" as {self.slug}" if self.slug != "a" else "")


class Lease(NamedTuple):
    token: Any

    def __str__(self) -> str:
        return f"lease of {self.token[0]}"


class Intents(NamedTuple):
    writers: frozenset[str]

    def __str__(self) -> str:
        return f"intents of {', '.join(sorted(self.writers))}"


class Version(NamedTuple):
    number: int

    def __str__(self) -> str:
        return f"version {self.number}"


class Entry(NamedTuple):
    """A value. In an index entry, any row stands for the primary key and None for an absence."""

    row: Any
    token: Any
    epoch: Any = None
    until: int | None = None
    """The time at which a stale copy expires, or None for a value that is not stale."""
    needs: tuple[tuple[int, Any], ...] = ()
    """The dependencies of a derived entry: keys, with the tokens that they had."""

    def __str__(self) -> str:
        known = "" if self.until is None else f", stale until {self.until}"
        return f"{self.row or 'absent'}{known}"


Cell = Lease | Intents | Version | Entry | None


class Mark(NamedTuple):
    """A mark that may expire: in any tick after ``time + ttl``."""

    key: int
    writer: str
    time: int
    ttl: int


class Commit(NamedTuple):
    """A version of the row, or of all rows, and the time from which it is the current one."""

    row: Any
    time: int


class World(NamedTuple):
    history: tuple[Commit, ...]
    cells: tuple[Cell, ...] = (None, None, None, None)
    floor: int = 0
    """The last acknowledged commit, which is the oldest that a lookup may answer if it begins now."""
    lock: str | None = None
    """The writer that has written to the row and not committed yet."""
    draft: Any = None
    clock: int = 0
    last_tick: int = 0
    marks: frozenset[Mark] = frozenset()
    """The marks that were not cleared, if time goes on. Otherwise intents do not expire."""
    serial: int = 0
    """The number of versions that were created so far."""
    flights: frozenset[int] = frozenset()
    """Keys that a reader of this process is loading."""
    landed: Any = None
    """The answer that the last load has found."""
    network: frozenset[tuple[int, Any]] = frozenset()
    """Leases that were sent a second time and are in flight."""
    side: Any = None
    """The additional state of a part of the protocol."""

    @property
    def row(self) -> Any:
        """The committed row, or None. All committed rows, if there are several."""
        return self.history[-1].row

    def put(self, key: int, cell: Cell, **changes: Any) -> "World":
        cells = self.cells
        return self._replace(cells=(*cells[:key], cell, *cells[key + 1 :]), **changes)


# The store ------------------------------------------------------------------------------------------------


def read(key: int) -> Operation:
    def run(world: World) -> Iterator[Outcome]:
        cell = world.cells[key]
        yield Outcome(f"read {KEYS[key]}: {cell or 'nothing'}", cell, world)

    return run


def lease(key: int, token: Any, replacing: Entry | None = None, *, resent: bool = False) -> Operation:
    """Leases a key. Answers with the new content of the key.

    If ``resent``, the command may arrive a second time at any moment.
    """

    def run(world: World) -> Iterator[Outcome]:
        cell = world.cells[key]
        if cell is not None if replacing is None else not (isinstance(cell, Entry) and cell.token == replacing.token):
            yield Outcome(f"lease {KEYS[key]}: refused, {cell or 'nothing'}", cell, world)
            return
        granted = world.put(key, Lease(token))
        yield Outcome(f"lease {KEYS[key]}: granted", Lease(token), granted)
        if resent and not world.network:
            late = granted._replace(network=frozenset({(key, token)}))
            yield Outcome(f"lease {KEYS[key]}: granted, and sent again", Lease(token), late)

    return run


def extend(key: int, token: Any, *, compares: bool = True) -> Operation:
    """Extends the life of a lease. A lease expires at any moment anyway, so one that stands stays as it is.

    If not ``compares``, puts the lease in place of whatever the key holds.
    """

    def run(world: World) -> Iterator[Outcome]:
        stands = world.cells[key] == Lease(token)
        label = f"extend the lease of {KEYS[key]}: {'done' if stands else 'refused' if compares else 'taken again'}"
        yield Outcome(label, stands, world if stands or compares else world.put(key, Lease(token)))

    return run


def fill(key: int, expected: Lease | Entry | None, entry: Entry | None) -> Operation:
    """Replaces the expected content, by its token, or any content if none is expected. Answers True if it did."""

    def run(world: World) -> Iterator[Outcome]:
        cell = world.cells[key]
        same = expected is None or (type(cell) is type(expected) and cell.token == expected.token)
        label = f"fill {KEYS[key]} with {entry}" if entry else f"give {KEYS[key]} back"
        yield Outcome(f"{label}: {'done' if same else 'refused'}", same, world.put(key, entry) if same else world)

    return run


def fill_absent(
    key: int, entry: Entry, *, stamp: Version | None, until: int | None, overwrites: bool = False
) -> Operation:
    """Fills a key that holds nothing, if at the same moment the stamp is this one, and the time is not past.

    Neither is compared if it is None. If it ``overwrites``, fills the key whatever that holds. Answers True if it did.
    """

    def run(world: World) -> Iterator[Outcome]:
        same = (stamp is None or world.cells[STAMP] == stamp) and (until is None or world.clock <= until)
        done = same and (overwrites or world.cells[key] is None)
        label = f"fill {KEYS[key]} with {entry}, if absent"
        yield Outcome(f"{label}: {'done' if done else 'refused'}", done, world.put(key, entry) if done else world)

    return run


def mark(key: int, writer: str, *, alone: bool = False, ttl: int = INTENT_TTL + LEASE_TTL) -> Operation:
    """Marks a key. Answers with the value that the intent replaced, or None.

    If ``alone``, the intent replaces other intents, too. The intent expires after ``ttl`` ticks or later.
    """

    def run(world: World) -> Iterator[Outcome]:
        cell = world.cells[key]
        others = cell.writers if isinstance(cell, Intents) and not alone else frozenset()
        replaced = cell if isinstance(cell, Entry) else None
        marks = _without_mark(world, key, writer)
        if world.last_tick:
            marks |= {Mark(key, writer, world.clock, ttl)}
        yield Outcome(f"mark {KEYS[key]}", replaced, world.put(key, Intents(others | {writer}), marks=marks))

    return run


def clear(key: int, writer: str, hint: Entry | None = None, *, blindly: bool = False) -> Operation:
    """Removes an intent, and leaves ``hint`` in place of the last one. If ``blindly``, removes all intents."""

    def run(world: World) -> Iterator[Outcome]:
        cell = world.cells[key]
        writers = cell.writers if isinstance(cell, Intents) else frozenset()
        left: Cell = None
        if writers - {writer} and not blindly:
            left = Intents(writers - {writer})
        elif writer in writers and hint is not None and (hint.until is None or hint.until > world.clock):
            left = hint
        marks = _without_mark(world, key, writer)
        yield Outcome(f"clear {KEYS[key]}: {left or 'nothing'} stays", None, world.put(key, left, marks=marks))

    return run


def current(key: int) -> Operation:
    """Answers with the version under a key, and creates one if there is none."""

    def run(world: World) -> Iterator[Outcome]:
        if world.cells[key] is None:
            world = world.put(key, Version(world.serial + 1), serial=world.serial + 1)
        yield Outcome(f"read {KEYS[key]}: {world.cells[key]}", world.cells[key], world)

    return run


def renew(key: int) -> Operation:
    """Puts a fresh version under a key."""

    def run(world: World) -> Iterator[Outcome]:
        made = Version(world.serial + 1)
        yield Outcome(f"change {KEYS[key]} to {made}", None, world.put(key, made, serial=made.number))

    return run


# The database ---------------------------------------------------------------------------------------------


def select(*, lag: bool = False) -> Operation:
    """Answers with the committed row. If ``lag``, may answer with the version before it, as a replica does."""

    def run(world: World) -> Iterator[Outcome]:
        yield Outcome(f"SELECT: {world.row or 'no row'}", world.row, world)
        if lag and len(world.history) > 1:
            before = world.history[-2].row
            yield Outcome(f"SELECT on the replica: {before or 'no row'}", before, world)

    return run


def select_on_replica() -> Operation:
    """Answers with the row on a replica, which has every commit at most one tick later."""

    def run(world: World) -> Iterator[Outcome]:
        for at in range(len(world.history)):
            if at + 1 == len(world.history) or world.history[at + 1].time == world.clock:
                row = world.history[at].row
                yield Outcome(f"SELECT on the replica: {row or 'no row'}", row, world)

    return run


def update(writer: str, slugs: tuple[str | None, ...] = ("a",)) -> Operation:
    """Updates, inserts or deletes the row (slug None) and locks it. Waits for other writers. Answers with the slug."""

    def run(world: World) -> Iterator[Outcome]:
        if world.lock is None:
            for slug in slugs:
                draft = _next(world, slug)
                label = f"{'UPDATE' if draft else 'DELETE'}: {draft or 'no row'}"
                yield Outcome(label, slug, world._replace(lock=writer, draft=draft))

    return run


def finish(writer: str) -> Operation:
    """Commits, unless the mark is too old, or rolls back. Answers True if it commits."""

    def run(world: World) -> Iterator[Outcome]:
        after = world._replace(lock=None, draft=None)
        if in_time(world, writer):
            yield committed(after, world.draft)
        yield Outcome("ROLLBACK", False, after)

    return run


def write(writer: str, slug: str | None = "a", *, acknowledged: bool = True) -> Operation:
    """Makes one statement in autocommit mode, which waits for other writers and is committed or refused."""

    def run(world: World) -> Iterator[Outcome]:
        if world.lock is None:
            if in_time(world, writer):
                yield committed(world, _next(world, slug), acknowledged=acknowledged)
            if acknowledged:
                yield Outcome("refused by the database", False, world)

    return run


def lock_if(row: Row) -> Operation:
    """Answers whether the row is this version, which is then acknowledged. Waits for other writers."""

    def run(world: World) -> Iterator[Outcome]:
        if world.lock is None:
            same = world.row == row
            after = world._replace(floor=len(world.history) - 1) if same else world
            yield Outcome(f"SELECT FOR UPDATE WHERE row = {row}: {'found' if same else 'no row'}", same, after)

    return run


def write_back(writer: str, row: Row) -> Operation:
    """Writes an earlier version of the row, in one statement in autocommit mode."""

    def run(world: World) -> Iterator[Outcome]:
        if world.lock is None:
            if in_time(world, writer):
                yield committed(world, row)
            yield Outcome("refused by the database", False, world)

    return run


def acknowledge() -> Operation:
    """Acknowledges all commits so far, including those without an intent."""

    def run(world: World) -> Iterator[Outcome]:
        yield Outcome("returns", None, world._replace(floor=len(world.history) - 1))

    return run


def _next(world: World, slug: str | None) -> Row | None:
    return None if slug is None else Row(len(world.history), slug)


def committed(world: World, row: Row | None, *, acknowledged: bool = True) -> Outcome:
    history = (*world.history, Commit(row, world.clock))
    floor = len(world.history) if acknowledged else world.floor
    return Outcome(f"COMMIT {row or 'no row'}", True, world._replace(history=history, floor=floor))


def in_time(world: World, writer: str) -> bool:
    return not any(mark.writer == writer and mark.time + INTENT_TTL < world.clock for mark in world.marks)


def _without_mark(world: World, key: int, writer: str) -> frozenset[Mark]:
    return frozenset([mark for mark in world.marks if (mark.key, mark.writer) != (key, writer)])


# Time -----------------------------------------------------------------------------------------------------


def events(world: World) -> Iterator[Outcome]:
    """Yields events without a process: time passes, leases and intents expire, commands arrive late."""
    for key, cell in enumerate(world.cells):
        if isinstance(cell, Lease):
            yield Outcome(f"the {cell} on {KEYS[key]} expires", None, world.put(key, None))
        elif isinstance(cell, Intents):
            for writer in cell.writers & _expired(world, key):
                left = cell.writers - {writer}
                after = world.put(key, Intents(left) if left else None)
                yield Outcome(f"the intent of {writer} on {KEYS[key]} expires", None, after)
    for key, token in world.network:
        after = world._replace(network=world.network - {(key, token)})
        arrived = world.cells[key] is None
        label = f"the second lease of {token[0]} arrives: {'granted' if arrived else 'refused'}"
        yield Outcome(label, None, after.put(key, Lease(token)) if arrived else after)
    if world.clock < world.last_tick:
        after = world._replace(clock=world.clock + 1)
        for key, cell in enumerate(world.cells):
            if isinstance(cell, Entry) and cell.until is not None and cell.until <= after.clock:
                after = after.put(key, None)
        yield Outcome(f"time goes on: {after.clock}", None, after)


def _expired(world: World, key: int) -> set[str]:
    """Returns the writers whose marks on a key have expired."""
    return {mark.writer for mark in world.marks if mark.key == key and mark.time + mark.ttl < world.clock}


def crashed(world: World, name: str) -> World:
    """Returns the world without the crashed process and its uncommitted changes."""
    return world._replace(lock=None, draft=None) if world.lock == name else world


now = AtOnce(lambda world: world.clock)

# Invariants -------------------------------------------------------------------------------------------

STALE = "stale"
UNCOMMITTED = "uncommitted"
OLD_KEY = "found under its old key"
STALE_AT_REST = "stale at rest"

Answered = Callable[[Row | None], Any]
"""A function from the committed row to the answer of a lookup."""


def itself(row: Row | None) -> Row | None:
    """Returns the answer of a lookup by primary key."""
    return row


def by_slug(row: Row | None) -> Row | None:
    """Returns the answer of a lookup of the slug ``a``."""
    return row if row is not None and row.slug == "a" else None


def beginning(operation: Operation, *, allowance: int = 0) -> Operation:
    """Makes the first operation of a lookup. Answers with the begin for ``returned`` and the operation's answer.

    ``allowance`` is the maximum age of an answer, in ticks.
    """

    def run(world: World) -> Iterator[Outcome]:
        began = world.floor
        while began and allowance and world.history[began].time > world.clock - allowance:
            began -= 1
        for label, answer, after in operation(world):
            yield Outcome(label, (began, answer), after)

    return run


def returned(began: int, answer: Row | None, answered: Answered = itself) -> AtOnce:
    """Ends a lookup. Its answer must have been true at some moment since it began."""

    def check(world: World) -> None:
        true = [answered(commit.row) for commit in world.history]
        if answer in true[began:]:
            return
        text = f"returned {answer or 'no row'}; since it began the answer was {listed(true[began:])}"
        if answer not in [commit.row for commit in world.history] and answer is not None:
            raise Violation(UNCOMMITTED, text)
        raise Violation(STALE if answer in true else OLD_KEY, text)

    return AtOnce(check)


def at_rest(world: World) -> None:
    """Checks that no entry is wrong after all processes have ended, unless it is marked as stale."""
    epoch = world.cells[EPOCH]
    for key, answered in ((ROW, itself), (INDEX, by_slug)):
        cell = world.cells[key]
        if not isinstance(cell, Entry) or cell.until is not None or (cell.epoch is not None and cell.epoch != epoch):
            continue
        if key == INDEX and cell.row is not None:
            continue  # a positive index entry is only a hint
        true = [answered(commit.row) for commit in world.history[world.floor :]]
        if cell.row not in true:
            raise Violation(STALE_AT_REST, f"the {KEYS[key]} entry says {cell}, the database {listed(true)}")


def listed(rows: list[Any]) -> str:
    return " or ".join(dict.fromkeys(str(row or "no row") for row in rows))
