"""The near cache of one row, and the server's invalidation messages.

The model of ``backends.near``, ``backends.redis.connection``, ``engine.reader`` and ``engine.writer``. Readers of one
process share a connection, on which the server also sends invalidation messages, in order. Messages may take any
time to arrive. Writers of the process use another connection.

The allowed age of an answer is a commit instead of a time. An answer must be as new as the last commit that was
acknowledged when the last answered request was sent. The real cache answers nothing after ``near_lag`` from then.

Lookups of the process go forward: an answer must be as new as those that were returned before it began.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

from tests.protocol.model.engine import Body, Operation, Outcome, Process, System
from tests.protocol.model.rules import Rules
from tests.protocol.model.world import (
    ROW,
    Commit,
    Entry,
    Row,
    World,
    acknowledge,
    at_rest,
    clear,
    crashed,
    fill_absent,
    mark,
    read,
    returned,
    select,
    write,
)

CHANGED = "invalidate row"


class Side(NamedTuple):
    """The state of the process and its connection."""

    kept: Entry | None
    expected: Any = None
    """The placeholder: the read that is in flight."""
    in_flight: tuple[Any, ...] = ()
    """Messages of the server that have not arrived: replies, and invalidations of the row."""
    tracked: bool = True
    """True if the server will send a message about the next change."""
    arrived: frozenset[Any] = frozenset()
    """Replies that have arrived and that no reader has taken."""
    good: int = 0
    """The last acknowledged commit at the time when the last answered request was sent."""
    own: int = 0
    """The last commit of the process itself."""
    losses: int = 0
    """The number of times that the connection may still be lost."""
    seen: int = 0
    """The newest commit that a lookup of the process has returned."""
    trusted: bool = True
    """False until a request is answered that was sent after the process had last seen a row elsewhere."""
    era: int = 0
    """The number of times that it has. A request carries the number of when it was sent."""
    unmarked: bool = False
    """True once a mark has failed. The real process then reads nothing from the store until its keys are cleared."""


def _with(world: World, **changes: Any) -> World:
    return world._replace(side=world.side._replace(**changes))


def tracked_change(operation: Operation) -> Operation:
    """Changes the row. The server sends a message if the process has read the row since the last message."""

    def run(world: World) -> Iterator[Outcome]:
        for label, answer, after in operation(world):
            side = after.side
            if side.tracked:
                after = _with(after, in_flight=(*side.in_flight, CHANGED), tracked=False)
            yield Outcome(label, answer, after)

    return run


# Reading --------------------------------------------------------------------------------------------------


def find() -> Operation:
    """Answers with the near entry's row and the oldest commit that it may be of, or None without an entry."""

    def run(world: World) -> Iterator[Outcome]:
        kept, side = world.side.kept, world.side
        if kept is not None and side.trusted:
            began = max(side.good, side.own, side.seen)
            yield Outcome(f"finds {kept} kept", (began, kept.row), _saw(world, kept.row))
        else:
            yield Outcome("finds nothing kept", None, world)

    return run


def _saw(world: World, row: Row) -> World:
    return world if world.side.unmarked else _with(world, seen=max(world.side.seen, row.version))


def send(ticket: Any) -> Operation:
    """Leaves a placeholder and sends the request. Answers with what ``_now`` returns."""

    def run(world: World) -> Iterator[Outcome]:
        yield Outcome("sends: read row", _now(world), _with(world, expected=ticket))

    return run


def _now(world: World) -> tuple[int, int]:
    """Returns the oldest commit that a lookup may return if it begins now, and the era."""
    return max(world.floor, world.side.seen), world.side.era


def execute(ticket: Any, sent: tuple[int, int]) -> Operation:
    """Executes the read on the server."""

    def run(world: World) -> Iterator[Outcome]:
        side, cell = world.side, world.cells[ROW]
        after = _with(world, in_flight=(*side.in_flight, (ticket, cell, sent)), tracked=True)
        yield Outcome(f"the server reads row: {cell or 'nothing'}", None, after)

    return run


def take_reply(ticket: Any, rules: Rules) -> Operation:
    """Takes the reply once it has arrived, and keeps it if the placeholder is still there."""

    def run(world: World) -> Iterator[Outcome]:
        side = world.side
        for reply in side.arrived:
            if reply[0] == ticket:
                cell = reply[1]
                mine = side.expected == ticket or not rules.near_placeholder
                after = _with(world, arrived=side.arrived - {reply})
                if isinstance(cell, Entry):
                    after = _saw(after, cell.row)
                if mine:
                    after = _with(after, expected=None, kept=cell if isinstance(cell, Entry) else side.kept)
                kept = ", and keeps it" if mine and isinstance(cell, Entry) else ""
                yield Outcome(f"looks at the reply: {cell or 'nothing'}{kept}", cell, after)

    return run


def see(row: Row, rules: Rules) -> Operation:
    """Gets the row's state from the database, or on another connection."""

    def run(world: World) -> Iterator[Outcome]:
        after = _saw(world, row)
        if rules.near_catches_up:
            after = _with(after, trusted=False, era=world.side.era + 1)
        yield Outcome(f"gets {row} elsewhere", None, after)

    return run


def compare(cell: Any, rules: Rules) -> Operation:
    """Gets a row that was read on another connection, although it is kept. Compares both."""

    def run(world: World) -> Iterator[Outcome]:
        same = cell == world.side.kept or not rules.near_compares
        [(_, _, after)] = see(cell.row, rules)(world)
        yield Outcome(f"gets {cell}, {world.side.kept} is kept", None, _saw(world, cell.row) if same else after)

    return run


def answer_ping(sent: tuple[int, int]) -> Operation:
    """Executes a request that reads nothing on the server."""

    def run(world: World) -> Iterator[Outcome]:
        yield Outcome("the server answers", None, _with(world, in_flight=(*world.side.in_flight, (None, None, sent))))

    return run


def pinger() -> Body:
    """Sends a request that reads nothing, and gets a reply."""
    sent = yield moment()
    yield answer_ping(sent)


def moment() -> Operation:
    """Sends a request that reads nothing. Answers with what ``_now`` returns."""

    def run(world: World) -> Iterator[Outcome]:
        yield Outcome("sends: PING", _now(world), world)

    return run


def drop() -> Operation:
    def run(world: World) -> Iterator[Outcome]:
        yield Outcome("drops the row", None, _with(world, kept=None, expected=None))

    return run


def reader(me: str, rules: Rules, look_ups: int) -> Body:
    """Looks the row up repeatedly."""
    for number in range(look_ups):
        kept = yield find()
        if kept is not None:
            yield returned(*kept)
            continue
        ticket = (me, number)
        sent = yield send(ticket)
        yield execute(ticket, sent)
        cell = yield take_reply(ticket, rules)
        if isinstance(cell, Entry):
            row = cell.row
        else:
            row = yield select()
            yield see(row, rules)
        yield returned(sent[0], row)


def mixed_reader(rules: Rules) -> Body:
    """Looks the row up with others that are not kept, while the row is kept: on another connection."""
    sent = yield moment()
    cell = yield read(ROW)
    if isinstance(cell, Entry):
        row = cell.row
        yield compare(cell, rules)
    else:
        row = yield select()
        yield see(row, rules)
    yield returned(sent[0], row)


# Writing --------------------------------------------------------------------------------------------------


def mark_or_fail(writer: str) -> Operation:
    """Marks the row, or fails. Answers True if the mark has arrived."""

    def run(world: World) -> Iterator[Outcome]:
        for label, _, after in tracked_change(mark(ROW, writer))(world):
            yield Outcome(label, True, after)
        yield Outcome("mark row: fails", False, _with(world, unmarked=True))

    return run


def visible_in_own_process(operation: Operation) -> Operation:
    """Requires that the process sees everything that is committed by this operation from now on."""

    def run(world: World) -> Iterator[Outcome]:
        for label, answer, after in operation(world):
            yield Outcome(label, answer, _with(after, own=len(after.history) - 1))

    return run


def own_writer(me: str, rules: Rules) -> Body:
    """Writes in the same process. If the mark fails, the process sees the write once it is acknowledged."""
    arrived = yield mark_or_fail(me)
    if rules.near_drop_at_mark:
        yield drop()
    if arrived:
        yield visible_in_own_process(write(me, acknowledged=False))
    else:
        yield write(me, acknowledged=False)
    yield tracked_change(clear(ROW, me))
    if rules.near_drop_at_clear:
        yield drop()
    yield visible_in_own_process(acknowledge())


def other_writer(me: str, fills: bool) -> Body:
    """Writes in another process, whose readers may fill the row then."""
    yield tracked_change(mark(ROW, me))
    yield write(me)
    yield tracked_change(clear(ROW, me))
    if fills:
        row = yield select()
        yield tracked_change(fill_absent(ROW, Entry(row, (me, 0)), stamp=None, until=None))


# The connection -------------------------------------------------------------------------------------------


def arrivals(rules: Rules, world: World) -> Iterator[Outcome]:
    """Delivers the server's messages in order, or loses them with the connection, which is opened again."""
    side = world.side
    if side.in_flight:
        first, *rest = side.in_flight
        after = _with(world, in_flight=tuple(rest))
        if first == CHANGED:
            yield Outcome(f"arrives: {CHANGED}", None, _with(after, kept=None, expected=None))
        else:
            ticket, cell, sent = first
            began, era = sent if rules.near_since_sent else _now(world)
            arrived = side.arrived | {(ticket, cell)} if ticket else side.arrived
            after = _with(after, arrived=arrived)
            if era == side.era:
                after = _with(after, good=began, trusted=True)
            yield Outcome(f"arrives: the reply to {ticket[0] if ticket else 'PING'}", None, after)
    if side.losses:
        unanswered = {(message[0], None) for message in side.in_flight if message != CHANGED and message[0]}
        after = _with(
            world, losses=side.losses - 1, in_flight=(), tracked=False, arrived=side.arrived | unanswered, expected=None
        )
        if rules.near_drop_on_loss:
            after = _with(after, kept=None)
        yield Outcome("the connection is lost", None, after)


def system(
    rules: Rules,
    *,
    look_ups: tuple[int, ...] = (),
    own: int = 0,
    others: int = 0,
    pings: int = 0,
    losses: int = 0,
    mixed: int = 0,
    warm: bool = True,
) -> System[World]:
    """Returns a system of readers of one process, by the number of their lookups, and writers of all processes.

    ``mixed``: the number of readers that read other keys, too.
    """
    processes = [Process(f"R{n}", partial(reader, f"R{n}", rules, number)) for n, number in enumerate(look_ups)]
    processes += [Process(f"W{n}", partial(own_writer, f"W{n}", rules)) for n in range(own)]
    processes += [Process(f"O{n}", partial(other_writer, f"O{n}", mixed > 0)) for n in range(others)]
    processes += [Process(f"P{n}", pinger) for n in range(pings)]
    processes += [Process(f"M{n}", partial(mixed_reader, rules)) for n in range(mixed)]
    first = Entry(Row(0), ("first", 0))
    side = Side(first if warm else None, tracked=warm, losses=losses)
    world = World((Commit(Row(0), 0),), side=side).put(ROW, first)
    return System(world, tuple(processes), partial(arrivals, rules), crashed, at_rest)
