"""Write-through: a saver fills the row that it has saved.

The model of ``Writer``, ``write.through`` and ``clear_and_save`` of the backends. The saver knows the whole row: in
autocommit mode from the values that it has sent, in a transaction by reading its own row, locked, before the COMMIT. It
may fill only if no other writer has committed since. Another writer whose intent
stands when the saver clears is seen there, and one that comes later replaces the saver's lease. One that has come and
gone has changed the stamp. So the saver reads the stamp before its COMMIT, and changes it after, if it is still the
same. Then it replaces its own intent, if that is the only one, by a lease, reads the stamp once more, and fills. From
before the COMMIT to that lease it takes no longer than a reader, as another writer's intent may expire meanwhile.

Changing the stamp only if it is the same is a fill of the stamp's key: it compares all bytes of a version. A bulk write
past the limit marks the epoch alone, so the saver's entry has the epoch that was read before the COMMIT.
"""

from collections.abc import Iterator
from functools import partial

from tests.protocol.model import epochs, indexes
from tests.protocol.model.engine import AtOnce, Body, Operation, Outcome, Process, System
from tests.protocol.model.rules import Rules
from tests.protocol.model.world import (
    EPOCH,
    INDEX,
    LEASE_TTL,
    ROW,
    STAMP,
    Cell,
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
    current,
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


def saver(me: str, rules: Rules, epoch_matters: bool) -> Body:
    """Saves the row in autocommit mode, and fills it."""
    yield mark(ROW, me)
    began = yield now
    stamp = yield read(STAMP)
    epoch = (yield current(EPOCH)) if epoch_matters and rules.saver_epoch_before_commit else None
    committed = yield write(me)
    row = yield AtOnce(lambda world: world.row if committed else None)
    if not rules.saver_stamp_before_commit:
        stamp = yield read(STAMP)
    if epoch_matters and not rules.saver_epoch_before_commit:
        epoch = yield current(EPOCH)
    yield from saved(me, rules, row, stamp, epoch, began)


def transaction(me: str, rules: Rules, epoch_matters: bool) -> Body:
    """Saves the row in a transaction, and fills it after the COMMIT. Reads its own row last."""
    yield update(me)
    yield mark(ROW, me)
    began = yield now
    stamp = yield read(STAMP)
    epoch = (yield current(EPOCH)) if epoch_matters and rules.saver_epoch_before_commit else None
    row = yield AtOnce(lambda world: world.draft)
    committed = yield finish(me)
    if not rules.saver_stamp_before_commit:
        stamp = yield read(STAMP)
    if epoch_matters and not rules.saver_epoch_before_commit:
        epoch = yield current(EPOCH)
    yield from saved(me, rules, row if committed else None, stamp, epoch, began)


def saved(me: str, rules: Rules, row: Row | None, stamp: Version, epoch: Cell, began: int) -> Body:
    """Fills the row after the COMMIT, or clears the intent if nothing was written or another writer was there."""
    own = Lease((me, "saved"))
    if isinstance(epoch, Intents) and rules.no_fill_while_marked:
        row = None
    mine = yield change_stamp(stamp if rules.saver_compares_stamp else None)
    if row is None or mine is None:
        if mine is None:
            yield renew(STAMP)
        yield clear(ROW, me)
        return
    if not rules.saver_takes_lease:
        yield clear(ROW, me, Entry(row, own.token, epoch))
        return
    left = yield leave_lease(me, own, alone=rules.saver_alone)
    if not left:
        return
    in_time = yield AtOnce(lambda world: world.clock <= began + LEASE_TTL or not rules.saver_deadline)
    again = yield read(STAMP)
    same = again == mine or not rules.saver_reads_again
    yield fill(ROW, own, Entry(row, own.token, epoch) if same and in_time else None)


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
    by_pk: tuple[int, ...] = (),
    bulk: int = 0,
    crashes: int = 0,
    ticks: int = 0,
    warm: tuple[int, ...] = (INDEX,),
) -> System[World]:
    """Returns a system of readers, savers, and writers that fill nothing.

    Readers by slug have a prediction or none. Bulk writes mark the epoch alone, so they are tried beside readers by
    primary key, by the number of their lookups.
    """
    row, epoch_matters = Row(0), bulk > 0
    processes = [
        *[Process(f"R{n}", partial(indexes.look_up, f"R{n}", rules, flag), True) for n, flag in enumerate(predicts)],
        *[Process(f"S{n}", partial(saver, f"S{n}", rules, epoch_matters), True) for n in range(savers)],
        *[Process(f"T{n}", partial(transaction, f"T{n}", rules, epoch_matters), True) for n in range(transactions)],
        *[
            Process(f"P{n}", partial(epochs.reader, f"P{n}", rules, many, n % 2 == 0), True)
            for n, many in enumerate(by_pk)
        ],
        *[Process(f"B{n}", partial(epochs.bulk_write, f"B{n}", rules), True) for n in range(bulk)],
        *[Process(f"W{n}", partial(indexes.writer, f"W{n}", rules, ("a",)), True) for n in range(writers)],
    ]
    world = World((Commit(row, 0),), last_tick=ticks).put(STAMP, Version(1), serial=1)
    if epoch_matters:
        world = world.put(EPOCH, Version(2), serial=2)
    for key in warm:
        world = world.put(key, Entry(row, ("first", key), world.cells[EPOCH]))
    return System(world, tuple(processes), events, crashed, at_rest, crashes)
