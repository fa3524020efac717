"""A unique index and its row in two partitions of a Redis Cluster: each partition has an epoch and a stamp.

The model of ``plans.late_leases`` and ``encoding.partitions``. The nodes answer in any order. A reader knows the row's
partition before its statement only if it has followed the index before (``predicts``). Otherwise it asks the row's node
afterwards how old the stamp is (``by_clock``). The node's clock may jump once. The node with the row may fail over to a
replica that lacks its last changes. Intents that are lost before the COMMIT are not among these: see
``docs/consistency.md``.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

from tests.protocol.model.engine import Body, Operation, Outcome, Process, System, Violation
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
    Cell,
    Commit,
    Entry,
    Intents,
    Lease,
    Row,
    Version,
    World,
    acknowledge,
    beginning,
    clear,
    crashed,
    events,
    fill,
    finish,
    lease,
    listed,
    mark,
    read,
    returned,
    select,
    update,
    write,
)

_ON_NODE = (ROW, EPOCH, STAMP)
"""The keys on the node that may fail over."""
_LIFE = 1_000
"""A version is its number and this many times the life of its node."""


class Stamp(NamedTuple):
    """A version that shows when it was stored, by the clock of its node."""

    number: int
    stored: int

    def __str__(self) -> str:
        return f"stamp {self.number}, stored at {self.stored}"


class Node(NamedTuple):
    """The node with the row."""

    life: int = 0
    replica: tuple[Cell, ...] | None = None
    """The cells of its replica. None if it cannot fail over any more."""
    time: int = 0
    """The true time, which readers measure differences of."""
    ahead: int = 0
    """The lead of the node's clock over it."""
    last_tick: int = 0
    jumps: tuple[int, ...] = ()
    """The ways in which the clock may still jump."""

    @property
    def clock(self) -> int:
        """The time that the node's clock shows."""
        return self.time + self.ahead


def version(key: int, rules: Rules, *, create: bool = False) -> Operation:
    """Reads a version. One of an earlier life of its node is absent. If ``create``, an absent one is made anew."""

    def run(world: World) -> Iterator[Outcome]:
        found = _current(world, key, rules)
        if found is None and create:
            found = _made(world, key)
            world = world.put(key, found, serial=world.serial + 1)
        yield Outcome(f"read {KEYS[key]}: {found or 'nothing'}", found, world)

    return run


def renew(key: int) -> Operation:
    """Puts a fresh version under a key."""

    def run(world: World) -> Iterator[Outcome]:
        made = _made(world, key)
        yield Outcome(f"change {KEYS[key]} to {made}", None, world.put(key, made, serial=world.serial + 1))

    return run


def _made(world: World, key: int) -> Any:
    number = (world.side.life if key in _ON_NODE else 0) * _LIFE + world.serial + 1
    return Stamp(number, world.side.clock) if key == STAMP else Version(number)


def _current(world: World, key: int, rules: Rules) -> Any:
    cell: Any = world.cells[key]
    of_node = rules.version_of_node and key in _ON_NODE and isinstance(cell, Version | Stamp)
    return None if of_node and cell.number // _LIFE != world.side.life else cell


def clock() -> Operation:
    """Asks the node with the row for its clock. Answers how far that is ahead."""

    def run(world: World) -> Iterator[Outcome]:
        yield Outcome(f"the node's clock is {world.side.ahead} ahead", world.side.ahead, world)

    return run


def moment() -> Operation:
    """Answers with the time of the reader, of which only differences count."""

    def run(world: World) -> Iterator[Outcome]:
        yield Outcome(f"the time is {world.side.time}", world.side.time, world)

    return run


def check_since(rules: Rules) -> Operation:
    """Reads the epoch and the stamp of the row's partition at the same moment, and the node's clock.

    Answers with the epoch, the time of the stamp by the node's clock, and how far that is ahead. Those that are absent
    are made.
    """

    def run(world: World) -> Iterator[Outcome]:
        for key in (EPOCH, STAMP):
            if _current(world, key, rules) is None:
                world = world.put(key, _made(world, key), serial=world.serial + 1)
        epoch, stamp = world.cells[EPOCH], world.cells[STAMP]
        label = f"read {KEYS[EPOCH]}: {epoch}, and the {stamp}"
        yield Outcome(label, (epoch, stamp.stored, world.side.ahead), world)

    return run


def node_events(world: World, *, loses_intents: bool = False) -> Iterator[Outcome]:
    """Yields the events of ``world``, and those of the node with the row: its replica catches up, and is promoted."""
    yield from events(world)
    node: Node = world.side
    if node.time < node.last_tick:
        yield Outcome("time goes on", None, world._replace(side=node._replace(time=node.time + 1)))
    for jump in node.jumps:
        after = node._replace(ahead=node.ahead + jump, jumps=())
        yield Outcome(f"the node's clock jumps by {jump:+}", None, world._replace(side=after))
    if node.replica is None:
        return
    now = tuple(world.cells[key] for key in _ON_NODE)
    if node.replica != now:
        yield Outcome("the replica catches up", None, world._replace(side=node._replace(replica=now)))
    if loses_intents or all(map(_has_intents, node.replica, now)):
        after = world._replace(side=node._replace(life=node.life + 1, replica=None))
        for key, cell in zip(_ON_NODE, node.replica, strict=True):
            after = after.put(key, cell)
        yield Outcome("the replica is promoted", None, after)


def _has_intents(copy: Cell, cell: Cell) -> bool:
    return not isinstance(cell, Intents) or (isinstance(copy, Intents) and copy.writers >= cell.writers)


def wait_for_replica(key: int, writer: str) -> Operation:
    """Answers True if the replica has the intent, also as the new node. Else the time to wait is over."""

    def run(world: World) -> Iterator[Outcome]:
        at = _ON_NODE.index(key)
        held = world.cells[key] if world.side.replica is None else world.side.replica[at]
        has = isinstance(held, Intents) and writer in held.writers
        yield Outcome(f"WAIT: {'the' if has else 'no'} replica has the mark", has, world)

    return run


def look_up(me: str, rules: Rules, predicts: bool | None) -> Body:
    """Makes the lookup ``get(slug="a")``. ``predicts``: None for a reader that asks the clock of the row's node."""
    began, index = yield beginning(read(INDEX))
    epoch = yield version(INDEX_EPOCH, rules)
    usable = isinstance(index, Entry) and (index.row is not None or index.epoch == epoch)
    if usable and index.row is None:
        yield returned(began, None)
        return
    found: Any = None
    if usable:
        row = yield read(ROW)
        epoch = yield version(_epoch_of_row(rules), rules)
        if isinstance(row, Entry) and row.epoch == epoch:
            found = row.row
        else:
            found = yield from load_row(me, rules, row)
    if found is None:
        found = yield from load_index(me, rules, predicts, index if isinstance(index, Entry) else None)
    yield returned(began, found)


def _epoch_of_row(rules: Rules) -> int:
    return EPOCH if rules.epoch_of_partition else INDEX_EPOCH


def load_row(me: str, rules: Rules, held: Any) -> Body:
    own = Lease((me, "by pk"))
    granted = (yield lease(ROW, own.token, held if isinstance(held, Entry) else None)) == own
    epoch = (yield version(_epoch_of_row(rules), rules, create=True)) if granted else None
    row = yield select()
    if granted:
        yield fill(ROW, own, Entry(row, own.token, epoch) if isinstance(epoch, Version) else None)
    return row


def load_index(me: str, rules: Rules, predicts: bool | None, replaced: Entry | None) -> Body:
    """Loads the row by its slug, and fills the index, and the row if its partition was known."""
    own = Lease((me, "index"))
    if (yield lease(INDEX, own.token, replaced)) != own:
        row = yield select()
        return row
    stamp_key = STAMP if rules.stamp_of_partition else INDEX_STAMP
    index_epoch = yield version(INDEX_EPOCH, rules, create=True)
    known: tuple[Any, Any] | None = None
    before = since = None
    if predicts:
        known = yield from _versions(rules, stamp_key)
    elif predicts is None:
        before = yield clock()
        since = yield moment()
    row = yield select()
    if not rules.since_before_sql:
        since = yield moment()
    if not rules.partition_known_before:
        known = yield from _versions(rules, stamp_key)
    if row is not None and known is not None:
        yield from fill_late(me, rules, row, known, stamp_key)
    elif row is not None and before is not None:
        yield from fill_by_clock(me, rules, row, before, since)
    yield fill(INDEX, own, Entry(row, own.token, index_epoch) if isinstance(index_epoch, Version) else None)
    return row


def _versions(rules: Rules, stamp_key: int) -> Body:
    epoch = yield version(_epoch_of_row(rules), rules, create=True)
    stamp = yield version(stamp_key, rules, create=True)
    return epoch, stamp


def fill_late(me: str, rules: Rules, row: Row, known: tuple[Any, Any], stamp_key: int) -> Body:
    epoch, stamp = known
    own = Lease((me, "row"))
    if (yield lease(ROW, own.token)) == own:
        again = yield version(stamp_key, rules, create=True)
        unchanged = again == stamp and isinstance(epoch, Version)
        yield fill(ROW, own, Entry(row, own.token, epoch) if unchanged else None)


def fill_by_clock(me: str, rules: Rules, row: Row, before: int, since: Any) -> Body:
    """Fills if the stamp is older than ``since``. The node's clock may have jumped after it was ``before`` ahead."""
    own = Lease((me, "row"))
    if (yield lease(ROW, own.token)) == own:
        found = yield check_since(rules)
        epoch, stored, ahead = found
        if not rules.epoch_with_stamp:
            epoch = yield version(EPOCH, rules, create=True)
        limit = since + min((before,) * rules.clock_before + (ahead,) * rules.clock_after)
        older = stored < limit if rules.stamp_strictly_older else stored <= limit
        unchanged = older and isinstance(epoch, Version)
        yield fill(ROW, own, Entry(row, own.token, epoch) if unchanged else None)


def writer(me: str, rules: Rules, waits: bool) -> Body:
    """Saves the row. Changes the stamp of the row's partition alone.

    If it ``waits``, a mark that the replica lacks is one that could not be sent: the write is refused.
    """
    for key in (ROW, INDEX):
        yield mark(key, me)
    replicated = True
    if waits and rules.marks_replicated:
        replicated = yield wait_for_replica(ROW, me)
    if not replicated:
        for key in (ROW, INDEX):
            yield clear(key, me)
        return
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
    yield from _change_all(me, rules, epochs)


def clearing(me: str, rules: Rules) -> Body:
    """Writes by raw SQL, without an intent, and then calls ``clear()``, whose return acknowledges the write."""
    epochs = (INDEX_EPOCH, EPOCH) if rules.every_partition_marked else (INDEX_EPOCH,)
    yield write(me, acknowledged=False)
    yield from _change_all(me, rules, epochs)
    yield acknowledge()


def _change_all(me: str, rules: Rules, epochs: tuple[int, ...]) -> Body:
    for stamp in (INDEX_STAMP, STAMP) if rules.stamp_with_epoch else (INDEX_STAMP,):
        yield renew(stamp)
    for epoch in epochs:
        yield clear(epoch, me)


def at_rest(rules: Rules, world: World) -> None:
    """Checks that no entry of a current epoch is wrong. A positive index entry is only a hint."""
    for key, epoch in ((INDEX, INDEX_EPOCH), (ROW, _epoch_of_row(rules))):
        cell = world.cells[key]
        if not isinstance(cell, Entry) or (key == INDEX and cell.row is not None):
            continue
        if cell.epoch != _current(world, epoch, rules):
            continue
        true = [commit.row for commit in world.history[world.floor :]]
        if cell.row not in true:
            raise Violation(STALE_AT_REST, f"the {KEYS[key]} entry says {cell}, the database {listed(true)}")


def system(
    rules: Rules,
    *,
    predicts: tuple[bool | None, ...] = (),
    writers: int = 0,
    bulk: int = 0,
    clears: int = 0,
    start: bool = True,
    warm: bool = False,
    fails_over: bool = False,
    loses_intents: bool = False,
    ticks: int = 0,
    jumps: tuple[int, ...] = (),
    crashes: int = 0,
) -> System[World]:
    """Returns a system of readers, with or without a prediction or by the node's clock, and writers of each kind.

    ``start``: the row exists at first. ``warm``: the index and the row are filled then. ``fails_over``: the node with
    the row may fail over once, to a replica that has been equal at any earlier moment. ``loses_intents``: it may lack
    intents, too, and writers wait for it. ``ticks``: how often time goes on. ``jumps``: those that the clock of the
    row's node may make, one in all.
    """
    processes = [Process(f"R{n}", partial(look_up, f"R{n}", rules, known), True) for n, known in enumerate(predicts)]
    for letter, number, body, mortal in (
        ("W", writers, partial(writer, waits=loses_intents), True),
        ("B", bulk, bulk_write, True),
        ("C", clears, clearing, False),
    ):
        processes += [Process(f"{letter}{n}", partial(body, f"{letter}{n}", rules), mortal) for n in range(number)]
    row = Row(0) if start else None
    # The first stamp is as old as time, which begins at 1.
    world = World((Commit(row, 0),), (None,) * len(KEYS), side=Node(time=1, last_tick=1 + ticks, jumps=jumps))
    for number, key in enumerate((EPOCH, STAMP, INDEX_EPOCH, INDEX_STAMP), 1):
        world = world.put(key, Stamp(number, 0) if key == STAMP else Version(number), serial=number)
    for key, epoch in ((INDEX, INDEX_EPOCH), (ROW, _epoch_of_row(rules))) if warm else ():
        world = world.put(key, Entry(row, ("first", key), world.cells[epoch]))
    if fails_over:
        world = world._replace(side=world.side._replace(replica=tuple(world.cells[key] for key in _ON_NODE)))
    happens = partial(node_events, loses_intents=loses_intents)
    return System(world, tuple(processes), happens, crashed, partial(at_rest, rules), crashes)
