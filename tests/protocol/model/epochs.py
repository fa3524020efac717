"""A model's epoch: ``clear()`` after writes without intents, and bulk writes past the limit.

The model of ``plans``, ``Writer.clear_models`` and ``Intent.add_model``. These writes do not mark the row's own key.
"""

from functools import partial

from tests.protocol.model.engine import Body, Process, System
from tests.protocol.model.rules import Rules
from tests.protocol.model.world import (
    EPOCH,
    ROW,
    Commit,
    Entry,
    Lease,
    Row,
    Version,
    World,
    acknowledge,
    at_rest,
    beginning,
    clear,
    crashed,
    current,
    events,
    fill,
    finish,
    lease,
    mark,
    read,
    returned,
    select,
    update,
    write,
)


def reader(me: str, rules: Rules, look_ups: int, epoch_first: bool) -> Body:
    """Looks the row up repeatedly. A cluster reads epoch and row in any order."""
    for number in range(look_ups):
        if epoch_first:
            began, epoch = yield beginning(read(EPOCH))
            entry = yield read(ROW)
        else:
            began, entry = yield beginning(read(ROW))
            epoch = yield read(EPOCH)
        if isinstance(entry, Entry) and entry.epoch == epoch:
            row = entry.row
        else:
            row = yield from load_row(me, number, rules, entry if isinstance(entry, Entry) else None)
        yield returned(began, row)


def load_row(me: str, number: int, rules: Rules, replaced: Entry | None) -> Body:
    own = Lease((me, number))
    held = yield lease(ROW, own.token, replaced)
    if held == own:
        if rules.epoch_before_sql:
            epoch = yield current(EPOCH)
            row = yield select()
        else:
            row = yield select()
            epoch = yield current(EPOCH)
        usable = isinstance(epoch, Version) or not rules.no_fill_while_marked
        yield fill(ROW, own, Entry(row, own.token, epoch) if usable else None)
        return row
    if isinstance(held, Lease | Entry):
        epoch = yield read(EPOCH)
        entry = yield read(ROW)
        if isinstance(entry, Entry) and entry.epoch == epoch:
            return entry.row
    row = yield select()
    return row


def bulk_write(me: str, rules: Rules) -> Body:
    """Writes more rows than ``bulk_limit``: marks the epoch before COMMIT and clears it afterwards."""
    yield update(me)
    if rules.epoch_marked:
        yield mark(EPOCH, me)
        if not rules.epoch_cleared:
            yield clear(EPOCH, me)
    yield finish(me)
    if rules.epoch_cleared:
        yield clear(EPOCH, me)


def clearing(me: str, rules: Rules) -> Body:
    """Writes by raw SQL, without an intent, and then calls ``clear()``, whose return acknowledges the write."""
    yield write(me, acknowledged=False)
    yield mark(EPOCH, me)
    yield clear(EPOCH, me)
    yield acknowledge()


def writer(me: str, rules: Rules) -> Body:
    """Writes the row."""
    yield mark(ROW, me)
    yield write(me)
    yield clear(ROW, me)


def system(
    rules: Rules,
    *,
    look_ups: tuple[int, ...] = (),
    epoch_first: tuple[bool, ...] = (True, False),
    bulk: int = 0,
    clears: int = 0,
    writers: int = 0,
    crashes: int = 0,
    ticks: int = 0,
    warm: bool = False,
) -> System[World]:
    """Returns a system of readers, by the number of their lookups, and writers of each kind."""
    processes = [
        Process(f"R{n}", partial(reader, f"R{n}", rules, number, epoch_first[n]), True)
        for n, number in enumerate(look_ups)
    ]
    for letter, number, body, mortal in (
        ("B", bulk, bulk_write, True),
        ("C", clears, clearing, False),
        ("W", writers, writer, True),
    ):
        processes += [Process(f"{letter}{n}", partial(body, f"{letter}{n}", rules), mortal) for n in range(number)]
    epoch = Version(1)
    world = World((Commit(Row(0), 0),), last_tick=ticks).put(EPOCH, epoch, serial=1)
    if warm:
        world = world.put(ROW, Entry(Row(0), ("first", 0), epoch))
    return System(world, tuple(processes), events, crashed, at_rest, crashes)
