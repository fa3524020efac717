"""Derived entries: computed values that are stored with the tokens of everything that they were computed from.

A derived entry answers if each of its dependencies still has the token that it had. A computation reads rows through
the cache, reads the database itself (its dependency is the table's version), or awaits another derived entry. The
database is two rows, of one table or of two. ``computations`` lists the recipes, and ``computing`` is the reading half.

A table version is an ordinary version key. Each writer marks it with its row keys, before the COMMIT and in any order,
and its clear deletes it. The next reader that computes creates another.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from tests.protocol.model.computations import (
    RECIPES,
    ROW_KEYS,
    WRITES,
    Computation,
    Losses,
    Rows,
    affected,
    at_rest,
    keys_of,
    losing,
    only,
    require_own_write,
    select_rows,
    token_of,
    updating,
    writing,
)
from tests.protocol.model.computing import read_row, reader, unchanged
from tests.protocol.model.engine import AtOnce, Body, Operation, Outcome, Process, System
from tests.protocol.model.responses import client
from tests.protocol.model.rules import Rules
from tests.protocol.model.world import (
    DERIVED,
    EPOCH,
    INNER,
    KEYS,
    OTHER_VERSION,
    ROW,
    STAMP,
    VERSION,
    Cell,
    Commit,
    Entry,
    Lease,
    Version,
    World,
    acknowledge,
    clear,
    crashed,
    current,
    fill,
    finish,
    lease,
    mark,
    read,
    renew,
    select,
)

# Reading rows ---------------------------------------------------------------------------------------------


def row_reader(me: str, rules: Rules, epochs: bool) -> Body:
    """Reads row a through the cache, and computes nothing."""
    found = yield from read_row((me, 0), rules, 0, epochs)
    del found


def refresher(me: str, rules: Rules) -> Body:
    """Reads row a from the database again while it is cached, as before its entry ends. Answers with the fill."""
    found = yield read(ROW)
    if not isinstance(found, Entry):
        return False
    row = yield select_rows((0,))
    same = row == found.row or not rules.refresh_keeps_equal
    filled = yield fill(ROW, found, Entry(row, found.token if same else (me, 0)))
    return filled


# Writing --------------------------------------------------------------------------------------------------


def writer(me: str, rules: Rules, rows: tuple[int, ...], keys: frozenset[int], stamped: bool) -> Body:
    """Writes rows in autocommit mode. Marks all keys before and clears them after, in any order."""
    yield from marking(me, keys if rules.version_marked else keys - {VERSION, OTHER_VERSION})
    if not rules.version_cleared:
        yield clear(VERSION, me)
    yield writing(me, rows)
    if stamped:
        yield renew(STAMP)
    yield from clearing(me, rules, keys if rules.version_cleared else keys - {VERSION})


def transaction(me: str, rules: Rules, rows: tuple[int, ...], keys: frozenset[int], stamped: bool) -> Body:
    """Writes rows in a transaction, in which the derived entry is looked up, too."""
    yield updating(me, rows)
    if not rules.transaction_not_answered:
        cell = yield read(DERIVED)
        if isinstance(cell, Entry):
            valid = yield from unchanged(rules, cell.needs)
            if valid:
                yield AtOnce(partial(require_own_write, value=cell.row))
    if not rules.transaction_not_stored:
        version = yield current(VERSION)
        rows = yield AtOnce(lambda world: world.draft)
        yield from store_directly(me, rows, version)
    yield from marking(me, keys)
    yield finish(me)
    if stamped:
        yield renew(STAMP)
    yield from clearing(me, rules, keys)


def survivor(me: str, rules: Rules) -> Body:
    """Writes in a transaction that a DDL statement commits, and that is then rolled back. Nothing was marked before."""
    yield writing(me, (0, 1), acknowledged=False)
    if rules.clear_rolled_back:
        yield clear(VERSION, me)
    yield acknowledge()


def snapshot(me: str, rules: Rules) -> Body:
    """Computes in a transaction that keeps its first snapshot until it ends."""
    rows = yield select()
    if not rules.transaction_not_stored:
        version = yield current(VERSION)
        yield from store_directly(me, rows, version)


def store_directly(me: str, value: Rows, version: Cell) -> Body:
    """Stores a value under a lease."""
    held = yield lease(DERIVED, (me, 0))
    if held == Lease((me, 0)) and isinstance(version, Version):
        yield fill(DERIVED, held, Entry(value, (me, 0), needs=((VERSION, token_of(version)),)))


def invalidating(me: str, rules: Rules) -> Body:
    """Changes what nothing tracks, and invalidates the inner entry by hand, whose return acknowledges the change."""
    yield writing(me, (1,), acknowledged=False)
    yield mark(INNER, me)
    yield clear(INNER, me)
    yield acknowledge()


def refreshing(me: str, rules: Rules) -> Body:
    """Writes by raw SQL, without an intent, and refreshes the row, whose return acknowledges the write if it filled."""
    yield writing(me, (0,), acknowledged=False)
    filled = yield from refresher(me, rules)
    if filled:
        yield acknowledge()


def clearing_model(me: str, rules: Rules) -> Body:
    """Writes by raw SQL, without an intent, and then calls ``clear()``, whose return acknowledges the write."""
    yield writing(me, (0, 1), acknowledged=False)
    keys = frozenset({EPOCH, VERSION} if rules.clear_marks_version else {EPOCH})
    yield from marking(me, keys)
    yield from clearing(me, rules, keys)
    yield acknowledge()


def marking(me: str, keys: frozenset[int]) -> Body:
    """Marks keys, in any order."""
    while keys:
        keys = yield any_of(keys, partial(mark, writer=me))


def clearing(me: str, rules: Rules, keys: frozenset[int]) -> Body:
    """Clears keys, in any order."""
    while keys:
        keys = yield any_of(keys, partial(clearing_one, writer=me, rules=rules))


def any_of(keys: frozenset[int], operation: Callable[[int], Operation]) -> Operation:
    """Makes an operation for any one of several keys. Answers with the remaining keys."""

    def run(world: World) -> Iterator[Outcome]:
        for key in keys:
            for label, _, after in operation(key)(world):
                yield Outcome(label, keys - {key}, after)

    return run


def clearing_one(key: int, writer: str, rules: Rules) -> Operation:

    def run(world: World) -> Iterator[Outcome]:
        for label, answer, after in clear(key, writer)(world):
            if not rules.version_fresh and after.cells[key] is None:
                after = after.put(key, Version(1))
            yield Outcome(label, answer, after)

    return run


# The system -----------------------------------------------------------------------------------------------


def system(
    rules: Rules,
    *,
    recipe: str,
    look_ups: tuple[int, ...] = (),
    clients: tuple[int, ...] = (),
    row_readers: int = 0,
    refreshers: int = 0,
    writers: tuple[str, ...] = (),
    transactions: tuple[str, ...] = (),
    bulk: tuple[str, ...] = (),
    survivors: int = 0,
    snapshots: int = 0,
    by_hand: int = 0,
    refreshed: int = 0,
    clears: int = 0,
    ignored: tuple[str, ...] = (),
    cap: int | None = None,
    single_flight: bool = False,
    predicts: bool = False,
    together: bool = False,
    crashes: int = 0,
    evictions: int = 0,
    restores: int = 0,
    ticks: int = 0,
    warm: bool = True,
) -> System[World]:
    """Returns a system of readers and clients, by the number of their lookups, and writers, by the rows they write.

    Only writers crash. A reader that crashes is like one that goes on after all others have ended.
    """
    computation = Computation(RECIPES[recipe], cap, bool(bulk), single_flight, predicts, bool(ignored))
    processes = [
        Process(f"R{n}", partial(reader, f"R{n}", rules, number, computation, together))
        for n, number in enumerate(look_ups)
    ]
    processes += [
        Process(f"Q{n}", partial(client, f"Q{n}", rules, number, computation)) for n, number in enumerate(clients)
    ]
    kinds = (("W", writer, writers), ("T", transaction, transactions), ("B", writer, bulk), ("I", writer, ignored))
    for letter, body, names in kinds:
        for n, name in enumerate(names):
            keys = affected(rules, computation, WRITES[name])
            if letter == "B":
                keys = keys - {*ROW_KEYS} | {EPOCH}
            elif letter == "I":
                keys -= {VERSION}
            act = partial(body, f"{letter}{n}", rules, WRITES[name], keys, recipe == "late row")
            processes.append(Process(f"{letter}{n}", act, True))
    others: list[tuple[str, int, Any]] = [
        ("F", row_readers, partial(row_reader, epochs=computation.epochs)),
        ("G", refreshers, refresher),
        ("D", survivors, survivor),
        ("S", snapshots, snapshot),
        ("H", by_hand, invalidating),
        ("O", refreshed, refreshing),
        ("C", clears, clearing_model),
    ]
    for letter, number, body in others:
        processes += [Process(f"{letter}{n}", partial(body, f"{letter}{n}", rules)) for n in range(number)]
    rows = Rows(0, 0)
    world = World(
        (Commit(rows, 0),), cells=(None,) * len(KEYS), last_tick=ticks, side=Losses(evictions, restores), serial=1
    )
    epoch = Version(1) if bulk else None
    if bulk:
        world = world.put(EPOCH, epoch)
    for key in keys_of(computation) if warm else ():
        if key in ROW_KEYS:
            at = ROW_KEYS.index(key)
            world = world.put(key, Entry(only(rows, (at,)), ("first", at), epoch))
        else:
            world = world.put(key, Version(1))
    return System(world, tuple(processes), losing, crashed, at_rest, crashes)
