"""``InvalidationType.DYNAMIC`` with ``allowtime``: stale copies, which one reader refreshes.

A mark answers with the value that it replaced. The last writer to clear leaves that value as a stale copy, for the
rest of ``allowtime`` since its first invalidation. A reader that is elected to refresh reads the database without a
lease, and fills if the entry that it found is still there. In the worst case any number of readers is elected.
Refresh-ahead of a fresh value works the same way.
"""

from functools import partial

from tests.protocol.model.engine import Body, Operation, Outcome, Process, System
from tests.protocol.model.rules import Rules
from tests.protocol.model.world import (
    ROW,
    Commit,
    Entry,
    Lease,
    Row,
    World,
    at_rest,
    beginning,
    clear,
    crashed,
    events,
    fill,
    lease,
    mark,
    now,
    read,
    returned,
    select,
    write,
)

ALLOWTIME = 2


def reader(me: str, rules: Rules, look_ups: int) -> Body:
    """Looks the row up repeatedly."""
    for number in range(look_ups):
        token = (me, number)
        began, (found, elected) = yield beginning(reading_and_electing(), allowance=ALLOWTIME)
        if isinstance(found, Entry):
            yield returned(began, found.row)
            if elected:
                row = yield select()
                yield fill(ROW, found if rules.refresh_compares else None, Entry(row, token))
        else:
            row = yield from load_row(token)
            yield returned(began, row)


def reading_and_electing() -> Operation:
    """Reads the row. A reader that finds a value may or may not be elected to refresh it."""

    def run(world: World) -> list[Outcome]:
        [found] = read(ROW)(world)
        outcomes = [Outcome(found.label, (found.answer, False), world)]
        if isinstance(found.answer, Entry):
            outcomes.append(Outcome(f"{found.label}, to be refreshed", (found.answer, True), world))
        return outcomes

    return run


def load_row(token: object) -> Body:
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


def writer(me: str, rules: Rules) -> Body:
    """Saves the row in autocommit mode."""
    replaced = yield mark(ROW, me)
    marked_at = yield now
    committed = yield write(me)
    stale = None
    if replaced is not None and committed:
        if not rules.counted_from_mark:
            marked_at = yield now
        first = replaced.until is None or not rules.first_invalidation_counts
        until = marked_at + ALLOWTIME if first else replaced.until
        stale = Entry(replaced.row, (me, "stale") if rules.new_stale_token else replaced.token, until=until)
    sent_at = yield now
    yield clearing(me, stale, None if rules.moment_of_expiry else sent_at, blindly=not rules.clear_own)


def clearing(me: str, stale: Entry | None, sent_at: int | None, *, blindly: bool) -> Operation:
    """Clears the row. If ``sent_at`` is given, the clear sends the stale copy's lifetime instead of its end."""

    def run(world: World) -> list[Outcome]:
        left = stale
        if stale is not None and stale.until is not None and sent_at is not None and stale.until > sent_at:
            left = stale._replace(until=world.clock + stale.until - sent_at)
        return list(clear(ROW, me, left, blindly=blindly)(world))

    return run


def system(
    rules: Rules, *, look_ups: tuple[int, ...] = (), writers: int = 0, crashes: int = 0, ticks: int = 2
) -> System[World]:
    """Returns a system of readers, by the number of their lookups, and writers. The row is cached at the beginning."""
    processes = [Process(f"R{n}", partial(reader, f"R{n}", rules, number), True) for n, number in enumerate(look_ups)]
    processes += [Process(f"W{n}", partial(writer, f"W{n}", rules), True) for n in range(writers)]
    world = World((Commit(Row(0), 0),), last_tick=ticks).put(ROW, Entry(Row(0), ("first", 0)))
    return System(world, tuple(processes), events, crashed, at_rest, crashes)
