"""Group versions: like a table's version, but of the rows that share one value of a declared key.

The derived entry is the row that has slug ``a``, if there is one. A writer marks the version of that group if the row
enters it or leaves it. Which group the row leaves, only the database knows: the writer reads it under a lock. A bulk
write names no groups, and marks the epoch.

Values are stored without a lease: what makes them valid is their dependencies alone.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

from tests.protocol.model.computations import Losses, Needs, losing, token_of, would_answer
from tests.protocol.model.computing import unchanged
from tests.protocol.model.engine import Body, Operation, Outcome, Process, System, Violation
from tests.protocol.model.indexes import select_by_slug
from tests.protocol.model.rules import Rules
from tests.protocol.model.world import (
    DERIVED,
    EPOCH,
    GROUP,
    KEYS,
    STALE_AT_REST,
    Commit,
    Entry,
    Row,
    Version,
    World,
    beginning,
    by_slug,
    clear,
    crashed,
    current,
    fill,
    finish,
    listed,
    mark,
    read,
    returned,
    select,
    update,
)


def reader(me: str, rules: Rules, look_ups: int) -> Body:
    """Looks the group up repeatedly."""
    for number in range(look_ups):
        yield from look_up((me, number), rules)


def look_up(me: Any, rules: Rules) -> Body:
    began, cell = yield beginning(read(DERIVED))
    if isinstance(cell, Entry):
        valid = yield from unchanged(rules, cell.needs)
        if valid:
            yield returned(began, cell.row, by_slug)
            return
    del cell
    needs: Needs = ()
    known = True
    for key in (GROUP, EPOCH) if rules.group_needs_epoch else (GROUP,):
        version = yield current(key)
        known = known and isinstance(version, Version)
        needs += ((key, token_of(version)),)
        del version
    row = yield select_by_slug()
    if known:
        yield fill(DERIVED, None, Entry(row, me, needs=needs))
    yield returned(began, row, by_slug)


def writer(me: str, rules: Rules, slugs: tuple[str | None, ...]) -> Body:
    """Saves the row under a slug or deletes it, in a transaction that first reads the group that the row leaves."""
    if rules.group_left_locked:
        before = yield locking(me)
    else:
        before = yield select()
    slug = yield writing(me, slugs)
    left = by_slug(before) is not None and rules.group_left_marked
    entered = slug == "a" and rules.group_entered_marked
    if left or entered:
        yield mark(GROUP, me)
    yield finish(me)
    if left or entered:
        yield clear(GROUP, me)


def bulk_write(me: str, rules: Rules, slugs: tuple[str | None, ...]) -> Body:
    """Writes more rows than ``bulk_limit``: marks the epoch before COMMIT and clears it afterwards."""
    yield update(me, slugs)
    yield mark(EPOCH, me)
    yield finish(me)
    yield clear(EPOCH, me)


def locking(writer: str) -> Operation:
    """Answers with the row and locks it. Waits for other writers."""

    def run(world: World) -> Iterator[Outcome]:
        if world.lock is None:
            locked = world._replace(lock=writer, draft=world.row)
            yield Outcome(f"SELECT FOR UPDATE: {world.row or 'no row'}", world.row, locked)

    return run


def writing(writer: str, slugs: tuple[str | None, ...]) -> Operation:
    """Writes the row, whether or not it is locked already."""

    def run(world: World) -> Iterator[Outcome]:
        yield from update(writer, slugs)(world._replace(lock=None) if world.lock == writer else world)

    return run


def at_rest(world: World) -> None:
    """Checks that the derived entry is not wrong after all processes have ended, if it would be an answer."""
    cell = world.cells[DERIVED]
    if isinstance(cell, Entry) and would_answer(world, cell):
        true = [by_slug(commit.row) for commit in world.history[world.floor :]]
        if cell.row not in true:
            raise Violation(STALE_AT_REST, f"the derived entry says {cell}, the database {listed(true)}")


def system(
    rules: Rules,
    *,
    look_ups: tuple[int, ...] = (),
    writers: int = 0,
    bulk: int = 0,
    slugs: tuple[str | None, ...] = ("a", "b", None),
    start: str | None = "a",
    crashes: int = 0,
    evictions: int = 0,
    ticks: int = 0,
) -> System[World]:
    """Returns a system of readers, by the number of their lookups, and writers. Only writers crash."""
    processes = [Process(f"R{n}", partial(reader, f"R{n}", rules, number)) for n, number in enumerate(look_ups)]
    processes += [Process(f"W{n}", partial(writer, f"W{n}", rules, slugs), True) for n in range(writers)]
    processes += [Process(f"B{n}", partial(bulk_write, f"B{n}", rules, slugs), True) for n in range(bulk)]
    row = None if start is None else Row(0, start)
    world = World((Commit(row, 0),), cells=(None,) * len(KEYS), last_tick=ticks, side=Losses(evictions))
    return System(world, tuple(processes), losing, crashed, at_rest, crashes)
