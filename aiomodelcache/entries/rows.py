"""Row entries and index entries: their keys, what their bytes say, and the bytes to store.

``Rows`` is all rows of one model, ``Index`` one way of finding them. Pure but for counting: they turn
values into keys and bytes into values, and never ask a server. How a look-up proceeds is in ``plans``.
"""

import enum
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from operator import eq
from typing import Any, Final, Literal, Protocol

from aiomodelcache.backends.near import Near
from aiomodelcache.encoding import keys
from aiomodelcache.encoding.codec import DecodeError, EncodeError
from aiomodelcache.encoding.layout import (
    ABSENT,
    CREATED,
    EPOCH,
    FINGERPRINT,
    FINGERPRINT_SIZE,
    FORMAT_VERSION,
    GUARD,
    STALE,
    TOKEN_SIZE,
    VALUE,
    VERSION,
    DamagedEntry,
    is_intent,
    is_lease,
    pack,
    unpack,
)
from aiomodelcache.entries.policy import Lifetimes, Policy
from aiomodelcache.observe.stats import Counters
from aiomodelcache.orm.schema import ModelSchema, Values, ordering_attributes

Row = dict[str, Any]
"""A row's column values by attribute name."""


class Nothing(enum.Enum):
    """Answers that are not a value. ``None`` is a value and never stands for either."""

    MISS = "the cache does not know"
    ABSENT = "it is known that there is no such row"


Miss = Literal[Nothing.MISS]
Absent = Literal[Nothing.ABSENT]

_VALUE: Final = VALUE[0]

ANY_EPOCH: Final = bytes(TOKEN_SIZE)
"""In the header of entries that need no epoch: positive entries of a unique index are only hints."""


class Guess:
    """Where an index key pointed last time: primary keys, and the keys of these rows."""

    __slots__ = ("entry", "keys", "pks")

    def __init__(self, pks: list[Any], keys: list[bytes]) -> None:
        self.pks = pks
        self.keys = keys
        self.entry = b""
        """The last entry that was found to say so; the very same one need not be decoded again."""


class Guesses(OrderedDict[bytes, Guess]):
    """Where index keys pointed last time. A guess never decides an answer; it saves a round trip."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size

    def recall(self, key: bytes) -> Guess:
        """Where ``key`` led last time; nowhere if that is not known."""
        guess = self.get(key)
        if guess is None:
            return _NO_GUESS
        self.move_to_end(key)
        return guess

    def remember(self, key: bytes, pks: list[Any], rows: "Rows") -> None:
        """Notes where ``key`` leads now and forgets what was used least recently."""
        known = self.get(key)
        if known is None or known.pks != pks:
            self[key] = Guess(pks, [rows.key(pk) for pk in pks])
        self._used(key)

    def forget(self, key: bytes) -> None:
        """Notes that ``key`` leads nowhere now, so that no rows are read with it in vain."""
        self.pop(key, None)

    def note(self, key: bytes, guess: Guess) -> None:
        """Like ``remember``, of what leads to rows of several models."""
        self[key] = guess
        self._used(key)

    def _used(self, key: bytes) -> None:
        self.move_to_end(key)
        if len(self) > self._size:
            self.popitem(last=False)


_NO_GUESS: Final = Guess([], [])


def fingerprint(*parts: object) -> bytes:
    """What the bytes of an entry depend on, in 8 bytes: the format, the columns, the static version."""
    return hashlib.blake2b(repr((FORMAT_VERSION, parts)).encode(), digest_size=FINGERPRINT_SIZE).digest()


def now_ms() -> int:
    """The time that entries are stamped with."""
    return int(time.time() * 1000)


class Rows:
    """The rows of one model, each cached once, by primary key."""

    unique = True
    near = False
    """Whether entries may be kept in this process."""

    def __init__(
        self,
        schema: ModelSchema,
        *,
        connection: str,
        namespace: str,
        version: object,
        lifetimes: Lifetimes,
        policy: Policy,
        keeps_absence: bool,
        counters: Counters,
        replicated: bool = False,
    ) -> None:
        self.schema = schema
        self.policy = policy
        self._decode = schema.codec.decode_unsafely
        self._pk = schema.pk
        self._epoch: bytes | None = None
        self._guard = b""
        """How current entries begin after their token, while the epoch is this one."""
        self.rows = self
        self.replicated = replicated
        """Whether misses may be read from a replica, because writes stay marked for as long as it may lag."""
        self.fields = self.attributes = (schema.pk,)
        self.order_by: tuple[str, ...] = ()
        self.limit: int | None = None
        self.prefix = keys.prefix(namespace, "r", connection, schema.table)
        self.epoch_key = keys.prefix(namespace, "e", connection, schema.table)[:-1]
        self.stamp_key = keys.prefix(namespace, "s", connection, schema.table)[:-1]
        self.fingerprint = fingerprint("row", schema.fingerprint, version)
        self.lifetimes = lifetimes
        self.keeps_absence = keeps_absence
        self.loose = schema.compares_loosely(self.attributes)
        self.counters = counters
        self.linked: list[Rows] = []
        """Of models whose lists over many-to-many relations are by primary keys of this one."""

    def key(self, pk: Any) -> bytes:
        """The key of the row with this (normalised) primary key."""
        return self.prefix + keys.encode_single(pk if type(pk) is int else self.schema.key_value(self._pk, pk))

    key_of_one = key

    def key_of(self, values: Values) -> bytes:
        """The same for the values of a look-up."""
        return self.key(values[0])

    def hit(self, entry: bytes | None, epoch: bytes | None, pk: Any) -> Row | None:
        """The row, if the bytes are a current entry of this very one, and not due; ``read`` tells what else they are.

        The way of every hit, therefore written out.
        """
        if entry is None or epoch is None:
            return None
        if epoch is not self._epoch:
            self._epoch, self._guard = epoch, self.fingerprint + epoch[1:]
        if entry[GUARD] != self._guard or entry[0] != _VALUE or entry[CREATED] <= self.lifetimes.due:
            return None
        try:
            row = self._decode(unpack(entry))
        except Exception:  # damaged
            return None
        return row if row[self._pk] == pk else None

    def read(self, entry: bytes | None, epoch: bytes | None) -> Row | Absent | Miss:
        """What the bytes under a row's key say."""
        if entry is None or epoch is None:
            return Nothing.MISS
        if entry[GUARD] != self.fingerprint + epoch[1:]:
            return unusable(self.counters, self.schema.name, entry, self.fingerprint)
        try:
            state, payload = entry[:1], unpack(entry)
            if state == STALE:
                state, payload = self.policy.copied(payload)
            if state == VALUE:
                return self.schema.codec.decode(payload)
        except (DamagedEntry, DecodeError) as error:
            return undecodable(self.counters, self.schema.name, error)
        return Nothing.ABSENT if state == ABSENT else Nothing.MISS

    def entry(self, token: bytes, epoch: bytes, payload: bytes | None) -> bytes:
        """The entry of a row, or of its absence if there is no payload."""
        guard = self.fingerprint + epoch[1:]
        if payload is None:
            return pack(ABSENT, token, guard, now_ms())
        return pack(VALUE, token, guard, now_ms(), payload)


class Index:
    """One way of finding rows: by the values of some fields, in some order."""

    near = False
    """Whether entries, and the rows that they lead to, may be kept in this process."""

    def __init__(
        self,
        rows: Rows,
        fields: tuple[str, ...],
        attributes: tuple[str, ...],
        *,
        connection: str,
        namespace: str,
        unique: bool,
        order_by: tuple[str, ...],
        limit: int | None,
        version: object,
        lifetimes: Lifetimes,
        policy: Policy,
        keeps_absence: bool,
        counters: Counters,
    ) -> None:
        schema = rows.schema
        self.policy = policy
        self.rows = rows
        self.epoch_key = rows.epoch_key
        self.schema = schema
        self.fields = fields
        self.attributes = attributes
        self.unique = unique
        self.order_by = order_by
        self.limit = limit
        self.watched = frozenset(attributes) | frozenset(ordering_attributes(schema.model, order_by or schema.ordering))
        """Columns whose change may bring a row into an entry or move it there."""
        shape = [",".join(fields)]
        if not unique:
            shape.append(",".join(order_by) + (f"[{limit}]" if limit is not None else ""))
        self.prefix = keys.prefix(namespace, "i", connection, schema.table, *shape)
        self.fingerprint = fingerprint("index", schema.fingerprint, version, unique)
        self.lifetimes = lifetimes
        self.loose = schema.compares_loosely(attributes)
        self.keeps_absence = keeps_absence
        self.counters = counters
        self.decode: Callable[[bytes], list[Any]] = schema.pks_codec.decode

    def key(self, values: Values) -> bytes:
        """The key of the entry for these (normalised) values."""
        if len(values) == 1:
            return self.key_of_one(values[0])
        return self.prefix + keys.encode(map(self.schema.key_value, self.attributes, values))

    key_of = key

    def key_of_one(self, value: Any) -> bytes:
        """The same for the value of an index by one column."""
        if type(value) is not int and type(value) is not str:
            value = self.schema.key_value(self.attributes[0], value)
        return self.prefix + keys.encode_single(value)

    def read(self, entry: bytes | None, epoch: bytes | None) -> list[Any] | Absent | Miss:
        """The primary keys that the bytes under an index key list."""
        if entry is None:
            return Nothing.MISS
        state = entry[:1]
        version = ANY_EPOCH if self.unique and state != ABSENT else epoch and epoch[1:]
        if version is None:
            return Nothing.MISS
        if entry[GUARD] != self.fingerprint + version:
            return unusable(self.counters, self.schema.name, entry, self.fingerprint)
        try:
            payload = unpack(entry)
            if state == STALE:
                state, payload = self.policy.copied(payload)
            if state == VALUE:
                return self.decode(payload)
        except (DamagedEntry, DecodeError) as error:
            return undecodable(self.counters, self.schema.name, error)
        return Nothing.ABSENT if state == ABSENT else Nothing.MISS

    def hit(self, entry: bytes | None, epoch: bytes | None, guess: Guess) -> bool:
        """Whether the bytes are a current entry that lists the primary keys guessed, and not due."""
        if not entry or epoch is None or entry[0] != _VALUE or entry[CREATED] <= self.lifetimes.due:
            return False
        if not self.unique and entry[EPOCH] != epoch[1:]:
            return False
        if entry == guess.entry:
            return True
        guard = self.fingerprint + (ANY_EPOCH if self.unique else epoch[1:])
        try:
            if entry[GUARD] != guard or self.decode(unpack(entry)) != guess.pks:
                return False
        except (DamagedEntry, DecodeError):
            return False
        if guess is not _NO_GUESS:
            guess.entry = entry
        return True

    def entry(self, token: bytes, epoch: bytes, pks: Sequence[Any]) -> bytes:
        """The entry that lists these rows. Of a unique index with no row: the absence."""
        if self.unique and not pks:
            return pack(ABSENT, token, self.fingerprint + epoch[1:], now_ms())
        guard = self.fingerprint + (ANY_EPOCH if self.unique else epoch[1:])
        return pack(VALUE, token, guard, now_ms(), self.schema.pks_codec.encode(pks))

    def entry_of(self, token: bytes, epoch: bytes, rows: Sequence[Row]) -> bytes:
        """The entry that lists these rows, in this order."""
        return self.entry(token, epoch, [row[self.schema.pk] for row in rows])

    def confirms(self, pks: list[Any], rows: Sequence[Row], values: Values) -> bool:
        """Whether these rows, which an entry lists as ``pks``, are still the answer."""
        return all(self.matches(row, values) for row in rows)

    def matches(self, row: Row, values: Values) -> bool:
        """Whether the row still has the values that it was looked up by."""
        return all(map(eq, map(row.__getitem__, self.attributes), values))

    def answers(self, row: Row | Absent | Miss, pk: Any, values: Values) -> bool:
        """Whether what was read for ``pk`` is that row, and it still has the values asked for."""
        return isinstance(row, dict) and row[self.schema.pk] == pk and self.matches(row, values)

    def cacheable(self, values: Values) -> bool:
        """Whether an answer for these values may be stored.

        A unique column may hold several NULLs; lists by strings that the database compares loosely
        cannot be named by every writer that changes them.
        """
        return None not in values if self.unique else not self.loose


class Storing(Protocol):
    """What stores entries under keys that begin alike."""

    prefix: bytes
    lifetimes: Lifetimes
    near: bool


def keep_near(near: Near, source: Storing, epoch_key: bytes) -> None:
    """Says whether what a source stores is kept in this process, and for how long."""
    lives = [source.lifetimes.seconds(state) if source.near else 0.0 for state in (VALUE, ABSENT)]
    near.cover(source.prefix, *lives)
    if source.near:
        near.cover_version(epoch_key)


def unusable(counters: Counters, name: str, entry: bytes, expected: bytes) -> Miss:
    """Makes a miss of bytes that are not a current entry, and counts and logs those that should not be there."""
    if entry[:1] in (VALUE, ABSENT, STALE) and len(entry) >= GUARD.stop:
        if entry[FINGERPRINT] != expected:
            foreign(counters, name, "another version of the program or its schema wrote it")
    elif not (is_lease(entry) or is_intent(entry)):
        undecodable(counters, name, DamagedEntry("it does not begin like one"))
    return Nothing.MISS


def foreign(counters: Counters, name: str, reason: str) -> None:
    """Counts and logs a sound entry that does not belong under its key."""
    counters.foreign += 1
    counters.complain("foreign", "aiomodelcache: an entry of %s is a miss: %s", name, reason)


def undecodable(counters: Counters, name: str, error: Exception) -> Miss:
    """Counts and logs an entry that cannot be read, and makes it a miss."""
    counters.undecodable += 1
    counters.complain("undecodable", "aiomodelcache: an entry of %s cannot be read, it is a miss: %s", name, error)
    return Nothing.MISS


def unencodable(counters: Counters, name: str, error: EncodeError, what: str = "row") -> None:
    """Logs a row, or another thing, that cannot be stored."""
    counters.complain("unencodable", f"aiomodelcache: a {what} of %s cannot be stored: %s", name, error)


def is_version(value: bytes | None) -> bool:
    """Whether a version key holds a version, not writers' intents and not nothing."""
    return value is not None and value[:1] == VERSION
