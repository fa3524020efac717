"""Writes by other programs: triggers, relays, and the bound within which such a write is seen.

The model of ``relay`` and ``engine.relayed``. Any program commits a change, and a trigger adds a line in the same
transaction. A relay reads the store's clock, selects the lines, invalidates what they name, deletes them, and claims to
live until ``RELAY_LAG`` after the time that it read first. A process asks how long the claim lives, counts it down by
its own clock, and believes what the store has executed only while it lives.

Writers that use the cache mark their keys as before. Their writes are lines, too. While no relay runs, other processes
replace many lines by one that stands for all of them.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

from tests.protocol.model.computations import token_of
from tests.protocol.model.engine import Body, Operation, Outcome, Process, System, Violation
from tests.protocol.model.rules import Rules
from tests.protocol.model.world import (
    DERIVED,
    EPOCH,
    KEYS,
    ROW,
    STALE_AT_REST,
    STAMP,
    VERSION,
    Cell,
    Commit,
    Entry,
    Lease,
    Row,
    Version,
    World,
    clear,
    committed,
    crashed,
    current,
    events,
    fill,
    finish,
    in_time,
    lease,
    mark,
    read,
    renew,
    returned,
    select,
    update,
)

RELAY_LAG = 1
"""Ticks after which a write by another program is seen."""
NEAR_LAG = 1
"""Maximum ticks that an entry kept in the process answers after the store has changed it."""


class Line(NamedTuple):
    """A line of the change table. ``names_row``: it names the row, not another one."""

    id: int
    names_row: bool = True


class Side(NamedTuple):
    """The change table, the claim, and what the process of the readers knows."""

    lines: frozenset[Line] = frozenset()
    ids: int = 0
    """The number of ids that were given to lines. They may be committed in another order."""
    alive: int = RELAY_LAG
    """The claim: a relay lives until this time."""
    known: int = RELAY_LAG
    """The same as the process has counted it down."""
    catalogue: int = 0
    """The number of changes that no trigger sees, but the catalogue shows."""
    kept: Entry | None = None
    """The row as it is kept in the process."""
    expected: Any = None
    """The placeholder: the read whose reply may be kept."""
    changed: int | None = None
    """The time at which the store has changed the row that is kept, if the message has not arrived."""


def _with(world: World, **changes: Any) -> World:
    return world._replace(side=world.side._replace(**changes))


# Writers --------------------------------------------------------------------------------------------------


def logged(outcome: Outcome, line: Line) -> Outcome:
    """Adds a line to a COMMIT."""
    world: World = outcome.world
    return outcome._replace(world=_with(world, lines=world.side.lines | {line}))


def writing(writer: str, *, acknowledged: bool) -> Operation:
    """Makes one statement in autocommit mode. Its trigger adds a line."""

    def run(world: World) -> Iterator[Outcome]:
        if world.lock is None and in_time(world, writer):
            line = Line(world.side.ids + 1)
            after = _with(world, ids=line.id)
            yield logged(committed(after, Row(len(world.history)), acknowledged=acknowledged), line)
        if acknowledged and world.lock is None:
            yield Outcome("refused by the database", False, world)

    return run


def outside(me: str, writes: int) -> Body:
    """Another program, which writes the row."""
    for _ in range(writes):
        yield writing(me, acknowledged=False)


def outside_transaction(me: str) -> Body:
    """Another program, whose line has its id some time before its COMMIT."""
    line = yield updating(me)
    yield committing(me, line)


def updating(writer: str) -> Operation:
    def run(world: World) -> Iterator[Outcome]:
        for label, _, after in update(writer)(world):
            line = Line(world.side.ids + 1)
            yield Outcome(f"{label}, line {line.id}", line, _with(after, ids=line.id))

    return run


def committing(writer: str, line: Line) -> Operation:
    def run(world: World) -> Iterator[Outcome]:
        for outcome in finish(writer)(world):
            if outcome.answer:
                after = outcome.world._replace(floor=world.floor)
                yield logged(outcome._replace(world=after), line)

    return run


def elsewhere(me: str) -> Body:
    """Another program, which writes another row."""
    yield writing_elsewhere()


def writing_elsewhere() -> Operation:
    def run(world: World) -> Iterator[Outcome]:
        line = Line(world.side.ids + 1, names_row=False)
        yield logged(Outcome(f"COMMIT of another row, line {line.id}", None, _with(world, ids=line.id)), line)

    return run


def unseen(me: str) -> Body:
    """A change that no trigger sees, such as a partition that is attached. The catalogue shows it."""
    yield attaching()


def attaching() -> Operation:
    def run(world: World) -> Iterator[Outcome]:
        label, answer, after = committed(world, Row(len(world.history)), acknowledged=False)
        yield Outcome(f"{label}, seen in the catalogue", answer, _with(after, catalogue=world.side.catalogue + 1))

    return run


def orm_writer(me: str, keys: tuple[int, ...]) -> Body:
    """Saves the row through the cache."""
    for key in keys:
        yield mark(key, me)
    yield writing(me, acknowledged=True)
    yield renew(STAMP)
    for key in keys:
        yield clear(key, me)


# The relay ------------------------------------------------------------------------------------------------


def relay(
    me: str, rules: Rules, drains: int, keys: tuple[int, ...], limit: int, guarded: bool, remembers: bool
) -> Body:
    """Drains the change table repeatedly. ``limit``: lines in one drain.

    ``guarded``: looks at the catalogue. ``remembers``: knows what it was when the last relay has claimed.
    """
    seen = 0 if remembers else None
    for _ in range(drains):
        started = before = changed = None
        lines: frozenset[Line] = frozenset()
        if guarded and not rules.relay_catalogue_after_clock:
            before = yield catalogue()
        if rules.relay_clock_first:
            started = yield clock("reads the store's clock")
        if guarded and rules.relay_catalogue_after_clock:
            before = yield catalogue()
        lines = yield selecting(limit)
        if not rules.relay_clock_first:
            started = yield clock("reads the store's clock")
        if not rules.relay_invalidates_first:
            yield deleting(lines, rules)
        changed = rules.relay_begins_anew if seen is None else before != seen
        if guarded and rules.relay_bumps_epoch and changed:
            yield clear(EPOCH, me)
        seen = before
        if any(line.names_row for line in lines):
            if rules.relay_stamps and rules.relay_stamps_before_clear:
                yield renew(STAMP)
            for key in keys:
                yield changing(clear(key, me, blindly=not rules.relay_leaves_intents))
            if rules.relay_stamps and not rules.relay_stamps_before_clear:
                yield renew(STAMP)
        if rules.relay_invalidates_first:
            yield deleting(lines, rules)
        if len(lines) < limit or not rules.relay_claims_all:
            yield claiming(started, rules)


def trimmer(me: str, rules: Rules) -> Body:
    """Replaces lines by one that stands for all of them, since very many wait."""
    lines: frozenset[Line] = frozenset()
    lines = yield selecting(9)
    if not rules.relay_trims_last:
        yield deleting(lines, rules)
    if lines:
        yield adding(any(line.names_row for line in lines))
    if rules.relay_trims_last:
        yield deleting(lines, rules)


def adding(names_row: bool) -> Operation:
    def run(world: World) -> Iterator[Outcome]:
        line = Line(world.side.ids + 1, names_row)
        yield logged(Outcome(f"INSERT: line {line.id}, which stands for others", None, _with(world, ids=line.id)), line)

    return run


def clock(what: str) -> Operation:
    def run(world: World) -> Iterator[Outcome]:
        yield Outcome(f"{what}: {world.clock}", world.clock, world)

    return run


def catalogue() -> Operation:
    def run(world: World) -> Iterator[Outcome]:
        yield Outcome(f"looks at the catalogue: {world.side.catalogue}", world.side.catalogue, world)

    return run


def selecting(limit: int) -> Operation:
    """Answers with the first lines. As many as ``limit`` are perhaps not all."""

    def run(world: World) -> Iterator[Outcome]:
        lines = frozenset(sorted(world.side.lines)[:limit])
        yield Outcome(f"SELECT: lines {sorted(line.id for line in lines)}", lines, world)

    return run


def deleting(lines: frozenset[Line], rules: Rules) -> Operation:
    """Deletes lines. Without the guard, all up to the highest id."""

    def run(world: World) -> Iterator[Outcome]:
        highest = max([line.id for line in lines], default=0)
        old = lines if rules.relay_deletes_seen else {line for line in world.side.lines if line.id <= highest}
        label = f"DELETE: lines {sorted(line.id for line in old)}"
        yield Outcome(label, None, _with(world, lines=world.side.lines - old))

    return run


def claiming(started: int, rules: Rules) -> Operation:
    def run(world: World) -> Iterator[Outcome]:
        until = (started if rules.relay_claims_from_start else world.clock) + RELAY_LAG
        yield Outcome(f"claims to live until {until}", None, _with(world, alive=max(world.side.alive, until)))

    return run


def changing(operation: Operation) -> Operation:
    """Changes the row in the store. The server sends a message to the process that keeps it."""

    def run(world: World) -> Iterator[Outcome]:
        for label, answer, after in operation(world):
            side = after.side
            kept = side.kept is not None or side.expected is not None
            if kept and after.cells[ROW] != world.cells[ROW] and side.changed is None:
                after = _with(after, changed=after.clock)
            yield Outcome(label, answer, after)

    return run


# The process of the readers -------------------------------------------------------------------------------


def watcher(me: str, rules: Rules, questions: int) -> Body:
    """Asks how long the claim lives, repeatedly."""
    for _ in range(questions):
        asked = yield clock("asks at")
        left = yield remaining()
        yield learning(asked, left, rules)


def remaining() -> Operation:
    def run(world: World) -> Iterator[Outcome]:
        left = max(0, world.side.alive - world.clock)
        yield Outcome(f"the store answers: {left} left", left, world)

    return run


def learning(asked: int, left: int, rules: Rules) -> Operation:
    """Counts down from the question. A relay that has come back drops what the process keeps."""

    def run(world: World) -> Iterator[Outcome]:
        known = (asked if rules.relay_counts_from_question else world.clock) + left
        after = _with(world, known=known)
        if world.side.known <= world.clock < known and rules.relay_return_drops_near:
            after = _with(after, kept=None, expected=None)
        yield Outcome(f"learns that the relay lives until {known}", None, after)

    return run


def reader(me: str, rules: Rules, look_ups: int, key: int, fills: bool) -> Body:
    """Looks up the row, or a value that was derived from the table. ``fills``: although no relay lives, too."""
    for number in range(look_ups):
        yield from look_up((me, number), rules, key, fills)


def look_up(token: Any, rules: Rules, key: int, fills: bool) -> Body:
    floor, until = yield sending()
    believed = until is not None or not rules.relay_lives
    cell: Cell = None
    began = valid = None
    if believed:
        began, cell, valid = yield reading(key, floor)
        believed = yield looking(until, rules)
    if believed and valid:
        yield returned(began, cell.row)
        return
    if (believed or fills) and not isinstance(cell, Lease):
        yield from load(token, key, cell if isinstance(cell, Entry) else None)


def load(token: Any, key: int, replaced: Entry | None) -> Body:
    """Loads the row under a lease. Its answer is the database's, and needs no proof."""
    held = yield lease(key, token, replaced)
    if held != Lease(token):
        return
    version = yield current(VERSION if key == DERIVED else EPOCH)
    row = yield select()
    entry = None
    if isinstance(version, Version):
        needs = ((VERSION, token_of(version)),) if key == DERIVED else ()
        entry = Entry(row, token, None if needs else version, needs=needs)
    yield fill(key, held, entry)


def sending() -> Operation:
    """Begins a lookup. Answers with its begin, and the time until which its reply is believed. None: not at all."""

    def run(world: World) -> Iterator[Outcome]:
        known = world.side.known
        alive = world.clock < known
        label = f"sends its request, believes until {known}" if alive else "knows of no relay that lives"
        yield Outcome(label, (world.floor, known if alive else None), world)

    return run


def oldest(world: World, floor: int, lag: int) -> int:
    """Returns the oldest version that a lookup may answer with: one that was replaced at most ``lag`` ticks ago."""
    return max([floor, *[at for at, commit in enumerate(world.history) if commit.time < world.clock - lag]])


def reading(key: int, floor: int) -> Operation:
    """The store executes the read. Answers with the begin, the entry, and True if it is current."""

    def run(world: World) -> Iterator[Outcome]:
        for label, cell, after in read(key)(world):
            valid = isinstance(cell, Entry) and is_current(world, cell)
            yield Outcome(f"the store executes: {label}", (oldest(world, floor, RELAY_LAG), cell, valid), after)

    return run


def is_current(world: World, entry: Entry) -> bool:
    """Returns True if an entry has the present epoch, and its dependencies the tokens that they had."""
    if entry.needs:
        return all(token_of(world.cells[key]) == token for key, token in entry.needs)
    return entry.epoch == world.cells[EPOCH]


def looking(until: int | None, rules: Rules) -> Operation:
    """Looks at the countdown when the reply is there: at the one that was known when the request was sent."""

    def run(world: World) -> Iterator[Outcome]:
        limit = until if rules.relay_known_when_sent else world.side.known
        believed = limit is None or world.clock < limit or not rules.relay_looked_at_reply or not rules.relay_lives
        yield Outcome("believes the reply" if believed else "does not believe the reply", believed, world)

    return run


def late_reader(me: str, rules: Rules) -> Body:
    """Loads the row by a statement of an index miss, and leases it afterwards."""
    stamp = yield current(STAMP)
    row = yield select()
    epoch = yield current(EPOCH)
    held = yield lease(ROW, (me, 0))
    again = yield current(STAMP)
    if held == Lease((me, 0)) and again == stamp:
        yield fill(ROW, held, Entry(row, (me, 0), epoch))


def near_reader(me: str, rules: Rules, look_ups: int) -> Body:
    """Looks up the row in the process first."""
    for number in range(look_ups):
        found = yield finding()
        if found is not None:
            yield returned(*found)
            continue
        floor, until = yield sending_near((me, number))
        if until is None:
            continue
        began, cell, valid = yield reading(ROW, floor)
        believed = yield looking(until, rules)
        yield keeping((me, number), cell if valid else None)
        if believed and valid:
            yield returned(began, cell.row)


def finding() -> Operation:
    """Answers with the begin and the row that is kept, if it may answer, else None."""

    def run(world: World) -> Iterator[Outcome]:
        side = world.side
        in_time = side.changed is None or world.clock - side.changed <= NEAR_LAG
        if side.kept is not None and world.clock < side.known and in_time:
            began = oldest(world, world.floor, RELAY_LAG + NEAR_LAG)
            yield Outcome(f"finds {side.kept} kept", (began, side.kept.row), world)
        else:
            yield Outcome("finds nothing kept", None, world)

    return run


def sending_near(ticket: Any) -> Operation:
    def run(world: World) -> Iterator[Outcome]:
        for label, answer, after in sending()(world):
            yield Outcome(label, answer, _with(after, expected=ticket))

    return run


def keeping(ticket: Any, entry: Entry | None) -> Operation:
    def run(world: World) -> Iterator[Outcome]:
        kept = world.side.expected == ticket and entry is not None
        after = _with(world, kept=entry, expected=None) if kept else world
        yield Outcome("keeps the row" if kept else "keeps nothing", None, after)

    return run


def arrivals(world: World) -> Iterator[Outcome]:
    """Yields events without a process: those of all parts, and the message that the row was changed."""
    yield from events(world)
    if world.side.changed is not None:
        yield Outcome("arrives: invalidate row", None, _with(world, kept=None, expected=None, changed=None))


# The system -----------------------------------------------------------------------------------------------


def at_rest(world: World) -> None:
    """Checks that no entry is wrong once all processes have ended, unless a relay has yet to hear of it."""
    if world.side.lines or world.side.catalogue:
        return
    for key in (ROW, DERIVED):
        cell = world.cells[key]
        if isinstance(cell, Entry) and is_current(world, cell) and cell.row != world.row:
            raise Violation(STALE_AT_REST, f"the {KEYS[key]} entry says {cell}, the database {world.row}")


def system(
    rules: Rules,
    *,
    drains: tuple[int, ...] = (),
    look_ups: tuple[int, ...] = (),
    outsiders: tuple[int, ...] = (),
    transactions: int = 0,
    others: int = 0,
    attached: int = 0,
    writers: int = 0,
    trimmers: int = 0,
    questions: int = 0,
    late: int = 0,
    near: tuple[int, ...] = (),
    derived: bool = False,
    fills: bool = False,
    limit: int = 9,
    crashes: int = 0,
    ticks: int = 3,
    remembers: bool = False,
) -> System[World]:
    """Returns a system of relays, by their drains, of readers, by their lookups, and of writers, by their writes."""
    key = DERIVED if derived else ROW
    keys = (ROW, VERSION) if derived and rules.relay_clears_version else (ROW,)
    marked = (ROW, VERSION) if derived else (ROW,)
    processes = [
        Process(f"D{n}", partial(relay, f"D{n}", rules, number, keys, limit, attached > 0, remembers), True)
        for n, number in enumerate(drains)
    ]
    processes += [
        Process(f"R{n}", partial(reader, f"R{n}", rules, number, key, fills)) for n, number in enumerate(look_ups)
    ]
    processes += [Process(f"N{n}", partial(near_reader, f"N{n}", rules, number)) for n, number in enumerate(near)]
    processes += [Process(f"L{n}", partial(late_reader, f"L{n}", rules)) for n in range(late)]
    processes += [Process(f"X{n}", partial(outside, f"X{n}", number)) for n, number in enumerate(outsiders)]
    processes += [Process(f"T{n}", partial(outside_transaction, f"T{n}")) for n in range(transactions)]
    processes += [Process(f"Y{n}", partial(elsewhere, f"Y{n}")) for n in range(others)]
    processes += [Process(f"A{n}", partial(unseen, f"A{n}")) for n in range(attached)]
    processes += [Process(f"W{n}", partial(orm_writer, f"W{n}", marked), True) for n in range(writers)]
    processes += [Process(f"M{n}", partial(trimmer, f"M{n}", rules), True) for n in range(trimmers)]
    if questions:
        processes.append(Process("C", partial(watcher, "C", rules, questions)))
    epoch, version = Version(1), Version(2)
    first = Entry(Row(0), ("first", 0), epoch)
    side = Side(kept=first if near else None)
    world = World((Commit(Row(0), 0),), (None,) * len(KEYS), last_tick=ticks, side=side)
    world = world.put(EPOCH, epoch, serial=2).put(STAMP, version)
    if derived:
        world = world.put(VERSION, version)
        world = world.put(DERIVED, Entry(Row(0), ("first", 0), needs=((VERSION, token_of(version)),)))
    elif not late:
        world = world.put(ROW, first)
    return System(world, tuple(processes), arrivals, crashed, at_rest, crashes)
