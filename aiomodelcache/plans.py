"""How a look-up proceeds, without doing any I/O: generators that yield what they need next.

A plan yields requests (``Read``, ``Wait``, ``Take``, ``Load``, ``Call``, ``Store``, ``Spawn``) and is sent their
answers; what it returns is the look-up's result. ``reader`` drives any number of plans at once and merges their
requests. The consistency protocol's reading half is all here, so that every interleaving of it can
be tried without a server.

A plan needs no error handling for the cache: where the cache cannot be used, every ``Read`` is answered
with nothing, every ``Take`` is refused and every ``Store`` is rejected, and what is left of any plan then is
the plain query.
"""

from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from functools import partial
from itertools import repeat
from operator import itemgetter
from typing import Any, Final, NamedTuple, Protocol, TypeVar, cast

from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache.codec import EncodeError
from aiomodelcache.entries import ABSENT, CREATED, LEASE, PREFIX_SIZE, STALE, VALUE, is_intent, is_lease
from aiomodelcache.lifetimes import Lifetimes
from aiomodelcache.lookups import (
    Absent,
    Guess,
    Guesses,
    Index,
    Miss,
    Nothing,
    Row,
    Rows,
    foreign,
    is_version,
    unencodable,
)
from aiomodelcache.schema import Values
from aiomodelcache.stats import Counters


class Read(NamedTuple):
    """Fetch these keys. Answer: a list of bytes or None, in order."""

    keys: list[bytes]


class Wait(NamedTuple):
    """Somebody else is filling these keys: wait for them a little. Answer: None.

    ``longest``: how long to wait if it is somebody in this process, in seconds, if not as long as usual.
    """

    keys: list[bytes]
    longest: float | None = None


class Attempt(NamedTuple):
    """One reader's try at filling keys: its token, and the moment (monotonic) when it must give up.

    ``held`` is how the entry begins that is to be replaced, where that is not this attempt's own lease.
    """

    token: bytes
    deadline: float
    held: bytes = b""


class Take(NamedTuple):
    """Lease these keys, each either absent or still beginning as given; then read the versions.

    Answer: ``Taken``, with a token that no other ``Take`` had: with a token that comes back, a fill that was
    delayed would be accepted under a lease taken later. ``deadline`` is that of the attempt continued.
    """

    keys: list[tuple[bytes, bytes]]
    versions: list[bytes]
    deadline: float | None = None
    ttl: float | None = None
    """How long a fresh attempt may take, in seconds, if not as long as usual."""


class Taken(NamedTuple):
    """What the keys hold now (the attempt's own lease where it was granted), and the versions."""

    attempt: Attempt
    values: list[bytes | None]
    versions: list[bytes | None]


class Loaded(Protocol):
    """One row from the database. Several plans may have asked for it in one statement."""

    values: Row
    fillable: bool

    def payload(self) -> bytes:
        """The row as bytes. Raises ``EncodeError``."""
        ...

    def take(self) -> Any:
        """Returns an instance of its own to each taker. To be called before the plan yields again."""
        ...


class Answer(NamedTuple):
    """The rows that the database found for one set of values, in order.

    ``exact``: each of them has these very values, not others that the database holds to be equal.
    """

    rows: list[Loaded]
    exact: bool


class Load(NamedTuple):
    """Ask the database for the rows with these values. Answer: a dict of values to ``Answer``."""

    source: Rows | Index
    wanted: list[Values]
    replica: bool = False
    """Whether a replica will do: it is known that none of these rows was written within ``replica_lag``."""


Filling = tuple[Attempt, bytes, bytes, int]
"""What to store: by which attempt, under which key, the value, and how many milliseconds it shall live."""


class Store(NamedTuple):
    """Replace leases by values (by nothing where empty), each its attempt's own. Answer: which were."""

    fills: list[Filling]


class Spawn(NamedTuple):
    """Begin another plan, which fills ``key`` again and which nobody waits for. Answer: None.

    It returns whether it was the one to do so. Not begun if this process is, or was just now, about the same key.
    """

    key: bytes
    plan: "Plan[bool]"
    counters: Counters


Compute = Callable[[BaseDBAsyncClient | None], Awaitable[Any]]
"""Makes a result: on this transaction's connection, or, given None, in autocommit mode."""


class Call(NamedTuple):
    """Compute a result. Answer: ``Computed``. Several plans of one tick may share one computation."""

    key: bytes
    compute: Compute


class Computed(Protocol):
    """What a method returned, and whether it may be stored."""

    value: Any
    kept: bool

    def take(self) -> Any:
        """Returns the value to the first taker and copies to the others."""
        ...


Request = Read | Wait | Take | Load | Call | Store | Spawn
T = TypeVar("T")
Plan = Generator[Request, Any, T]


class Look(Protocol):
    """A look-up that its first ``Read`` answers nearly always; then it needs no plan, which would cost more.

    ``context`` is what whoever starts it wants to be told again.
    """

    def ask(self, context: Any, /) -> list[bytes]:
        """The keys to read first."""
        ...

    def answer(self, context: Any, keys: list[bytes], found: list[bytes | None], /) -> Any:
        """The result, if what was found under these keys is all that it takes, or else a miss.

        Without a trace if it is a miss: the plan judges the same bytes once more. Raises what the result is to raise.
        """
        ...

    def begin(self, context: Any, /) -> Plan[Any]:
        """The look-up from its beginning, which is a ``Read``."""
        ...


def look_up(source: Rows | Index, values: Values, guesses: Guesses) -> "Plan[list[Any]]":
    """Finds the rows with these values of a key."""
    if isinstance(source, Rows):
        return row_by_pk(source, values[0], source.key(values[0]))
    return rows_at(source, values, source.key(values), guesses)


def row_by_pk(rows: Rows, pk: Any, key: bytes) -> Plan[list[Any]]:
    """Finds one row by primary key; ``key`` is its cache key. Returns it, or nothing, as a list.

    The same as ``rows_by_pk``, with its hit path written out.
    """
    epoch, entry = yield Read([rows.epoch_key, key])
    row = rows.read(entry, epoch)
    if isinstance(row, dict) and row[rows.schema.pk] == pk:
        rows.counters.hits += 1
        if entry[CREATED] <= rows.lifetimes.due:
            yield _renewed_row(rows, pk, entry)
        return [row]
    found: dict[Any, Any] = {}
    misses: Misses = {}
    _sort_row(rows, pk, entry, row, found, misses)
    if misses:
        yield from _settle_rows(rows, misses, found)
    else:
        yield from _renew_rows(rows, {pk: entry})
    return [] if found[pk] is None else [found[pk]]


def rows_by_pk(rows: Rows, pks: Sequence[Any]) -> Plan[dict[Any, Any]]:
    """Finds rows by primary key. Returns what exists, by primary key, in the order asked."""
    found, misses = yield from _read_rows(rows, pks)
    if misses:
        yield from _settle_rows(rows, misses, found)
    return {pk: found[pk] for pk in pks if found[pk] is not None}


def rows_at(index: Index, values: Values, key: bytes, guesses: Guesses) -> Plan[list[Any]]:
    """Finds the rows with these values; ``key`` is their cache key. Returns them in the index's order.

    The same as ``rows_by_index``, with its hit path written out.
    """
    rows = index.rows
    guess = guesses.recall(key)
    epoch, entry, *read = yield Read([rows.epoch_key, key, *guess.keys])
    if index.read(entry, epoch) == guess.pks:
        answer: list[Any] = [rows.read(row, epoch) for row in read]
        if all(map(index.answers, answer, guess.pks, repeat(values))):
            index.counters.hits += 1
            rows.counters.hits += len(answer)
            if entry[CREATED] <= index.lifetimes.due:
                yield _renewed_index(index, values, key, entry, guesses)
            if min(map(_created, read), default=_ALWAYS) <= rows.lifetimes.due:
                yield from _renew_rows(rows, dict(zip(guess.pks, read, strict=True)))
            return answer
    found: dict[Values, list[Any]] = {}
    read_by_pk = dict(zip(guess.pks, read, strict=True))
    misses = yield from _judge_index(index, {values: entry}, read_by_pk, epoch, guesses, found)
    if misses:
        yield from _settle_index(index, misses, guesses, found)
    return found[values]


def index_hit(
    index: Index, values: Values, guess: Guess, keys: list[bytes], found: list[bytes | None]
) -> list[Row] | None:
    """The rows with these values, if the index entry and the rows that were guessed say so; without a trace if not.

    ``keys`` are those of epoch, index entry and rows, as they were asked for, and ``found`` what they held.
    """
    epoch = found[0]
    if keys[2:] != guess.keys or not index.hit(found[1], epoch, guess.pks):
        return None
    rows, attributes = index.rows, index.attributes
    answer: list[Row] = []
    for pk, entry in zip(guess.pks, found[2:], strict=True):
        row = rows.hit(entry, epoch, pk)
        if row is None:
            return None
        for attribute, value in zip(attributes, values, strict=True):
            if row[attribute] != value:
                return None
        answer.append(row)
    index.counters.hits += 1
    rows.counters.hits += len(answer)
    return answer


def rows_by_index(index: Index, wanted: Sequence[Values], guesses: Guesses) -> Plan[dict[Values, list[Any]]]:
    """Finds rows by the values of an index. Returns the rows for each of ``wanted``, in the index's order."""
    found: dict[Values, list[Any]] = {}
    misses = yield from _read_index(index, wanted, guesses, found)
    if misses:
        yield from _settle_index(index, misses, guesses, found)
    return found


# Rows ----------------------------------------------------------------------------------------------

Misses = dict[Any, bytes | None]
"""What was asked for but not found, with the unusable bytes that stood under its key."""


def _settle_rows(rows: Rows, misses: Misses, found: dict[Any, Any]) -> Plan[None]:
    """Adds to ``found`` what was missed: from the database, or from whoever is filling it meanwhile."""
    busy = yield from _load_rows(rows, misses, found)
    if busy:
        yield from wait(map(rows.key, busy), busy.values())
        late, misses = yield from _read_rows(rows, busy)
        found.update(late)
        if misses:
            yield from _load_rows(rows, misses, found, fill=False)


def _read_rows(rows: Rows, pks: Iterable[Any]) -> Plan[tuple[dict[Any, Row | None], Misses]]:
    """Reads rows from the cache: what is found (None: known to be absent), and what is not."""
    pks = list(pks)
    epoch, *entries = yield Read([rows.epoch_key, *map(rows.key, pks)])
    found: dict[Any, Row | None] = {}
    misses: Misses = {}
    for pk, entry in zip(pks, entries, strict=True):
        _sort_row(rows, pk, entry, rows.read(entry, epoch), found, misses)
    yield from _renew_rows(rows, {pk: entry for pk, entry in zip(pks, entries, strict=True) if pk in found})
    return found, misses


def _sort_row(
    rows: Rows,
    pk: Any,
    entry: bytes | None,
    row: Row | Absent | Miss,
    found: dict[Any, Row | None],
    misses: Misses,
) -> None:
    """Adds what was read for ``pk`` to what is found or to what is missed."""
    if row is Nothing.ABSENT:
        rows.counters.hits += 1
        found[pk] = None
    elif row is not Nothing.MISS and row[rows.schema.pk] == pk:
        rows.counters.hits += 1
        found[pk] = row
    else:
        if row is not Nothing.MISS:
            foreign(rows.counters, rows.schema.name, "it is another row than its key says")
        rows.counters.misses += 1
        misses[pk] = entry


def _load_rows(rows: Rows, misses: Misses, found: dict[Any, Any], *, fill: bool = True) -> Plan[Misses]:
    """Loads rows from the database under a lease and stores them.

    Adds to ``found`` and returns the primary keys that somebody else is filling, with what stands
    there; nothing was asked of the database about these.
    """
    mine: dict[Any, bytes] = {}
    busy: Misses = {}
    taken = None
    if fill:
        keys = {pk: rows.key(pk) for pk in misses}
        taken = yield Take([(keys[pk], replaceable(entry)) for pk, entry in misses.items()], [rows.epoch_key])
        own = LEASE + taken.attempt.token
        for pk, value in zip(misses, taken.values, strict=True):
            if value == own:
                mine[pk] = keys[pk]
            elif filling(value):
                busy[pk] = value
    wanted = [(pk,) for pk in misses if pk not in busy]
    if not wanted:
        return busy
    answers: dict[Values, Answer] = {}
    for load in _split(rows, wanted, mine, taken):
        answers.update((yield from _load_or_give_back(load, taken, mine.values())))
    for values, answer in answers.items():
        found[values[0]] = answer.rows[0].take() if answer.rows else None
    if mine and taken is not None:
        epoch = taken.versions[0]
        fills: list[Filling] = []
        for pk, key in mine.items():
            entry = _row_entry(rows, answers[(pk,)], taken.attempt.token, epoch)
            fills.append((taken.attempt, key, entry, rows.lifetimes.of(entry[:1])))
        yield from _store(rows, fills)
    return busy


def _split(rows: Rows, wanted: list[Values], mine: dict[Any, bytes], taken: Taken | None) -> list[Load]:
    """Which of the rows a replica may be asked for: those of which the store has just said that nobody is writing
    them, or has within ``replica_lag``, neither one by one (a lease was granted) nor all at once (the epoch)."""
    if not rows.replicated or not mine or taken is None or not is_version(taken.versions[0]):
        return [Load(rows, wanted)]
    leased = [values for values in wanted if values[0] in mine]
    others = [values for values in wanted if values[0] not in mine]
    return [Load(rows, leased, replica=True), *([Load(rows, others)] if others else [])]


def _row_entry(rows: Rows, answer: Answer, token: bytes, epoch: bytes | None) -> bytes:
    """The bytes to store for a row that was asked for by primary key; nothing if it must not be."""
    if epoch is None or not is_version(epoch):
        return b""
    if not answer.rows:
        return rows.entry(token, epoch, None) if rows.keeps_absence else b""
    payload = row_payload(rows, answer.rows[0]) if answer.exact else None
    if payload is None:
        rows.counters.unfillable += 1
        return b""
    return rows.entry(token, epoch, payload)


def row_payload(rows: Rows, loaded: Loaded) -> bytes | None:
    """The bytes of a loaded row; None, counted and logged once, if it cannot be stored."""
    if not loaded.fillable:
        return None
    try:
        return loaded.payload()
    except EncodeError as error:
        unencodable(rows.counters, rows.schema.name, error)
        return None


# Indexes ---------------------------------------------------------------------------------------------


def _settle_index(
    index: Index, misses: dict[Values, bytes | None], guesses: Guesses, found: dict[Values, list[Any]]
) -> Plan[None]:
    """Adds to ``found`` what was missed: from the database, or from whoever is filling it meanwhile."""
    busy = yield from _load_index(index, misses, guesses, found)
    if busy:
        yield from wait(map(index.key, busy), busy.values())
        misses = yield from _read_index(index, list(busy), guesses, found)
        if misses:
            yield from _load_index(index, misses, guesses, found, fill=False)


def _read_index(
    index: Index, wanted: Sequence[Values], guesses: Guesses, found: dict[Values, list[Any]]
) -> Plan[dict[Values, bytes | None]]:
    """Reads an index and the rows that it leads to. Adds to ``found``; returns what the cache cannot answer.

    Index and guessed rows travel together; only rows that were not guessed cost a second round.
    """
    keys = [index.key(values) for values in wanted]
    guessed = {pk: key for guess in map(guesses.recall, keys) for pk, key in zip(guess.pks, guess.keys, strict=True)}
    epoch, *entries = yield Read([index.rows.epoch_key, *keys, *guessed.values()])
    read = dict(zip(guessed, entries[len(keys) :], strict=True))
    return (yield from _judge_index(index, dict(zip(wanted, entries, strict=False)), read, epoch, guesses, found))


def _judge_index(
    index: Index,
    entries: dict[Values, bytes | None],
    read: dict[Any, bytes | None],
    epoch: bytes | None,
    guesses: Guesses,
    found: dict[Values, list[Any]],
) -> Plan[dict[Values, bytes | None]]:
    """Makes answers of index entries, following them to rows that were not read with them."""
    pointed: dict[Values, list[Any]] = {}
    misses: dict[Values, bytes | None] = {}
    for values, entry in entries.items():
        pks = index.read(entry, epoch)
        if pks is Nothing.MISS:
            misses[values] = entry
        elif pks is Nothing.ABSENT:
            index.counters.hits += 1
            found[values] = []
            guesses.forget(index.key(values))
        else:
            pointed[values] = pks
            guesses.remember(index.key(values), pks, index.rows)
    if pointed:
        yield from _follow(index, pointed, read, epoch, entries, found, misses)
    for values, entry in entries.items():
        if values not in misses and entry is not None and index.lifetimes.is_due(entry):
            yield _renewed_index(index, values, index.key(values), entry, guesses)
    index.counters.misses += len(misses)
    return misses


def _follow(
    index: Index,
    pointed: dict[Values, list[Any]],
    read: dict[Any, bytes | None],
    epoch: bytes | None,
    entries: dict[Values, bytes | None],
    found: dict[Values, list[Any]],
    misses: dict[Values, bytes | None],
) -> Plan[None]:
    """Goes from index entries to their rows. A row that is gone or no longer matches makes a miss."""
    rows = index.rows
    needed = dict.fromkeys([pk for pks in pointed.values() for pk in pks])
    unseen = [pk for pk in needed if pk not in read]
    if unseen:
        epoch, *more = yield Read([rows.epoch_key, *map(rows.key, unseen)])
        read.update(zip(unseen, more, strict=True))
    row_of: dict[Any, Any] = {}
    lost: Misses = {}
    for pk in needed:
        _sort_row(rows, pk, read[pk], rows.read(read[pk], epoch), row_of, lost)
    yield from _renew_rows(rows, {pk: read[pk] for pk in row_of})
    if lost:
        busy = yield from _load_rows(rows, lost, row_of)
        if busy:
            row_of.update((yield from rows_by_pk(rows, list(busy))))
    for values, pks in pointed.items():
        answer = [row_of.get(pk) for pk in pks]
        if None not in answer and index.confirms(pks, list(map(values_of, answer)), values):
            index.counters.hits += 1
            found[values] = answer
        else:
            index.counters.healed += 1
            misses[values] = entries[values]


def _load_index(
    index: Index,
    misses: dict[Values, bytes | None],
    guesses: Guesses,
    found: dict[Values, list[Any]],
    *,
    fill: bool = True,
) -> Plan[dict[Values, bytes | None]]:
    """Loads what an index should lead to, and stores index and rows from the one statement.

    Adds to ``found`` and returns the values that somebody else is filling, with what stands there.
    """
    rows = index.rows
    leasable = {values: index.key(values) for values in misses if fill and index.cacheable(values)}
    mine: dict[Values, bytes] = {}
    busy: dict[Values, bytes | None] = {}
    taken = None
    if leasable:
        taken = yield Take(
            [(key, replaceable(misses[values])) for values, key in leasable.items()],
            [rows.epoch_key, rows.stamp_key],
        )
        own = LEASE + taken.attempt.token
        for (values, key), value in zip(leasable.items(), taken.values, strict=True):
            if value == own:
                mine[values] = key
            elif filling(value):
                busy[values] = value
    wanted = [values for values in misses if values not in busy]
    if not wanted:
        return busy
    answers = yield from _load_or_give_back(Load(index, wanted), taken, mine.values())
    for values in wanted:
        found[values] = [loaded.take() for loaded in answers[values].rows]
    if fill:
        index.counters.unfillable += sum(not index.cacheable(values) for values in wanted)
    if mine and taken is not None:
        fills = yield from _index_fills(index, mine, answers, taken.attempt, taken.versions, guesses)
        yield from _store(index, fills)
    return busy


def _index_fills(
    index: Index,
    mine: dict[Values, bytes],
    answers: dict[Values, Answer],
    attempt: Attempt,
    versions: Sequence[bytes | None],
    guesses: Guesses,
) -> Plan[list[Filling]]:
    """What to store of an index, and of the rows it leads to under leases taken only now: *late* leases.

    The rows' keys were not known before the statement ran. That no writer came in between is shown
    by the model's stamp, which writers change before they withdraw their intents.
    """
    rows = index.rows
    epoch, stamp = versions
    fills: list[Filling] = []
    if epoch is not None and is_version(epoch):
        payloads: dict[bytes, bytes] = {}
        for values in mine:
            for loaded in answers[values].rows:
                payload = row_payload(rows, loaded)
                if payload is not None:
                    payloads[rows.key(loaded.values[rows.schema.pk])] = payload
        late = yield from _take_late(rows, payloads, attempt.deadline, epoch, stamp)
        for key, (own, unchanged) in late.items():
            entry = rows.entry(own.token, epoch, payloads[key]) if unchanged else b""
            fills.append((own, key, entry, rows.lifetimes.of(VALUE)))
    for values, key in mine.items():
        entry = _index_entry(index, values, answers[values], attempt.token, epoch)
        if entry[:1] == VALUE:
            guesses.remember(key, [loaded.values[rows.schema.pk] for loaded in answers[values].rows], rows)
        fills.append((attempt, key, entry, index.lifetimes.of(entry[:1])))
    return fills


def _index_entry(index: Index, values: Values, answer: Answer, token: bytes, epoch: bytes | None) -> bytes:
    if epoch is None or not is_version(epoch):
        return b""
    unkept = index.unique and not answer.rows and not index.keeps_absence
    if unkept or not answer.exact or (index.unique and len(answer.rows) > 1):
        index.counters.unfillable += 1
        return b""
    try:
        return index.entry_of(token, epoch, [loaded.values for loaded in answer.rows])
    except EncodeError as error:
        unencodable(index.counters, index.schema.name, error)
        index.counters.unfillable += 1
        return b""


def _take_late(
    rows: Rows, payloads: dict[bytes, bytes], deadline: float, epoch: bytes, stamp: bytes | None
) -> Plan[dict[bytes, tuple[Attempt, bool]]]:
    """Leases row keys after their rows were read. Returns the leased ones: by whom, and whether to fill them."""
    late: dict[bytes, tuple[Attempt, bool]] = {}
    attempts = [(key, b"") for key in payloads]
    while attempts:
        taken: Taken = yield Take(attempts, [rows.stamp_key], deadline)
        unchanged = stamp is not None and is_version(stamp) and taken.versions[0] == stamp
        outdated: list[tuple[bytes, bytes]] = []
        for (key, replaced), value in zip(attempts, taken.values, strict=True):
            if value == LEASE + taken.attempt.token:
                late[key] = taken.attempt, unchanged
            elif not replaced and _outdated(rows, value, epoch):
                outdated.append((key, replaceable(value)))
        attempts = outdated
    return late


def _outdated(rows: Rows, entry: bytes | None, epoch: bytes) -> bool:
    """Whether an entry is in the way of a better one: stale, or of an earlier epoch or version."""
    if not entry or not replaceable(entry):
        return False
    return entry[:1] == STALE or rows.read(entry, epoch) is Nothing.MISS


# Renewal ------------------------------------------------------------------------------------------------
#
# An entry that was an answer, but is a stale copy or near its end, is filled again in the background. It is not
# leased for that, so that it goes on answering: the fill replaces just the entry that was read before the SQL,
# which no longer stands if a writer has come in between, or anybody else. One reader is elected, by a lease on
# a key beside it; if that reader dies the lease ends by itself.

ELECTION: Final = b":!"
"""What the key of such a lease has behind the entry's own. No value's encoding begins like this."""

_ALWAYS: Final = b"\xff" * 8
_created: Callable[[Any], bytes] = itemgetter(CREATED)


class Renewable(Protocol):
    """What has entries to be filled again: rows, an index, a result."""

    counters: Counters
    lifetimes: Lifetimes


Renewing = Callable[[Taken, Attempt], Plan[list[Filling]]]
"""Asks again for what an entry is to hold, with the election and the attempt at that entry: what to store."""


def renewed(
    source: Renewable,
    key: bytes,
    entry: bytes,
    versions: Sequence[bytes],
    again: Renewing,
    ttl: float | None = None,
) -> Spawn:
    """The request to fill again an entry that was an answer. ``versions``: what ``again`` finds in ``Taken``.

    ``ttl``: how long that may take, in seconds, if not as long as usual.
    """
    if entry[:1] == STALE:
        source.counters.stale += 1
    return Spawn(
        key,
        _renew(source, key, entry, Take([(key + ELECTION, b"")], list(versions), None, ttl), again),
        source.counters,
    )


def _renew(source: Renewable, key: bytes, entry: bytes, take: Take, again: Renewing) -> Plan[bool]:
    taken: Taken = yield take
    election = (taken.attempt, key + ELECTION, b"", 1)
    if taken.values[0] != LEASE + taken.attempt.token:
        return False
    try:
        fills = yield from again(taken, taken.attempt._replace(held=entry[:PREFIX_SIZE]))
    except Exception:
        yield Store([election])
        raise
    stored = yield Store([*fills, election])
    for (attempt, _, value, _), accepted in zip(fills, stored, strict=False):
        source.counters.refreshed += bool(accepted and value and attempt.held)
        source.counters.refused += bool(value and not accepted)
    return True


def _renewed_row(rows: Rows, pk: Any, entry: bytes) -> Spawn:
    key = rows.key(pk)
    return renewed(rows, key, entry, [rows.epoch_key], partial(_row_again, rows, pk, key))


def _row_again(rows: Rows, pk: Any, key: bytes, taken: Taken, attempt: Attempt) -> Plan[list[Filling]]:
    answers: dict[Values, Answer] = yield Load(rows, [(pk,)])
    entry = _row_entry(rows, answers[(pk,)], attempt.token, taken.versions[0])
    return [(attempt, key, entry, rows.lifetimes.of(entry[:1]))]


def _renew_rows(rows: Rows, read: Mapping[Any, bytes | None]) -> Plan[None]:
    """Has those of the rows, which were all answers, filled again that are due."""
    for pk, entry in read.items():
        if entry is not None and rows.lifetimes.is_due(entry):
            yield _renewed_row(rows, pk, entry)


def _renewed_index(index: Index, values: Values, key: bytes, entry: bytes, guesses: Guesses) -> Spawn:
    versions = [index.rows.epoch_key, index.rows.stamp_key]
    return renewed(index, key, entry, versions, partial(_index_again, index, values, key, guesses))


def _index_again(
    index: Index, values: Values, key: bytes, guesses: Guesses, taken: Taken, attempt: Attempt
) -> Plan[list[Filling]]:
    answers: dict[Values, Answer] = yield Load(index, [values])
    return (yield from _index_fills(index, {values: key}, answers, attempt, taken.versions, guesses))


# Shared ------------------------------------------------------------------------------------------------


def wait(keys: Iterable[bytes], standing: Iterable[bytes | None], longest: float | None = None) -> Plan[None]:
    """Waits for the keys that are leased; those that were filled meanwhile need no waiting."""
    leased = [key for key, entry in zip(keys, standing, strict=True) if is_lease(entry)]
    if leased:
        yield Wait(leased, longest)


def ahead_of(plan: Plan[T], read: dict[bytes, bytes | None], outdated: Callable[[], object] = lambda: None) -> Plan[T]:
    """Runs a plan whose reads are answered by what was read before it began, each value once.

    ``outdated`` is called when the plan has to wait for something newer.
    """
    step: Callable[[], Request] = partial(plan.send, None)
    while True:
        try:
            request = step()
        except StopIteration as stop:
            return cast("T", stop.value)
        if type(request) is Read and all(key in read for key in request.keys):
            step = partial(plan.send, [read.pop(key) for key in request.keys])
            continue
        if type(request) is not Spawn:
            outdated()
        try:
            answer = yield request
        except Exception as error:
            step = partial(plan.throw, error)
        else:
            step = partial(plan.send, answer)


def _load_or_give_back(load: Load, taken: Taken | None, leased: Iterable[bytes]) -> Plan[dict[Values, Answer]]:
    """Asks the database; if it fails, the leases are given back at once instead of expiring."""
    try:
        answers: dict[Values, Answer] = yield load
    except Exception:
        if taken is not None:
            yield Store([(taken.attempt, key, b"", 1) for key in leased])
        raise
    return answers


def _store(source: Rows | Index, fills: list[Filling]) -> Plan[None]:
    stored = yield Store(fills)
    counters = source.counters
    for (_, _, entry, _), accepted in zip(fills, stored, strict=True):
        if entry:
            if accepted:
                counters.fills += 1
            else:
                counters.refused += 1


def replaceable(entry: bytes | None) -> bytes:
    """How an unusable entry begins, if a lease may replace it; else nothing (leases and intents stay)."""
    if not entry or is_lease(entry) or is_intent(entry):
        return b""
    return entry[:PREFIX_SIZE]


def filling(entry: bytes | None) -> bool:
    """Whether the key is leased by somebody, or was filled just now."""
    return entry is not None and (is_lease(entry) or entry[:1] in (VALUE, ABSENT, STALE))


def values_of(row: Any) -> Row:
    """The column values of a row, whether it was read from the cache or from the database."""
    return cast("Row", row if isinstance(row, dict) else vars(row))
