"""The computations of ``derived``, its losses, its database of two rows, and its invariants."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from tests.protocol.model.engine import AtOnce, Operation, Outcome, Violation
from tests.protocol.model.rules import Rules
from tests.protocol.model.world import (
    EPOCH,
    KEYS,
    OTHER_ROW,
    OTHER_VERSION,
    ROW,
    STALE,
    STALE_AT_REST,
    UNCOMMITTED,
    VERSION,
    Cell,
    Entry,
    Intents,
    Version,
    World,
    committed,
    events,
    in_time,
    listed,
)

TORN = "torn"
ROW_KEYS = (ROW, OTHER_ROW)

Needs = tuple[tuple[int, Any], ...]
"""Dependencies: keys, each with the token that it had, or None for an answer that no entry holds."""


class Rows(NamedTuple):
    """The versions of both rows. ``None`` stands for a row that was not read."""

    first: int | None = None
    other: int | None = None

    def __str__(self) -> str:
        return " and ".join(
            [f"{name} v{version}" for name, version in zip("ab", self, strict=True) if version is not None]
        )


class Cached(NamedTuple):
    """One row, read through the cache."""

    at: int


class Late(NamedTuple):
    """One row, read by a statement of an index miss, whose lease comes after it."""

    at: int


class Query(NamedTuple):
    """Rows of one table, read by a statement that the cache does not know."""

    rows: tuple[int, ...]
    version: int = VERSION


class Outside(NamedTuple):
    """A value that is never tracked: it has no key, and is invalidated by hand."""

    at: int


class Earlier(NamedTuple):
    """The result of a task that began before the computation, so that nothing records what it read."""

    at: int


class Inner(NamedTuple):
    """Another derived entry."""

    recipe: "Recipe"


Source = Cached | Late | Query | Outside | Earlier | Inner
Recipe = tuple[Source, ...]

RECIPES: dict[str, Recipe] = {
    "rows": (Cached(0), Cached(1)),
    "late row": (Late(0),),
    "query": (Query((0, 1)),),
    "two queries": (Query((0,)), Query((1,))),
    "row, query": (Cached(0), Query((1,))),
    "child": (Query((1,), OTHER_VERSION),),
    "two tables": (Query((0,)), Query((1,), OTHER_VERSION)),
    "nested row": (Inner((Cached(0),)), Cached(1)),
    "nested query": (Inner((Query((0,)),)), Query((1,))),
    "nested value": (Inner((Cached(0), Outside(1))),),
    "earlier task": (Earlier(0),),
}
"""The recipes by name."""

WRITES = {"a": (0,), "b": (1,), "a, b": (0, 1)}
"""The rows that a writer writes, by name."""


class Computation(NamedTuple):
    """A recipe, and how its dependencies are recorded."""

    recipe: Recipe
    cap: int | None = None
    """Maximum number of rows among the dependencies. Beyond it, or if a row has no token, the table's version stands
    for all of them."""
    epochs: bool = False
    """True if rows depend on their model's epoch. It is left out where nothing changes it."""
    single_flight: bool = False
    """True if a lookup waits for another's computation, however long it takes."""
    predicts: bool = False
    """True if dependencies are read before the entry, as predicted: requests to several servers have no order."""
    ignores: bool = False
    """True if some writes leave the table's version alone."""


class Found(NamedTuple):
    """A value, with the dependencies that were recorded on the way to it."""

    value: Rows = Rows()
    needs: Needs = ()


# Dependencies ---------------------------------------------------------------------------------------------


def keys_of(computation: Computation) -> frozenset[int]:
    """Returns the keys of rows and versions that a computation may depend on."""
    keys: set[int] = set() if computation.cap is None else {VERSION}
    for source in computation.recipe:
        if isinstance(source, Cached | Late):
            keys.add(ROW_KEYS[source.at])
        elif isinstance(source, Query):
            keys.add(source.version)
        elif isinstance(source, Inner):
            keys |= keys_of(computation._replace(recipe=source.recipe))
    return frozenset(keys)


def affected(rules: Rules, computation: Computation, rows: tuple[int, ...]) -> frozenset[int]:
    """Returns the keys that a write of rows marks. It writes the table of row a, and cascades to that of row b."""
    versions = {VERSION}
    if rules.cascade_marks_version:
        versions.add(OTHER_VERSION)
    return frozenset({ROW_KEYS[at] for at in rows} | versions) & keys_of(computation)


def token_of(cell: Cell) -> Any:
    """Returns the first bytes of an entry or a version: its state and its token."""
    if isinstance(cell, Intents):
        return "intent", min(cell.writers)
    if isinstance(cell, Version):
        return "version", cell.number
    return cell and (type(cell).__name__, cell.token)


def is_row(need: tuple[int, Any]) -> bool:
    return need[0] in ROW_KEYS


def has_token(need: tuple[int, Any]) -> bool:
    return need[1] is not None


# Losses ---------------------------------------------------------------------------------------------------


class Losses(NamedTuple):
    """The losses of the store that may still happen."""

    evictions: int = 0
    """The number of entries and versions that may be evicted."""
    restores: int = 0
    """The number of times that the server may restart with the snapshot that it saved."""
    saved: tuple[Cell, ...] | None = None
    first_version: int = 0
    """The first version that this incarnation of the server has made."""

    def is_old(self, version: Version) -> bool:
        return version.number < self.first_version


def losing(world: World) -> Iterator[Outcome]:
    """Yields events without a process: those of all parts, evictions, and restarts with an older snapshot.

    A restart loses no intents here: ``docs/consistency.md`` says what a lost one does.
    """
    yield from events(world)
    losses = world.side
    if losses.evictions:
        evicted = losses._replace(evictions=losses.evictions - 1)
        for key, cell in enumerate(world.cells):
            if isinstance(cell, Entry | Version):
                yield Outcome(f"{KEYS[key]} is evicted", None, world.put(key, None, side=evicted))
    if losses.restores and losses.saved is None:
        yield Outcome("the server saves a snapshot", None, world._replace(side=losses._replace(saved=world.cells)))
    elif losses.restores and not any(isinstance(cell, Intents) for cell in world.cells):
        restarted = losses._replace(restores=losses.restores - 1, saved=None, first_version=world.serial + 1)
        yield Outcome("the server restarts", None, world._replace(cells=losses.saved, side=restarted))


# The database ---------------------------------------------------------------------------------------------


def only(rows: Rows, at: Iterable[int]) -> Rows:
    """Returns some of the rows."""
    return Rows(*[version if number in at else None for number, version in enumerate(rows)])


def merged(some: Rows, others: Rows) -> Rows:
    """Returns the rows of both values. They have no row in common."""
    return Rows(*[one if other is None else other for one, other in zip(some, others, strict=True)])


def written(rows: Rows, at: tuple[int, ...]) -> Rows:
    """Returns the rows after a write of some of them."""
    return Rows(*[version + (number in at) for number, version in enumerate(rows)])


def select_rows(at: tuple[int, ...]) -> Operation:
    """Answers with some of the committed rows, by one statement."""

    def run(world: World) -> Iterator[Outcome]:
        rows = only(world.row, at)
        yield Outcome(f"SELECT: {rows}", rows, world)

    return run


def writing(writer: str, rows: tuple[int, ...], *, acknowledged: bool = True) -> Operation:
    """Makes one statement in autocommit mode, which waits for other writers and is committed or refused."""

    def run(world: World) -> Iterator[Outcome]:
        if world.lock is None:
            if in_time(world, writer):
                yield committed(world, written(world.row, rows), acknowledged=acknowledged)
            if acknowledged:
                yield Outcome("refused by the database", False, world)

    return run


def updating(writer: str, rows: tuple[int, ...]) -> Operation:
    """Updates rows and locks them. Waits for other writers."""

    def run(world: World) -> Iterator[Outcome]:
        if world.lock is None:
            draft = written(world.row, rows)
            yield Outcome(f"UPDATE: {draft}", None, world._replace(lock=writer, draft=draft))

    return run


# Invariants -----------------------------------------------------------------------------------------------


def answered(began: int, value: Rows, *, together: bool) -> AtOnce:
    """Ends a lookup. Each row of its value must have been in the database at some moment since it began.

    If ``together``, all of them at the same moment.
    """

    def check(world: World) -> None:
        at = tuple([number for number, version in enumerate(value) if version is not None])
        for number in () if together else at:
            require(world, began, only(value, (number,)), (number,))
        if together:
            require(world, began, value, at)

    return AtOnce(check)


def require(world: World, began: int, value: Rows, at: tuple[int, ...]) -> None:
    """Checks that a value was in the database at some moment since the lookup began."""
    true = [only(commit.row, at) for commit in world.history]
    if value in true[began:]:
        return
    text = f"returned {value}; since it began the answer was {listed(true[began:])}"
    if any(only(value, (number,)) not in [only(rows, (number,)) for rows in true] for number in at):
        raise Violation(UNCOMMITTED, text)
    raise Violation(STALE if value in true else TORN, text)


def require_own_write(world: World, value: Rows) -> None:
    """Checks an answer inside a transaction: it must have what the transaction itself has written."""
    if value != world.draft:
        raise Violation(STALE, f"returned {value} in a transaction that has written {world.draft}")


def at_rest(world: World) -> None:
    """Checks that no entry that would be an answer is wrong after all processes have ended."""
    for key, cell in enumerate(world.cells):
        if not isinstance(cell, Entry) or (cell.epoch is not None and cell.epoch != world.cells[EPOCH]):
            continue
        at = tuple([number for number, version in enumerate(cell.row) if version is not None])
        true = [only(commit.row, at) for commit in world.history[world.floor :]]
        if would_answer(world, cell) and cell.row not in true:
            raise Violation(STALE_AT_REST, f"the {KEYS[key]} entry says {cell}, the database {listed(true)}")


def would_answer(world: World, entry: Entry) -> bool:
    """Tells if all dependencies of an entry have the token that they had."""
    for key, token in entry.needs:
        cell = world.cells[key]
        if token_of(cell) != token or (isinstance(cell, Version) and world.side.is_old(cell)):
            return False
    return True
