"""A unique index over one row that is re-keyed, deleted and inserted again: late leases, stamps, hints.

The model of ``plans.indexes``, ``write.affected`` and ``engine.intent``. The index key is that of the slug ``a``. A
lookup with a prediction reads the row before the index entry, since a cluster keeps no order. A lookup without a
prediction reads the row after the index entry.
"""

from functools import partial
from typing import Any

from tests.protocol.model.engine import AtOnce, Body, Operation, Outcome, Process, System
from tests.protocol.model.rules import Rules
from tests.protocol.model.world import (
    INDEX,
    INTENT_TTL,
    LEASE_TTL,
    ROW,
    STAMP,
    Commit,
    Entry,
    Lease,
    Row,
    Version,
    World,
    at_rest,
    beginning,
    by_slug,
    clear,
    crashed,
    events,
    extend,
    fill,
    fill_absent,
    finish,
    lease,
    mark,
    now,
    read,
    renew,
    returned,
    select,
    update,
    write,
)

_deadline = AtOnce(lambda world: world.clock + LEASE_TTL)


def look_up(me: str, rules: Rules, predicts: bool, slow: bool = False, at_once: bool = False) -> Body:
    """Makes the lookup ``get(slug="a")``."""
    row: Any = None
    if predicts:
        began, row = yield beginning(read(ROW))
        index = yield read(INDEX)
    else:
        began, index = yield beginning(read(INDEX))
    if isinstance(index, Entry) and index.row is None:
        yield returned(began, None, by_slug)
        return
    if isinstance(index, Entry):
        if not predicts:
            row = yield read(ROW)
        if isinstance(row, Entry):
            found = row.row
        else:
            found = yield from load_row((me, "by pk"))
        if by_slug(found) is not None or not rules.check_row:
            yield returned(began, found, by_slug)
            return
        replaced = index
    else:
        replaced = None
    found = yield from load_index(me, rules, replaced, slow, at_once)
    yield returned(began, found, by_slug)


def load_row(token: Any) -> Body:
    """Loads the row of an index entry after a miss."""
    own = Lease(token)
    held = yield lease(ROW, token)
    if held == own:
        row = yield select()
        yield fill(ROW, own, Entry(row, token))
        return row
    if isinstance(held, Lease | Entry):
        held = yield read(ROW)
        if isinstance(held, Entry):
            return held.row
    row = yield select()
    return row


def load_index(me: str, rules: Rules, replaced: Entry | None, slow: bool, at_once: bool) -> Body:
    """Loads the row by its slug, and fills index and row from one statement.

    The index entry has its lease since before the statement, so it is filled however long that took.
    """
    token = (me, "index")
    own = Lease(token)
    held = yield lease(INDEX, token, replaced)
    if held == own:
        stamp = yield read(STAMP)
        deadline = yield _deadline
        row = yield select_by_slug()
        if slow:
            yield extend(INDEX, token, compares=rules.extension_compares)
        if not rules.deadline_before_sql:
            deadline = yield _deadline
        if row is not None:
            yield from (fill_at_once if at_once else fill_late)(me, rules, row, stamp, deadline)
        yield fill(INDEX, own, Entry(row, token))
        return row
    if isinstance(held, Lease | Entry):
        index = yield read(INDEX)
        if isinstance(index, Entry) and index.row is None:
            return None
        if isinstance(index, Entry):
            row = yield read(ROW)
            if isinstance(row, Entry) and by_slug(row.row) is not None:
                return row.row
    row = yield select_by_slug()
    return row


def fill_late(me: str, rules: Rules, row: Row, stamp: Version, deadline: int) -> Body:
    """Leases the row after it was read, and fills it if the stamp shows that no writer ran in between."""
    own = Lease((me if rules.token_per_lease else "tick", "row"))
    if rules.stamp_after_lease:
        held = yield lease(ROW, own.token)
        if held != own:
            return
        again = yield read(STAMP)
    else:
        again = yield read(STAMP)
        held = yield lease(ROW, own.token)
        if held != own:
            return
    late = yield now
    if late <= deadline or not rules.deadline:
        unchanged = again == stamp or not rules.stamp
        yield fill(ROW, own, Entry(row, own.token) if unchanged else None)


def fill_at_once(me: str, rules: Rules, row: Row, stamp: Version, deadline: int) -> Body:
    """Does the same in one step, without a lease, as a single server can."""
    entry = Entry(row, (me if rules.token_per_lease else "tick", "row"))
    if not rules.stamp_at_once:
        again = yield read(STAMP)
        if again != stamp:
            return
    until = deadline if rules.deadline else None
    if not rules.deadline_at_once:
        late = yield now
        if late > deadline:
            return
        until = None
    compared = stamp if rules.stamp and rules.stamp_at_once else None
    yield fill_absent(ROW, entry, stamp=compared, until=until, overwrites=not rules.row_absent_at_once)


def select_by_slug() -> Operation:
    def run(world: World) -> Any:
        for label, row, after in select()(world):
            yield Outcome(f"{label} (slug a: {by_slug(row) or 'no row'})", by_slug(row), after)

    return run


def writer(me: str, rules: Rules, slugs: tuple[str | None, ...]) -> Body:
    """Saves the row under a slug or deletes it, in autocommit mode. Marks the keys before the statement."""
    slug = yield choosing(slugs)
    yield from marking(me, rules, slug)
    committed = yield write(me, slug)
    yield from ending(me, rules, slug, committed)


def plain_writer(me: str, rules: Rules) -> Body:
    """Saves all columns of an instance that was loaded with slug ``a`` and whose slug was not changed since.

    The row may have another slug by now, and is given slug ``a`` back.
    """
    yield mark(ROW, me)
    committed: Any = None
    moves = False
    if rules.check_unmoved:
        committed = yield write_where(me, "a")
    else:
        committed = yield write(me)
    if committed is None:
        moves = True
        if rules.mark_index:
            yield mark(INDEX, me)
        committed = yield write(me)
    yield from ending(me, rules, "a" if moves else None, committed)


def write_where(writer: str, slug: str) -> Operation:
    """Writes the row in autocommit mode if it has this slug, in one statement. Answers None if it has not."""

    def run(world: World) -> Any:
        if world.lock is None and by_slug(world.row) is None:
            yield Outcome(f"UPDATE WHERE slug = {slug}: no row", None, world)
        else:
            yield from write(writer, slug)(world)

    return run


def transaction(me: str, rules: Rules, slugs: tuple[str | None, ...]) -> Body:
    """Saves the row under a slug or deletes it, in a transaction. Marks the keys after the statement."""
    slug = yield update(me, slugs)
    yield from marking(me, rules, slug)
    committed = yield finish(me)
    yield from ending(me, rules, slug, committed)


def choosing(slugs: tuple[str | None, ...]) -> Operation:
    def run(world: World) -> Any:
        for slug in slugs:
            yield Outcome(f"save as {slug}" if slug else "delete", slug, world)

    return run


def marking(me: str, rules: Rules, slug: str | None) -> Body:
    ttl = INTENT_TTL + (LEASE_TTL if rules.outlive_readers else 0)
    yield mark(ROW, me, ttl=ttl)
    if slug == "a" and rules.mark_index:
        yield mark(INDEX, me, ttl=ttl)


def ending(me: str, rules: Rules, slug: str | None, committed: bool) -> Body:
    if rules.stamp_before_clear:
        yield renew(STAMP)
    yield clear(ROW, me)
    if slug == "a" and rules.mark_index:
        row = yield AtOnce(lambda world: world.row)
        # Any row stands for the primary key here: its row may be deleted, or have another slug.
        yield clear(INDEX, me, Entry(row, (me, "hint")) if committed and row is not None else None)
    if not rules.stamp_before_clear:
        yield renew(STAMP)


def system(
    rules: Rules,
    *,
    predicts: tuple[bool, ...] = (),
    writers: int = 0,
    plain: int = 0,
    transactions: int = 0,
    slugs: tuple[str | None, ...] = ("a", "b", None),
    start: str | None = "a",
    warm: tuple[int, ...] = (),
    slow: bool = False,
    at_once: int = 0,
    crashes: int = 0,
    ticks: int = 0,
) -> System[World]:
    """Returns a system of readers, with or without a prediction, and writers.

    ``warm`` are the keys that are filled at the beginning. If ``slow``, readers extend their leases.
    The first readers, ``at_once`` of them, store rows without a late lease.
    """
    row = None if start is None else Row(0, start)
    processes = [
        Process(f"R{n}", partial(look_up, f"R{n}", rules, predicted, slow, n < at_once), True)
        for n, predicted in enumerate(predicts)
    ]
    processes += [Process(f"W{n}", partial(writer, f"W{n}", rules, slugs), True) for n in range(writers)]
    processes += [Process(f"P{n}", partial(plain_writer, f"P{n}", rules), True) for n in range(plain)]
    processes += [Process(f"T{n}", partial(transaction, f"T{n}", rules, slugs), True) for n in range(transactions)]
    world = World((Commit(row, 0),), last_tick=ticks).put(STAMP, Version(1), serial=1)
    for key in warm:
        world = world.put(key, Entry(by_slug(row) if key == INDEX else row, ("first", key)))
    return System(world, tuple(processes), events, crashed, at_rest, crashes)
