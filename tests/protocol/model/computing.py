"""Lookups of derived entries, which compute and store them: the reading half of ``derived``.

Dependencies are read one by one, in the order in which they were recorded. Whatever one request does is among these
orders, and a cluster needs several requests.
"""

from collections.abc import Iterator
from typing import Any

from tests.protocol.model.computations import (
    ROW_KEYS,
    Cached,
    Computation,
    Earlier,
    Found,
    Inner,
    Late,
    Needs,
    Outside,
    Query,
    Rows,
    Source,
    answered,
    has_token,
    is_row,
    keys_of,
    merged,
    only,
    select_rows,
    token_of,
)
from tests.protocol.model.engine import AtOnce, Body, Operation, Outcome
from tests.protocol.model.rules import Rules
from tests.protocol.model.world import (
    DERIVED,
    EPOCH,
    INNER,
    KEYS,
    LEASE_TTL,
    STAMP,
    VERSION,
    Cell,
    Entry,
    Intents,
    Lease,
    Version,
    World,
    beginning,
    current,
    fill,
    lease,
    now,
    read,
    renew,
    select,
)

# Looking up -----------------------------------------------------------------------------------------------


def reader(me: str, rules: Rules, look_ups: int, computation: Computation, snapshots: bool) -> Body:
    """Looks the derived entry up repeatedly."""
    seen = None
    for number in range(look_ups):
        seen = yield from look_up((me, number), rules, computation, snapshots, seen)


def look_up(me: Any, rules: Rules, computation: Computation, snapshots: bool, seen: Any) -> Body:
    """Looks the derived entry up. Takes the token of the entry that was seen last, and answers with the next one."""
    started = earlier = None
    if any(isinstance(source, Earlier) for source in computation.recipe):
        started, earlier = yield beginning(select())
    began, found = yield from find(me, rules, DERIVED, computation, seen)
    if isinstance(found, Entry):
        yield answered(began, found.row, together=True)
        return found.token if computation.predicts else None
    if started is not None:
        began = started
    found, stored = yield from load(me, rules, DERIVED, found, computation, earlier)
    if not snapshots:
        yield answered(began, found.value, together=False)
        return me if stored and computation.predicts else None
    same = all(map(has_token, found.needs))
    if same and rules.snapshot_validated:
        same = yield from unchanged(rules, found.needs)
    if same:  # otherwise, the caller computes again
        yield answered(began, found.value, together=True)


def find(me: Any, rules: Rules, key: int, computation: Computation, known: Any = None) -> Body:
    """Reads an entry and its dependencies. ``known`` is the token of an entry that was read before.

    Answers with the begin, and with the entry if it is valid, or the own lease, or None if the value is not to be
    stored.
    """
    seen: Needs = ()
    if computation.predicts:
        began, seen = yield from read_predicted(computation)
        cell = yield read(key)
    else:
        began, cell = yield beginning(read(key))
    if isinstance(cell, Entry):
        valid = set(cell.needs) <= set(seen)
        if not computation.predicts or (rules.derived_read_first and cell.token != known):
            valid = yield from unchanged(rules, cell.needs)
        if valid:
            return began, cell
    if not rules.derived_lease:
        return began, Lease(me)
    cell = yield lease(key, me, cell if isinstance(cell, Entry) else None)
    if cell == Lease(me):
        return began, cell
    if isinstance(cell, Lease) and computation.single_flight:
        cell, landed = yield waiting(key)
        if landed is not None:
            return began, Entry(landed, None)
        if isinstance(cell, Entry):
            valid = yield from unchanged(rules, cell.needs)
            if valid:
                return began, cell
    return began, None


def read_predicted(computation: Computation) -> Body:
    """Reads the keys that the entry depended on last time, before the entry itself."""
    began = None
    seen: Needs = ()
    for key in sorted(keys_of(computation)):
        start, cell = yield beginning(read(key))
        began = start if began is None else began
        seen += ((key, token_of(cell)),)
    return began, seen


def unchanged(rules: Rules, needs: Needs) -> Body:
    """Answers True if all dependencies have the token that they had."""
    if rules.tokens_compared:
        for key, token in needs:
            cell = yield reading(key, rules)
            if token_of(cell) != token:
                return False
    return True


def load(me: Any, rules: Rules, key: int, own: Lease | None, computation: Computation, earlier: Rows | None) -> Body:
    """Computes the value and stores it if all its dependencies are known.

    Answers with what was found, and with the token of the entry if it is stored.
    """
    found = yield from compute(me, rules, computation, earlier)
    if own is None:
        return found, None
    if not rules.token_as_read:
        found = yield from completed(found)
    needs = found.needs if rules.first_token_counts else tuple(dict(found.needs).items())
    if not rules.every_answer_needs_token:
        needs = tuple(filter(has_token, needs))
    entry = None
    if all(map(has_token, needs)) and (needs or not rules.derived_needs_something):
        entry = Entry(found.value, me, needs=needs)
    landed = None if rules.derived_joined_by_reading else found.value
    stored = yield storing(key, own if rules.derived_lease else None, entry, landed)
    return found, token_of(entry) if stored else None


def completed(found: Found) -> Body:
    """Looks up the tokens that are not known, after everything was read."""
    needs: Needs = ()
    for key, token in found.needs:
        if token is None:
            cell = yield read(key)
            token = token_of(cell) if isinstance(cell, Entry) else None
        needs += ((key, token),)
    return Found(found.value, needs)


def storing(key: int, own: Lease | None, entry: Entry | None, landed: Rows | None) -> Operation:
    """Stores a derived entry. Hands ``landed`` to those who wait for it."""

    def run(world: World) -> Iterator[Outcome]:
        for label, answer, after in fill(key, own, entry)(world):
            yield Outcome(label, answer, after._replace(landed=landed))

    return run


def waiting(key: int) -> Operation:
    """Waits until a key is not leased. Answers with its content, and with the value if that was handed over."""

    def run(world: World) -> Iterator[Outcome]:
        cell = world.cells[key]
        if not isinstance(cell, Lease):
            yield Outcome(f"waits for {KEYS[key]}: {cell or 'nothing'}", (cell, world.landed), world)

    return run


# Computing ------------------------------------------------------------------------------------------------


def compute(me: Any, rules: Rules, computation: Computation, earlier: Rows | None) -> Body:
    """Computes the value from its sources, one after the other."""
    version = None
    if computation.cap is not None and rules.cap_version_first:
        version = yield reading(VERSION, rules)
        if version is None and rules.cap_version_created_first:
            version = yield creating(VERSION, rules)
    found = Found()
    for number, source in enumerate(computation.recipe):
        part = yield from read_source((*me, number), rules, source, computation, earlier)
        found = Found(merged(found.value, part.value), found.needs + part.needs)
        del part
    if computation.cap is not None and version is None:
        version = yield creating(VERSION, rules)
    return found._replace(needs=collapsed(rules, computation, found.needs, version))


def collapsed(rules: Rules, computation: Computation, needs: Needs, version: Cell) -> Needs:
    """Returns the dependencies with the table's version in place of too many rows, or of a row without a token."""
    rows = tuple(filter(is_row, needs))
    if computation.cap is None or (len(rows) <= computation.cap and all(map(has_token, rows))):
        return needs
    if computation.ignores and rules.ignoring_version_not_used:
        return needs
    others = [need for need in needs if not is_row(need)]
    return (*others, (VERSION, token_of_version(rules, version)))


def read_source(me: Any, rules: Rules, source: Source, computation: Computation, earlier: Rows | None) -> Body:
    if isinstance(source, Cached):
        found = yield from read_row(me, rules, source.at, computation.epochs)
    elif isinstance(source, Late):
        found = yield from read_late(me, rules, source.at)
    elif isinstance(source, Query):
        found = yield from read_database(rules, source)
    elif isinstance(source, Inner):
        found = yield from read_inner(me, rules, computation._replace(recipe=source.recipe))
    elif isinstance(source, Outside):
        value = yield select_rows((source.at,))
        found = Found(value)
    else:
        found = Found(only(earlier, (source.at,)))
    return found


def read_row(token: Any, rules: Rules, at: int, epochs: bool) -> Body:
    """Reads a row through the cache. Its dependencies are its entry and the epoch."""
    key = ROW_KEYS[at]
    epoch = None
    if epochs:
        epoch = yield read(EPOCH)
    cell = yield read(key)
    if not isinstance(cell, Entry) or cell.epoch != epoch:
        cell = yield lease(key, token, cell if isinstance(cell, Entry) else None)
        if cell == Lease(token):
            if epochs:
                epoch = yield current(EPOCH)
            row = yield select_rows((at,))
            entry = None if isinstance(epoch, Intents) else Entry(row, token, epoch)
            filled = yield fill(key, Lease(token), entry)
            return Found(row, row_needs(rules, key, entry if filled else None, epoch))
    if isinstance(cell, Entry) and cell.epoch == epoch:
        return Found(cell.row, row_needs(rules, key, cell, epoch))
    row = yield select_rows((at,))
    return Found(row, row_needs(rules, key, None, epoch))


def read_late(token: Any, rules: Rules, at: int) -> Body:
    """Reads a row by the statement of an index miss, and leases it afterwards.

    If the row is cached by then, its token is taken.
    """
    key = ROW_KEYS[at]
    stamp = yield current(STAMP)
    deadline = yield AtOnce(lambda world: world.clock + LEASE_TTL)
    row = yield select_rows((at,))
    cell = yield lease(key, token)
    again = yield current(STAMP)
    late = yield now
    if cell == Lease(token):
        entry = Entry(row, token) if again == stamp and late <= deadline else None
        filled = yield fill(key, cell, entry)
        return Found(row, row_needs(rules, key, entry if filled else None, None))
    unchanged_since = again == stamp or not rules.late_token_checks_stamp
    in_time = late <= deadline or not rules.late_token_in_time
    known = cell if isinstance(cell, Entry) and unchanged_since and in_time else None
    return Found(row, row_needs(rules, key, known, None))


def row_needs(rules: Rules, key: int, entry: Entry | None, epoch: Cell) -> Needs:
    """Returns the dependencies of a row. Without an entry that holds it, it has no token."""
    needs: Needs = ((key, token_of(entry)),)
    if epoch is not None and rules.row_needs_epoch:
        needs += ((EPOCH, token_of(epoch) if isinstance(epoch, Version) else None),)
    return needs


def read_database(rules: Rules, query: Query) -> Body:
    """Sends a statement that the cache does not know. Its dependency is the table's version."""
    version = None
    if rules.version_before_statement:
        version = yield creating(query.version, rules)
    value = yield select_rows(query.rows)
    if not rules.version_before_statement:
        version = yield creating(query.version, rules)
    return Found(value, ((query.version, token_of_version(rules, version)),))


def reading(key: int, rules: Rules) -> Operation:
    """Reads a key. A version of an earlier incarnation of the server counts as absent."""

    def run(world: World) -> Iterator[Outcome]:
        cell = world.cells[key]
        if isinstance(cell, Version) and world.side.is_old(cell) and rules.version_of_incarnation:
            yield Outcome(f"read {KEYS[key]}: an old version", None, world)
        else:
            yield from read(key)(world)

    return run


def creating(key: int, rules: Rules) -> Operation:
    """Answers with the version under a key, and creates one if there is none of this incarnation."""

    def run(world: World) -> Iterator[Outcome]:
        [found] = reading(key, rules)(world)
        if found.answer is None or (isinstance(found.answer, Intents) and not rules.version_only_if_absent):
            [created] = renew(key)(world)
            found = created._replace(answer=created.world.cells[key])
        yield found

    return run


def token_of_version(rules: Rules, cell: Cell) -> Any:
    """Returns the token of a version, or None if a writer has marked it."""
    return token_of(cell) if isinstance(cell, Version) or not rules.marked_version_refused else None


def read_inner(me: Any, rules: Rules, computation: Computation) -> Body:
    """Awaits the inner entry. Its dependencies are those of the outer entry, too, and so is its token."""
    _, found = yield from find(me, rules, INNER, computation)
    if isinstance(found, Entry):
        found, token = Found(found.row, found.needs), token_of(found)
    else:
        found, token = yield from load(me, rules, INNER, found, computation, None)
    needs = found.needs if rules.inner_needs_passed_on else ()
    if rules.inner_token_noted:
        needs += ((INNER, token),)
    return Found(found.value, needs)
