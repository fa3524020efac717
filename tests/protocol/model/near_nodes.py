"""The near cache of one row whose slot moves from one node of a Cluster to another.

The model of ``backends.channels``, ``backends.redis.cluster.tracking`` and of what ``near`` leaves out: each node sends
its messages on a connection of its own, in order, and the messages of two nodes in any order. The slot moves key by
key, of which the giving node sends a message, or the node is replaced (a failover). Then it sends none, and goes on to
answer whatever does not name its keys.

As in ``near``, the allowed age of an answer is a commit: the last one that was acknowledged when the last request that
its node has answered was sent.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

from tests.protocol.model.engine import Body, Operation, Outcome, Process, System
from tests.protocol.model.near import CHANGED
from tests.protocol.model.rules import Rules
from tests.protocol.model.world import (
    ROW,
    Commit,
    Entry,
    Row,
    World,
    at_rest,
    clear,
    crashed,
    mark,
    returned,
    select,
    write,
)

MOVED = "MOVED"


class Side(NamedTuple):
    """The state of the process, its connections to both nodes, and the nodes."""

    kept: Entry | None
    reports: int = 0
    """The node that is held to report changes of the kept entry."""
    expected: Any = None
    """The placeholder: the read that is in flight."""
    in_flight: tuple[tuple[Any, ...], ...] = ((), ())
    """Messages of each node that have not arrived."""
    tracked: tuple[bool, ...] = (False, False)
    """True for a node that will send a message about the next change."""
    arrived: frozenset[Any] = frozenset()
    """Replies that have arrived and that no reader has taken."""
    good: tuple[int, ...] = (0, 0)
    """For each node, the last acknowledged commit at the time when the last request that it answered was sent."""
    serves: int = 0
    """The node that serves the slot."""
    known: int = 0
    """The node that the process takes for it."""
    moves: int = 1
    """The number of times that the slot may still move."""


def _with(world: World, **changes: Any) -> World:
    return world._replace(side=world.side._replace(**changes))


def _put(values: tuple[Any, ...], at: int, value: Any) -> tuple[Any, ...]:
    return (*values[:at], value, *values[at + 1 :])


def _sends(world: World, node: int, message: Any) -> World:
    in_flight = world.side.in_flight
    return _with(world, in_flight=_put(in_flight, node, (*in_flight[node], message)))


def _changed(world: World, node: int) -> World:
    """Returns the world in which a node has told of a change, if it tracks the row."""
    if not world.side.tracked[node]:
        return world
    return _with(_sends(world, node, CHANGED), tracked=_put(world.side.tracked, node, False))


def tracked_change(operation: Operation) -> Operation:
    """Changes the row on the node that serves it."""

    def run(world: World) -> Iterator[Outcome]:
        for label, answer, after in operation(world):
            yield Outcome(label, answer, _changed(after, after.side.serves))

    return run


# Reading --------------------------------------------------------------------------------------------------


def find(rules: Rules) -> Operation:
    """Answers with the near entry's row and the oldest commit that it may be of, or None without an entry."""

    def run(world: World) -> Iterator[Outcome]:
        side = world.side
        if side.kept is None:
            yield Outcome("finds nothing kept", None, world)
        else:
            good = side.good[side.reports] if rules.near_each_node else max(side.good)
            yield Outcome(f"finds {side.kept} kept", (good, side.kept.row), world)

    return run


def send(ticket: Any) -> Operation:
    """Leaves a placeholder and sends the request. Answers with the last acknowledged commit, and the node."""

    def run(world: World) -> Iterator[Outcome]:
        node = world.side.known
        yield Outcome(f"asks node {node}: read row", (world.floor, node), _with(world, expected=ticket))

    return run


def execute(ticket: Any, sent: int, node: int) -> Operation:
    """Executes the read on a node."""

    def run(world: World) -> Iterator[Outcome]:
        if node == world.side.serves:
            cell = world.cells[ROW]
            after = _with(world, tracked=_put(world.side.tracked, node, True))
            yield Outcome(
                f"node {node} reads row: {cell or 'nothing'}", None, _sends(after, node, (ticket, cell, sent))
            )
        else:
            yield Outcome(f"node {node} refuses", None, _sends(world, node, (ticket, MOVED, sent)))

    return run


def take_reply(ticket: Any) -> Operation:
    """Takes the reply once it has arrived. Answers with it."""

    def run(world: World) -> Iterator[Outcome]:
        for reply in world.side.arrived:
            if reply[0] == ticket:
                after = _with(world, arrived=world.side.arrived - {reply})
                yield Outcome(f"looks at the reply: {reply[1] or 'nothing'}", reply[1], after)

    return run


def follow(rules: Rules) -> Operation:
    """Learns from the refusal which node serves the slot, and reads the row there without tracking."""

    def run(world: World) -> Iterator[Outcome]:
        cell = world.cells[ROW]
        after = _with(world, known=world.side.serves)
        if rules.near_forget_redirected:
            after = _with(after, expected=None)
        yield Outcome(f"reads row at the other node: {cell or 'nothing'}", cell, after)

    return run


def keep(ticket: Any, cell: Any) -> Operation:
    """Keeps what was read if the placeholder is still there, as an entry of the node that now serves the slot."""

    def run(world: World) -> Iterator[Outcome]:
        if world.side.expected == ticket and isinstance(cell, Entry):
            after = _with(world, kept=cell, expected=None, reports=world.side.known)
            yield Outcome(f"keeps {cell}", None, after)
        else:
            yield Outcome("keeps nothing", None, world)

    return run


def reader(me: str, rules: Rules, look_ups: int) -> Body:
    """Looks the row up repeatedly."""
    for number in range(look_ups):
        kept = yield find(rules)
        if kept is not None:
            yield returned(*kept)
            continue
        ticket = (me, number)
        began, node = yield send(ticket)
        yield execute(ticket, began, node)
        cell = yield take_reply(ticket)
        if cell == MOVED:
            cell = yield follow(rules)
        yield keep(ticket, cell)
        if isinstance(cell, Entry):
            row = cell.row
        else:
            row = yield select()
        yield returned(began, row)


def moment() -> Operation:
    """Sends a ping. Answers with the last acknowledged commit."""

    def run(world: World) -> Iterator[Outcome]:
        yield Outcome("sends: a ping", world.floor, world)

    return run


def answer_ping(node: int, sent: int, rules: Rules) -> Operation:
    """Executes a ping: a node that was replaced refuses to answer about a key."""

    def run(world: World) -> Iterator[Outcome]:
        replaced = node == 0 and world.side.serves == 1
        refuses = replaced and rules.near_asks_for_keys
        answer = MOVED if refuses else None
        yield Outcome(
            f"node {node} {'refuses' if refuses else 'answers'}", None, _sends(world, node, (None, answer, sent))
        )

    return run


def pinger(node: int, rules: Rules) -> Body:
    """Pings a node."""
    sent = yield moment()
    yield answer_ping(node, sent, rules)


def other_writer(me: str) -> Body:
    """Writes in another process."""
    yield tracked_change(mark(ROW, me))
    yield write(me)
    yield tracked_change(clear(ROW, me))


# Events ---------------------------------------------------------------------------------------------------


def events(rules: Rules, world: World) -> Iterator[Outcome]:
    """Delivers messages of each node in order, moves the slot, and lets the process read the topology."""
    side = world.side
    for node, messages in enumerate(side.in_flight):
        if messages:
            first, *rest = messages
            after = _with(world, in_flight=_put(side.in_flight, node, tuple(rest)))
            if first == CHANGED:
                yield Outcome(f"arrives from node {node}: {CHANGED}", None, _with(after, kept=None, expected=None))
            else:
                ticket, cell, sent = first
                good = side.good if cell == MOVED else _put(side.good, node, sent)
                arrived = side.arrived | {(ticket, cell)} if ticket else side.arrived
                label = f"arrives from node {node}: the reply to {ticket[0] if ticket else 'the ping'}"
                yield Outcome(label, None, _with(after, arrived=arrived, good=good))
    if side.moves:
        moved = _with(world, serves=1, moves=0)
        yield Outcome("the slot moves to node 1", None, _changed(moved, 0))
        yield Outcome("node 1 replaces node 0", None, moved.put(ROW, None))
    if side.known != side.serves:
        learned = _with(world, known=side.serves, kept=None)
        if rules.near_forget_moved:
            learned = _with(learned, expected=None)
        yield Outcome("reads the topology: node 1 serves the slot", None, learned)


def system(
    rules: Rules, *, look_ups: tuple[int, ...] = (), others: int = 0, pings: tuple[int, ...] = (), warm: bool = True
) -> System[World]:
    """Returns a system of readers of one process, by the number of their lookups, and writers of other processes.

    ``pings``: the nodes that the process pings.
    """
    processes = [Process(f"R{n}", partial(reader, f"R{n}", rules, number)) for n, number in enumerate(look_ups)]
    processes += [Process(f"O{n}", partial(other_writer, f"O{n}")) for n in range(others)]
    processes += [Process(f"P{n}", partial(pinger, node, rules)) for n, node in enumerate(pings)]
    first = Entry(Row(0), ("first", 0))
    side = Side(first if warm else None, tracked=(warm, False))
    world = World((Commit(Row(0), 0),), side=side).put(ROW, first)
    return System(world, tuple(processes), partial(events, rules), crashed, at_rest)
