"""One row under its primary key: leases, intents, single flight, transactions.

The model of ``plans.rows``, ``engine.reader``, ``engine.intent`` and ``write.transactions``.
"""

from functools import partial
from typing import Any

from tests.protocol.model.engine import AtOnce, Body, Operation, Outcome, Process, System
from tests.protocol.model.rules import Rules
from tests.protocol.model.world import (
    ROW,
    Commit,
    Entry,
    Lease,
    Row,
    World,
    acknowledge,
    at_rest,
    beginning,
    clear,
    crashed,
    events,
    extend,
    fill,
    finish,
    lease,
    lock_if,
    mark,
    read,
    returned,
    select,
    select_on_replica,
    update,
    write,
    write_back,
)

JOINED = "joined"


def reader(me: str, rules: Rules, look_ups: int, one_process: bool, replicas: bool, slow: bool) -> Body:
    """Looks the row up repeatedly."""
    for number in range(look_ups):
        yield from look_up((me, number), rules, one_process, replicas, slow)


def look_up(token: Any, rules: Rules, one_process: bool, replicas: bool, slow: bool) -> Body:
    began, found = yield beginning(read(ROW) if rules.join_by_reading else reading_or_joining())
    if isinstance(found, Entry):
        yield returned(began, found.row)
        return
    if found is JOINED:
        row = yield waiting(one_process)
        yield returned(began, row)
        return
    own = Lease(token)
    held = own
    if rules.lease:
        held = yield leasing(lease(ROW, token, resent=not rules.lease_once), own)
    if held == own:
        if replicas:
            row = yield select_on_replica()
        else:
            row = yield select(lag=not rules.primary)
        if slow:
            yield extend(ROW, token, compares=rules.extension_compares)
        yield filling(fill(ROW, own if rules.lease else None, Entry(row, token)), row, rules, one_process)
    elif isinstance(held, Lease | Entry):
        if isinstance(held, Lease):
            yield waiting(one_process)
        found = yield read(ROW)
        if isinstance(found, Entry):
            row = found.row
        else:
            row = yield select()
    else:
        row = yield select()
    yield returned(began, row)


def leasing(operation: Operation, own: Lease) -> Operation:
    """Leases the row. If the lease is granted, other readers of the process can wait for the fill."""

    def run(world: World) -> Any:
        for label, held, after in operation(world):
            yield Outcome(label, held, after._replace(flights=frozenset({ROW})) if held == own else after)

    return run


def filling(operation: Operation, row: Row | None, rules: Rules, one_process: bool) -> Operation:
    """Fills the row, or fails to reach the store. In both cases the waiters are released."""

    def run(world: World) -> Any:
        landed = world._replace(flights=frozenset(), landed=row) if one_process else world
        for label, done, after in operation(landed):
            yield Outcome(label, done, after if done or rules.always_land else after._replace(flights=world.flights))
        if one_process:
            lost = landed if rules.always_land else world
            yield Outcome("fill row: cannot reach the store", False, lost)

    return run


def reading_or_joining() -> Operation:
    """Reads the row, or joins a load in flight in this process."""

    def run(world: World) -> Any:
        if ROW in world.flights:
            yield Outcome("join the load under way", JOINED, world)
        else:
            yield from read(ROW)(world)

    return run


def waiting(one_process: bool) -> Operation:
    """Waits for the fill of this process. A wait for another process times out at once."""

    def run(world: World) -> Any:
        if not one_process:
            yield Outcome("wait a little", None, world)
        elif ROW not in world.flights:
            yield Outcome("wait until it is filled", world.landed, world)

    return run


def transaction_reader(me: str, rules: Rules) -> Body:
    """Reads in a transaction that keeps its first snapshot until it ends."""
    row = yield select()
    if not rules.no_fill_in_transaction:
        own = Lease((me, 0))
        held = yield lease(ROW, own.token)
        if held == own:
            yield fill(ROW, own, Entry(row, own.token))


def writer(me: str, rules: Rules, replicas: bool) -> Body:
    """Saves the row in autocommit mode."""
    if rules.mark and rules.mark_first:
        yield mark(ROW, me, alone=not rules.intent_set)
    committed = yield write(me)
    yield from ending(me, rules, committed, replicas)


def unchanged_writer(me: str, rules: Rules, replicas: bool) -> Body:
    """Saves all columns of an instance that was loaded as the first version and not changed since.

    The row may be another version by now, and is given the first one back.
    """
    first = Row(0)
    if not rules.check_unchanged:
        yield write_back(me, first)
        return
    unchanged = yield lock_if(first)
    if not unchanged:
        yield mark(ROW, me, alone=not rules.intent_set)
        committed = yield write_back(me, first)
        yield from ending(me, rules, committed, replicas)


def transaction(me: str, rules: Rules, replicas: bool) -> Body:
    """Writes and reads the row in a transaction."""
    yield update(me)
    if not rules.no_fill_in_transaction:
        own = Lease((me, 0))
        held = yield lease(ROW, own.token)
        row = yield AtOnce(lambda world: world.draft)
        if held == own:
            yield fill(ROW, own, Entry(row, own.token))
    if rules.mark and rules.mark_first:
        yield mark(ROW, me, alone=not rules.intent_set)
    committed = yield finish(me)
    yield from ending(me, rules, committed, replicas)


def refused_writer(me: str, rules: Rules, replicas: bool) -> Body:
    """Saves the row, though the server may refuse marks, and its replicas lag, so that every WAIT fails, too.

    With ``on_write_error="retry"``: the write goes through, and is acknowledged when its mark is delivered.
    """
    yield refusable(mark(ROW, me))  # if it is not made, the key is kept, and delivered below
    yield write(me, acknowledged=False)
    made = yield refusable(mark(ROW, me, ttl=0))
    while rules.refusal_counts and not made:
        made = yield refusable(mark(ROW, me, ttl=0))
    yield acknowledge()


def refusable(operation: Operation) -> Operation:
    """Marks, or is refused by the server. Answers whether the mark is made."""

    def run(world: World) -> Any:
        for label, _, after in operation(world):
            yield Outcome(label, True, after)
            yield Outcome(f"{label}: refused", False, world)

    return run


def survivor(me: str, rules: Rules, replicas: bool) -> Body:
    """Writes in a transaction that a DDL statement commits, and that is then rolled back. Nothing was marked before."""
    yield write(me, acknowledged=False)
    if rules.clear_rolled_back:
        yield clear(ROW, me)
    yield acknowledge()


def ending(me: str, rules: Rules, committed: bool, replicas: bool) -> Body:
    if replicas and rules.linger and committed:
        yield mark(ROW, me, ttl=0)  # the mark expires once every replica has the write
        return
    if rules.mark and not rules.mark_first:
        yield mark(ROW, me)
    hint = None
    if committed and not rules.no_hint_on_rows:
        row = yield AtOnce(lambda world: world.row)
        hint = Entry(row, (me, "hint"))
    yield clear(ROW, me, hint, blindly=not rules.clear_own)


def system(
    rules: Rules,
    *,
    look_ups: tuple[int, ...] = (),
    writers: int = 0,
    transactions: int = 0,
    unchanged: int = 0,
    survivors: int = 0,
    refused: int = 0,
    snapshots: int = 0,
    one_process: bool = False,
    replicas: bool = False,
    slow: bool = False,
    crashes: int = 0,
    ticks: int = 0,
    warm: bool = False,
) -> System[World]:
    """Returns a system of readers, by the number of their lookups, and writers with and without transactions.

    If ``slow``, statements take so long that readers extend their leases meanwhile.
    """
    kinds: list[tuple[str, int, Any]] = [
        ("W", writers, partial(writer, replicas=replicas)),
        ("T", transactions, partial(transaction, replicas=replicas)),
        ("U", unchanged, partial(unchanged_writer, replicas=replicas)),
        ("D", survivors, partial(survivor, replicas=replicas)),
        ("F", refused, partial(refused_writer, replicas=replicas)),
        ("S", snapshots, transaction_reader),
    ]
    processes = [
        Process(f"R{n}", partial(reader, f"R{n}", rules, number, one_process, replicas, slow), not one_process)
        for n, number in enumerate(look_ups)
    ]
    for letter, number, body in kinds:
        mortal = letter not in "DF"  # without a mark, a crash leaves an old entry
        processes += [Process(f"{letter}{n}", partial(body, f"{letter}{n}", rules), mortal) for n in range(number)]
    world = World((Commit(Row(0), 0),), last_tick=ticks)
    if warm:
        world = world.put(ROW, Entry(Row(0), ("first", 0)))
    return System(world, tuple(processes), events, crashed, at_rest, crashes)
