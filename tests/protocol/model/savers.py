"""Write-through: a saver fills the row that it has saved, without asking the database again. Not built yet.

The saver knows the whole row. It may fill only if no other writer has committed since. Another writer whose intent
stands when the saver clears is seen there, and one that comes later replaces the saver's lease. One that has come and
gone has changed the stamp. So the saver reads the stamp before its COMMIT, and changes it after, if it is still the
same. Then it replaces its own intent, if that is the only one, by a lease, reads the stamp once more, and fills. From
before the COMMIT to that lease it takes no longer than a reader, as another writer's intent may expire meanwhile.

Changing the stamp only if it is the same is a fill of the stamp's key: it compares all bytes of a version.
"""

from collections.abc import Iterator
from functools import partial

from tests.protocol.model import indexes
from tests.protocol.model.engine import AtOnce, Body, Operation, Outcome, Process, System
from tests.protocol.model.rules import Rules
from tests.protocol.model.world import (
    INDEX,
    LEASE_TTL,
    ROW,
    STAMP,
    Commit,
    Entry,
    Intents,
    Lease,
    Row,
    Version,
    World,
    at_rest,
    clear,
    crashed,
    events,
    fill,
    finish,
    mark,
    now,
    read,
    renew,
    update,
    write,
)


def saver(me: str, rules: Rules) -> Body:
    """Saves the row in autocommit mode, and fills it."""
    yield mark(ROW, me)
    began = yield now
    stamp = yield read(STAMP)
    committed = yield write(me)
    row = yield AtOnce(lambda world: world.row if committed else None)
    if not rules.saver_stamp_before_commit:
        stamp = yield read(STAMP)
    yield from saved(me, rules, row, stamp, began)


def transaction(me: str, rules: Rules) -> Body:
    """Saves the row in a transaction, and fills it after the COMMIT."""
    yield update(me)
    row = yield AtOnce(lambda world: world.draft)
    yield mark(ROW, me)
    began = yield now
    stamp = yield read(STAMP)
    committed = yield finish(me)
    if not rules.saver_stamp_before_commit:
        stamp = yield read(STAMP)
    yield from saved(me, rules, row if committed else None, stamp, began)


def saved(me: str, rules: Rules, row: Row | None, stamp: Version, began: int) -> Body:
    """Fills the row after the COMMIT, or clears the intent if nothing was written or another writer was there."""
    own = Lease((me, "saved"))
    mine = yield change_stamp(stamp if rules.saver_compares_stamp else None)
    if row is None or mine is None:
        if mine is None:
            yield renew(STAMP)
        yield clear(ROW, me)
        return
    if not rules.saver_takes_lease:
        yield clear(ROW, me, Entry(row, own.token))
        return
    left = yield leave_lease(me, own, alone=rules.saver_alone)
    if not left:
        return
    in_time = yield AtOnce(lambda world: world.clock <= began + LEASE_TTL or not rules.saver_deadline)
    again = yield read(STAMP)
    same = again == mine or not rules.saver_reads_again
    yield fill(ROW, own, Entry(row, own.token) if same and in_time else None)


def change_stamp(expected: Version | None) -> Operation:
    """Changes the stamp if it is the expected one, or in any case. Answers with the new one, or None."""

    def run(world: World) -> Iterator[Outcome]:
        if expected is not None and world.cells[STAMP] != expected:
            yield Outcome("change stamp: refused, it is another one", None, world)
            return
        [(label, _, after)] = renew(STAMP)(world)
        yield Outcome(label, after.cells[STAMP], after)

    return run


def leave_lease(writer: str, own: Lease, *, alone: bool) -> Operation:
    """Replaces the writer's intent by a lease, if it is the only one, else removes it. Answers True for a lease."""

    def run(world: World) -> Iterator[Outcome]:
        [(label, _, after)] = clear(ROW, writer)(world)
        cell = world.cells[ROW]
        writers = cell.writers if isinstance(cell, Intents) else frozenset[str]()
        if writer in writers and (after.cells[ROW] is None or not alone):
            yield Outcome(f"clear row: {own} stays", True, after.put(ROW, own))
        else:
            yield Outcome(label, False, after)

    return run


def system(
    rules: Rules,
    *,
    predicts: tuple[bool, ...] = (),
    savers: int = 0,
    transactions: int = 0,
    writers: int = 0,
    crashes: int = 0,
    ticks: int = 0,
    warm: tuple[int, ...] = (INDEX,),
) -> System[World]:
    """Returns a system of readers by slug, with or without a prediction, savers, and writers that fill nothing."""
    row = Row(0)
    processes = [
        *[Process(f"R{n}", partial(indexes.look_up, f"R{n}", rules, flag), True) for n, flag in enumerate(predicts)],
        *[Process(f"S{n}", partial(saver, f"S{n}", rules), True) for n in range(savers)],
        *[Process(f"T{n}", partial(transaction, f"T{n}", rules), True) for n in range(transactions)],
        *[Process(f"W{n}", partial(indexes.writer, f"W{n}", rules, ("a",)), True) for n in range(writers)],
    ]
    world = World((Commit(row, 0),), last_tick=ticks).put(STAMP, Version(1), serial=1)
    for key in warm:
        world = world.put(key, Entry(row, ("first", key)))
    return System(world, tuple(processes), events, crashed, at_rest, crashes)
