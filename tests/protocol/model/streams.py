"""Writes by other programs, as a relay reads them from a replication slot.

The model of ``relay.stream``. Changes are in the WAL, in the order of their COMMITs. The slot sends all after a
position, some time later. A relay reads the store's clock, and looks at the slot. Then it writes a message of its own
into the WAL, and records the position up to which it has invalidated everything. It reads the slot, invalidates what it
receives, and claims once it has received its message. It confirms the position when the next message is written.

Any program may end the relay's connection, drop the slot, and create one of the same name that begins at the end of the
WAL. The relay notices because such a slot is further than recorded. It creates the slot anew then, under a new name in
its own table, and clears the epoch.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

from tests.protocol.model.engine import Body, Operation, Outcome, Process, System, Violation
from tests.protocol.model.relays import RELAY_LAG, claiming, clock, is_current, reader, watcher
from tests.protocol.model.rules import Rules
from tests.protocol.model.world import (
    EPOCH,
    KEYS,
    ROW,
    STALE_AT_REST,
    STAMP,
    Commit,
    Entry,
    Row,
    Version,
    World,
    clear,
    committed,
    crashed,
    events,
    in_time,
    renew,
)

CHANGE = "change"
"""An event of the WAL: a change of the row. Others are the relays' own messages."""
CREATED = "slot created"
"""The record that creating a slot adds to the WAL."""


class Side(NamedTuple):
    """The WAL, the slot, the relay's own table, the claim, and what the process of the readers knows."""

    wal: tuple[Any, ...] = ()
    confirmed: int = 0
    """The number of events that the slot does not send again."""
    reading: Any = None
    """The connection that reads the slot."""
    recorded: int = 0
    """The number of events that are invalidated, in the relay's own table."""
    name: int = 0
    """The name that the table has for the slot."""
    cleared: int = 0
    """The slot that a relay has claimed with last, as the store knows."""
    alive: int = RELAY_LAG
    known: int = RELAY_LAG
    kept: Entry | None = None
    expected: Any = None


def _with(world: World, **changes: Any) -> World:
    return world._replace(side=world.side._replace(**changes))


# Other programs -------------------------------------------------------------------------------------------


def outside(me: str, writes: int) -> Body:
    """Writes the row."""
    for _ in range(writes):
        yield writing(me)


def writing(writer: str) -> Operation:
    def run(world: World) -> Iterator[Outcome]:
        if world.lock is None and in_time(world, writer):
            outcome = committed(world, Row(len(world.history)), acknowledged=False)
            yield outcome._replace(world=_with(outcome.world, wal=(*world.side.wal, CHANGE)))

    return run


def administrator(me: str) -> Body:
    """Drops the slot and creates it again."""
    yield recreating()


def recreating() -> Operation:
    def run(world: World) -> Iterator[Outcome]:
        wal = (*world.side.wal, CREATED)
        yield Outcome("the slot is created again", None, _with(world, wal=wal, confirmed=len(wal), reading=None))

    return run


# The relay ------------------------------------------------------------------------------------------------


def relay(me: str, rules: Rules, drains: int, remembers: bool) -> Body:
    """Drains repeatedly. ``remembers``: knows the name that the slot had at the last claim."""
    seen = 0 if remembers else None
    position = 0
    for number in range(drains):
        started = mark = name = None
        received: tuple[Any, ...] = ()
        if rules.stream_marks_after_clock:
            started = yield clock("reads the store's clock")
        name = yield checking(rules)
        mark = (me, number)
        marked = yield marking(mark, name, position)
        if not rules.stream_marks_after_clock:
            started = yield clock("reads the store's clock")
        if not marked:
            continue
        yield confirming((me, number - 1), position)
        first = yield opening(mark)
        fine = yield verifying(mark, name, rules)
        if not fine:
            continue
        received = yield receiving(mark, first)
        if not rules.stream_confirms_invalidated:
            yield marking(None, name, first + len(received))
            yield confirming(mark, first + len(received))
        if CHANGE in received:
            yield renew(STAMP)
            yield clear(ROW, me)
        position = first + len(received)
        if mark in received or not rules.stream_waits_for_mark:
            if rules.stream_clears_for_new_slot and seen != name:
                yield clear(EPOCH, me)
            seen = name
            yield claiming_with(name, started, rules)


def claiming_with(name: int, started: int, rules: Rules) -> Operation:
    def run(world: World) -> Iterator[Outcome]:
        for label, answer, after in claiming(started, rules)(world):
            yield Outcome(label, answer, _with(after, cleared=name))

    return run


def checking(rules: Rules) -> Operation:
    """Answers with the name of the slot in the table. A slot that is further than recorded gets a new one."""

    def run(world: World) -> Iterator[Outcome]:
        side = world.side
        if side.confirmed > side.recorded and rules.stream_knows_slot:
            wal = (*side.wal, CREATED)
            after = _with(world, wal=wal, name=side.name + 1, confirmed=len(wal), recorded=len(wal), reading=None)
            yield Outcome(f"creates the slot {after.side.name} anew", after.side.name, after)
        else:
            yield Outcome(f"looks at the slot {side.name}", side.name, world)

    return run


def marking(mark: Any, name: int, position: int) -> Operation:
    """Records a position, and writes a message into the WAL. Answers with False if the slot is another one."""

    def run(world: World) -> Iterator[Outcome]:
        side = world.side
        if side.name != name:
            yield Outcome("finds another slot", False, world)
        else:
            wal = side.wal if mark is None else (*side.wal, mark)
            after = _with(world, wal=wal, recorded=max(side.recorded, position))
            yield Outcome(f"records {position} and writes a message", True, after)

    return run


def confirming(mark: Any, position: int) -> Operation:
    """Confirms the recorded changes, on the connection that was opened in an earlier drain."""

    def run(world: World) -> Iterator[Outcome]:
        side = world.side
        ours = side.reading == mark
        after = _with(world, confirmed=max(side.confirmed, position)) if ours else world
        yield Outcome(f"confirms {position}" if ours else "confirms nothing", None, after)

    return run


def opening(mark: Any) -> Operation:
    """Begins to read the slot, and ends another connection that does. Answers with the first event."""

    def run(world: World) -> Iterator[Outcome]:
        first = world.side.confirmed
        yield Outcome(f"reads the slot from {first}", first, _with(world, reading=mark))

    return run


def verifying(mark: Any, name: int, rules: Rules) -> Operation:
    """Answers with True if the slot is the one that was checked."""

    def run(world: World) -> Iterator[Outcome]:
        side = world.side
        fine = side.reading == mark and side.name == name and side.confirmed <= side.recorded
        fine = fine or not (rules.stream_looks_when_reading and rules.stream_knows_slot)
        yield Outcome("the slot is the same" if fine else "the slot is another one", fine, world)

    return run


def receiving(mark: Any, first: int) -> Operation:
    """Answers with the events that have arrived. The slot sends them in order, some time later."""

    def run(world: World) -> Iterator[Outcome]:
        side = world.side
        sent = side.wal[first:] if side.reading == mark else ()
        for number in sorted({0, len(sent), sent.index(mark) + 1 if mark in sent else 0}):
            yield Outcome(f"receives {number} events", sent[:number], world)

    return run


# The system -----------------------------------------------------------------------------------------------


def at_rest(world: World) -> None:
    """Checks that no entry is wrong once all processes have ended, unless a relay has yet to hear of it."""
    side = world.side
    if CHANGE in side.wal[side.confirmed :] or side.confirmed > side.recorded or side.name != side.cleared:
        return
    cell = world.cells[ROW]
    if isinstance(cell, Entry) and is_current(world, cell) and cell.row != world.row:
        raise Violation(STALE_AT_REST, f"the {KEYS[ROW]} entry says {cell}, the database {world.row}")


def system(
    rules: Rules,
    *,
    drains: tuple[int, ...] = (),
    look_ups: tuple[int, ...] = (),
    outsiders: tuple[int, ...] = (),
    administrators: int = 0,
    questions: int = 0,
    crashes: int = 0,
    ticks: int = 3,
    remembers: bool = False,
) -> System[World]:
    """Returns a system of relays, by their drains, of readers, by their lookups, and of other programs."""
    processes = [
        Process(f"D{n}", partial(relay, f"D{n}", rules, number, remembers), True) for n, number in enumerate(drains)
    ]
    processes += [
        Process(f"R{n}", partial(reader, f"R{n}", rules, number, ROW, False)) for n, number in enumerate(look_ups)
    ]
    processes += [Process(f"X{n}", partial(outside, f"X{n}", number)) for n, number in enumerate(outsiders)]
    processes += [Process(f"S{n}", partial(administrator, f"S{n}")) for n in range(administrators)]
    if questions:
        processes.append(Process("C", partial(watcher, "C", rules, questions)))
    epoch = Version(1)
    world = World((Commit(Row(0), 0),), (None,) * len(KEYS), last_tick=ticks, side=Side())
    world = world.put(EPOCH, epoch, serial=2).put(STAMP, Version(2)).put(ROW, Entry(Row(0), ("first", 0), epoch))
    return System(world, tuple(processes), events, crashed, at_rest, crashes)
