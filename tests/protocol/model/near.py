"""What a process keeps itself of one row, and how it hears of changes.

As ``near.Near``, ``Wire``, ``Reader._read`` and ``Writer._mark`` and ``_clear`` do it. Readers of one process read on
one connection, on which the server also tells of changes, in order; what it says is on its way for any time.
Writers of the process use another one.

How old an answer may be is told in floors instead of time: it must be as new as what was acknowledged when the
request was sent that was answered last. ``near_lag`` after that moment nothing is answered any more.
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
    mark,
    returned,
    select,
    write,
)

CHANGED = "invalidate row"


class Side(NamedTuple):
    """The process and its connection."""

    kept: Entry | None
    expected: Any = None
    """The placeholder: by whom the row is being read."""
    told: tuple[Any, ...] = ()
    """What the server has said and has not arrived: replies, and that the row has changed."""
    tracked: bool = True
    """Whether the server will tell of the next change."""
    arrived: frozenset[Any] = frozenset()
    """Replies at which nobody has looked."""
    good: int = 0
    """What was acknowledged when the request was sent that was answered last."""
    own: int = 0
    """What the process has written itself."""
    losses: int = 0
    """How often the connection may still be lost."""


def _with(world: World, **changes: Any) -> World:
    return world._replace(side=world.side._replace(**changes))


def told_of(operation: Operation) -> Operation:
    """Changes the row: the server tells whoever has read it since the last time."""

    def run(world: World) -> Iterator[Outcome]:
        for label, answer, after in operation(world):
            side = after.side
            if side.tracked:
                after = _with(after, told=(*side.told, CHANGED), tracked=False)
            yield Outcome(label, answer, after)

    return run


# Reading --------------------------------------------------------------------------------------------------


def find() -> Operation:
    """Answer: what is kept, and the oldest commit that it may be of; None if nothing is."""

    def run(world: World) -> Iterator[Outcome]:
        kept, side = world.side.kept, world.side
        if kept is not None:
            yield Outcome(f"finds {kept} kept", (max(side.good, side.own), kept.row), world)
        else:
            yield Outcome("finds nothing kept", None, world)

    return run


def send(ticket: Any) -> Operation:
    """Leaves a placeholder and sends the request. Answer: what is acknowledged now."""

    def run(world: World) -> Iterator[Outcome]:
        yield Outcome("sends: read row", world.floor, _with(world, expected=ticket))

    return run


def execute(ticket: Any, sent: int) -> Operation:
    """The server's part."""

    def run(world: World) -> Iterator[Outcome]:
        side, cell = world.side, world.cells[ROW]
        after = _with(world, told=(*side.told, (ticket, cell, sent)), tracked=True)
        yield Outcome(f"the server reads row: {cell or 'nothing'}", None, after)

    return run


def look(ticket: Any, rules: Rules) -> Operation:
    """Looks at the reply, once it has arrived, and keeps it if the placeholder still stands."""

    def run(world: World) -> Iterator[Outcome]:
        side = world.side
        for reply in side.arrived:
            if reply[0] == ticket:
                cell = reply[1]
                mine = side.expected == ticket or not rules.near_placeholder
                after = _with(world, arrived=side.arrived - {reply})
                if mine:
                    after = _with(after, expected=None, kept=cell if isinstance(cell, Entry) else side.kept)
                kept = ", and keeps it" if mine and isinstance(cell, Entry) else ""
                yield Outcome(f"looks at the reply: {cell or 'nothing'}{kept}", cell, after)

    return run


def answer_ping(sent: int) -> Operation:
    """The server's part of a request that reads nothing."""

    def run(world: World) -> Iterator[Outcome]:
        yield Outcome("the server answers", None, _with(world, told=(*world.side.told, (None, None, sent))))

    return run


def pinger() -> Body:
    """Asks the server for a sign of life, or for something else."""
    sent = yield moment()
    yield answer_ping(sent)


def moment() -> Operation:
    """Sends a request that reads nothing. Answer: what is acknowledged now."""

    def run(world: World) -> Iterator[Outcome]:
        yield Outcome("sends: PING", world.floor, world)

    return run


def drop() -> Operation:
    def run(world: World) -> Iterator[Outcome]:
        yield Outcome("drops the row", None, _with(world, kept=None, expected=None))

    return run


def reader(me: str, rules: Rules, look_ups: int) -> Body:
    """Looks the row up, again and again."""
    for number in range(look_ups):
        kept = yield find()
        if kept is not None:
            yield returned(*kept)
            continue
        ticket = (me, number)
        began = yield send(ticket)
        yield execute(ticket, began)
        cell = yield look(ticket, rules)
        if isinstance(cell, Entry):
            row = cell.row
        else:
            row = yield select()
        yield returned(began, row)


# Writing --------------------------------------------------------------------------------------------------


def mark_or_fail(writer: str) -> Operation:
    """Answer: whether the mark has arrived."""

    def run(world: World) -> Iterator[Outcome]:
        for label, _, after in told_of(mark(ROW, writer))(world):
            yield Outcome(label, True, after)
        yield Outcome("mark row: fails", False, world)

    return run


def seen_by_its_own(operation: Operation) -> Operation:
    """What is committed by it must be seen in its own process from now on."""

    def run(world: World) -> Iterator[Outcome]:
        for label, answer, after in operation(world):
            yield Outcome(label, answer, _with(after, own=len(after.history) - 1))

    return run


def own_writer(me: str, rules: Rules) -> Body:
    """A write of the same process, whose mark may fail: then it is seen at the latest when it is acknowledged."""
    arrived = yield mark_or_fail(me)
    if rules.near_drop_at_mark:
        yield drop()
    if arrived:
        yield seen_by_its_own(write(me, acknowledged=False))
    else:
        yield write(me, acknowledged=False)
    yield told_of(clear(ROW, me))
    if rules.near_drop_at_clear:
        yield drop()
    yield seen_by_its_own(acknowledge())


def other_writer(me: str) -> Body:
    """A write of another process."""
    yield told_of(mark(ROW, me))
    yield write(me)
    yield told_of(clear(ROW, me))


# The connection -------------------------------------------------------------------------------------------


def arrivals(rules: Rules, world: World) -> Iterator[Outcome]:
    """What the server has said arrives, in order, or is lost with the connection; then there is a new one."""
    side = world.side
    if side.told:
        first, *rest = side.told
        after = _with(world, told=tuple(rest))
        if first == CHANGED:
            yield Outcome(f"arrives: {CHANGED}", None, _with(after, kept=None, expected=None))
        else:
            ticket, cell, sent = first
            good = sent if rules.near_since_sent else world.floor
            arrived = side.arrived | {(ticket, cell)} if ticket else side.arrived
            yield Outcome(
                f"arrives: the reply to {ticket[0] if ticket else 'PING'}",
                None,
                _with(after, arrived=arrived, good=good),
            )
    if side.losses:
        unanswered = {(each[0], None) for each in side.told if each != CHANGED and each[0]}
        after = _with(
            world, losses=side.losses - 1, told=(), tracked=False, arrived=side.arrived | unanswered, expected=None
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
    warm: bool = True,
) -> System[World]:
    """Readers of one process by the number of their lookups, and writers of it and of others."""
    processes = [Process(f"R{n}", partial(reader, f"R{n}", rules, number)) for n, number in enumerate(look_ups)]
    processes += [Process(f"W{n}", partial(own_writer, f"W{n}", rules)) for n in range(own)]
    processes += [Process(f"O{n}", partial(other_writer, f"O{n}")) for n in range(others)]
    processes += [Process(f"P{n}", pinger) for n in range(pings)]
    first = Entry(Row(0), ("first", 0))
    side = Side(first if warm else None, tracked=warm, losses=losses)
    world = World((Commit(Row(0), 0),), side=side).put(ROW, first)
    return System(world, tuple(processes), partial(arrivals, rules), crashed, at_rest)
