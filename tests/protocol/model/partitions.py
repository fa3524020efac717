"""A unique index and its row in two partitions of a Redis Cluster: each partition has an epoch and a stamp.

The model of ``plans.late_leases`` and ``encoding.partitions``. The nodes answer in any order. A reader knows the row's
partition before its statement only if it has followed the index before (``predicts``).
"""

from functools import partial
from typing import Any

from tests.protocol.model.engine import Body, Process, System, Violation
from tests.protocol.model.rules import Rules
from tests.protocol.model.world import (
    EPOCH,
    INDEX,
    INDEX_EPOCH,
    INDEX_STAMP,
    KEYS,
    ROW,
    STALE_AT_REST,
    STAMP,
    Commit,
    Entry,
    Lease,
    Row,
    Version,
    World,
    acknowledge,
    beginning,
    clear,
    crashed,
    current,
    events,
    fill,
    finish,
    lease,
    listed,
    mark,
    read,
    renew,
    returned,
    select,
    update,
    write,
)

_EPOCH_OF = {INDEX: INDEX_EPOCH, ROW: EPOCH}


def look_up(me: str, rules: Rules, predicts: bool) -> Body:
    """Makes the lookup ``get(slug="a")``."""
    began, index = yield beginning(read(INDEX))
    epoch = yield read(INDEX_EPOCH)
    usable = isinstance(index, Entry) and (index.row is not None or index.epoch == epoch)
    if usable and index.row is None:
        yield returned(began, None)
        return
    found: Any = None
    if usable:
        row = yield read(ROW)
        epoch = yield read(EPOCH)
        if isinstance(row, Entry) and row.epoch == epoch:
            found = row.row
        else:
            found = yield from load_row(me, row)
    if found is None:
        found = yield from load_index(me, rules, predicts, index if isinstance(index, Entry) else None)
    yield returned(began, found)


def load_row(me: str, held: Any) -> Body:
    own = Lease((me, "by pk"))
    granted = (yield lease(ROW, own.token, held if isinstance(held, Entry) else None)) == own
    epoch = (yield current(EPOCH)) if granted else None
    row = yield select()
    if granted:
        yield fill(ROW, own, Entry(row, own.token, epoch) if isinstance(epoch, Version) else None)
    return row


def load_index(me: str, rules: Rules, predicts: bool, replaced: Entry | None) -> Body:
    """Loads the row by its slug, and fills the index, and the row if its partition was known."""
    own = Lease((me, "index"))
    if (yield lease(INDEX, own.token, replaced)) != own:
        row = yield select()
        return row
    stamp_key = STAMP if rules.stamp_of_partition else INDEX_STAMP
    index_epoch = yield current(INDEX_EPOCH)
    known: tuple[Any, Any] | None = None
    if predicts:
        known = yield from _versions(stamp_key)
    row = yield select()
    if not rules.partition_known_before:
        known = yield from _versions(stamp_key)
    if row is not None and known is not None:
        yield from fill_late(me, row, known, stamp_key)
    yield fill(INDEX, own, Entry(row, own.token, index_epoch) if isinstance(index_epoch, Version) else None)
    return row


def _versions(stamp_key: int) -> Body:
    epoch = yield current(EPOCH)
    stamp = yield read(stamp_key)
    return epoch, stamp


def fill_late(me: str, row: Row, known: tuple[Any, Any], stamp_key: int) -> Body:
    epoch, stamp = known
    own = Lease((me, "row"))
    if (yield lease(ROW, own.token)) == own:
        again = yield read(stamp_key)
        unchanged = again == stamp and isinstance(epoch, Version)
        yield fill(ROW, own, Entry(row, own.token, epoch) if unchanged else None)


def writer(me: str, rules: Rules) -> Body:
    """Saves the row. Changes the stamp of the row's partition alone."""
    for key in (ROW, INDEX):
        yield mark(key, me)
    yield write(me)
    yield renew(STAMP)
    for key in (ROW, INDEX):
        yield clear(key, me)


def bulk_write(me: str, rules: Rules) -> Body:
    """Writes more rows than ``bulk_limit``: marks the epochs of all partitions before COMMIT, and clears them after."""
    epochs = (INDEX_EPOCH, EPOCH) if rules.every_partition_marked else (INDEX_EPOCH,)
    yield update(me)
    for epoch in epochs:
        yield mark(epoch, me)
    yield finish(me)
    yield from _change_all(me, epochs)


def clearing(me: str, rules: Rules) -> Body:
    """Writes by raw SQL, without an intent, and then calls ``clear()``, whose return acknowledges the write."""
    epochs = (INDEX_EPOCH, EPOCH) if rules.every_partition_marked else (INDEX_EPOCH,)
    yield write(me, acknowledged=False)
    yield from _change_all(me, epochs)
    yield acknowledge()


def _change_all(me: str, epochs: tuple[int, ...]) -> Body:
    for stamp in (INDEX_STAMP, STAMP):
        yield renew(stamp)
    for epoch in epochs:
        yield clear(epoch, me)


def at_rest(world: World) -> None:
    """Checks that no entry of a current epoch is wrong. A positive index entry is only a hint."""
    for key, epoch in _EPOCH_OF.items():
        cell = world.cells[key]
        if not isinstance(cell, Entry) or cell.epoch != world.cells[epoch] or (key == INDEX and cell.row is not None):
            continue
        true = [commit.row for commit in world.history[world.floor :]]
        if cell.row not in true:
            raise Violation(STALE_AT_REST, f"the {KEYS[key]} entry says {cell}, the database {listed(true)}")


def system(
    rules: Rules,
    *,
    predicts: tuple[bool, ...] = (),
    writers: int = 0,
    bulk: int = 0,
    clears: int = 0,
    start: bool = True,
    warm: bool = False,
    crashes: int = 0,
    ticks: int = 0,
) -> System[World]:
    """Returns a system of readers, with or without a prediction, and writers of each kind.

    ``start``: the row exists at first. ``warm``: the index and the row are filled then.
    """
    processes = [Process(f"R{n}", partial(look_up, f"R{n}", rules, known), True) for n, known in enumerate(predicts)]
    for letter, number, body, mortal in (
        ("W", writers, writer, True),
        ("B", bulk, bulk_write, True),
        ("C", clears, clearing, False),
    ):
        processes += [Process(f"{letter}{n}", partial(body, f"{letter}{n}", rules), mortal) for n in range(number)]
    row = Row(0) if start else None
    world = World((Commit(row, 0),), (None,) * len(KEYS), last_tick=ticks)
    for number, key in enumerate((EPOCH, STAMP, INDEX_EPOCH, INDEX_STAMP), 1):
        world = world.put(key, Version(number), serial=number)
    for key, epoch in _EPOCH_OF.items() if warm else ():
        world = world.put(key, Entry(row, ("first", key), world.cells[epoch]))
    return System(world, tuple(processes), events, crashed, at_rest, crashes)
