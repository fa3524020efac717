"""Entries of indexes: the primary keys of the rows that have the values of a lookup.

Turns values into keys and bytes into primary keys. Pure except for counting: sends no requests.
"""

from collections.abc import Callable, Mapping, Sequence
from operator import eq
from typing import Any

from aiomodelcache.encoding.codec import DecodeError
from aiomodelcache.encoding.keys import KeySpace
from aiomodelcache.encoding.layout import (
    ABSENT,
    CREATED,
    EPOCH,
    GUARD,
    STALE,
    VALUE,
    pack_entry,
    unpack_entry,
)
from aiomodelcache.entries.base import (
    ANY_EPOCH,
    VALUE_BYTE,
    Absent,
    KeyedEntries,
    Miss,
    NoValue,
    count_undecodable,
    count_unusable,
    fingerprint,
    now_ms,
)
from aiomodelcache.entries.policy import Lifetimes, Policy
from aiomodelcache.entries.predictions import NO_PREDICTION, Prediction
from aiomodelcache.entries.rows import RowEntries
from aiomodelcache.observe.stats import Counters
from aiomodelcache.orm.meta import RowValues, Values, ordering_attributes
from aiomodelcache.orm.remembered import impossible_keys


class IndexEntries(KeyedEntries):
    """The entries of one index: rows by the values of its fields, in its order."""

    near = False
    """True if the index entries may be kept in this process. Then the rows that they list are kept as well."""
    exact = False
    """True if writers also invalidate the entries that a row leaves. Then a current entry lists no other rows."""

    def __init__(
        self,
        rows: RowEntries,
        fields: tuple[str, ...],
        attributes: tuple[str, ...],
        *,
        connection: str,
        space: KeySpace,
        unique: bool,
        order_by: tuple[str, ...],
        limit: int | None,
        version: object,
        lifetimes: Lifetimes,
        policy: Policy,
        caches_any_absence: bool,
        counters: Counters,
    ) -> None:
        schema = rows.schema
        self.policy = policy
        self.rows = rows
        self.partitions = rows.partitions
        self.epoch_of = rows.epoch_of
        self._encode_single = rows.partitions.encode_single
        self.schema = schema
        self.fields = fields
        self.attributes = attributes
        self.unique = unique
        self.limit = limit
        self.order_by = () if unique else order_by or schema.ordering
        self.ordering = ordering_attributes(schema.model, self.order_by)
        """The columns that the rows of an entry are ordered by, without the directions."""
        if not unique and schema.pk not in self.ordering:  # else rows with equal values could change places
            self.order_by = (*self.order_by, schema.pk)
        self.watched = frozenset((*attributes, *self.ordering))
        """The columns whose change may add a row to an entry or move it within the entry."""
        shape = [",".join(fields)]
        if not unique:
            shape.append(",".join(order_by) + (f"[{limit}]" if limit is not None else ""))
        self.prefix = space.prefix("i", connection, schema.table, *shape)
        columns = [schema.shapes.get(name) for name in dict.fromkeys((schema.pk, *attributes, *self.ordering))]
        # Other columns matter only to a manager that may hide rows by them.
        meaning = schema.fingerprint if schema.hides_rows else repr([schema.identity, *columns])
        self.fingerprint = fingerprint("index", meaning, version, unique)
        self.lifetimes = lifetimes
        self._encodable = schema.encodable_types(attributes[0]) if attributes else frozenset[type]()
        self.compares_by_value = schema.compares_like_keys(attributes)
        """True if ``==`` tells values apart as the database does. Else their cache keys are compared."""
        self._caches_any_absence = caches_any_absence
        self.counters = counters
        self.decode: Callable[[bytes], list[Any]] = schema.pks_codec.decode

    def key(self, values: Values) -> bytes:
        """Returns the key of the entry for these (normalised) values."""
        if len(values) == 1:
            return self.key_of_one(values[0])
        return self.prefix + self.partitions.encode(map(self.schema.key_value, self.attributes, values))

    key_of = key

    def key_of_one(self, value: Any) -> bytes:
        """Returns the key for a single value, of an index by one column."""
        if type(value) not in self._encodable:
            value = self.schema.key_value(self.attributes[0], value)
        return self.prefix + self._encode_single(value)

    def read(self, entry: bytes | None, epoch: bytes | None) -> list[Any] | Absent | Miss:
        """Returns the primary keys that an entry lists, an absence, or a miss if the bytes are no current entry."""
        if entry is None:
            return NoValue.MISS
        state = entry[:1]
        version = ANY_EPOCH if self.unique and state != ABSENT else epoch and epoch[1:]
        if version is None:
            return NoValue.MISS
        if entry[GUARD] != self.fingerprint + version:
            return count_unusable(self.counters, self.schema.name, entry, self.fingerprint)
        try:
            payload = unpack_entry(entry)
            if state == STALE:
                state, payload = self.policy.unwrap_copy(payload)
            if state == VALUE:
                return self._checked(self.decode(payload))
        except Exception as error:  # a primary key may be of a user's own class
            return count_undecodable(self.counters, self.schema.name, error)
        return NoValue.ABSENT if state == ABSENT else NoValue.MISS

    def _checked(self, pks: list[Any]) -> list[Any]:
        """Returns the primary keys that an entry lists. Raises an exception if they cannot be those of rows."""
        if self.unique and len(pks) != 1:
            raise DecodeError("an entry of a unique key lists one row")
        self.rows.check_keys(pks)
        return pks

    def hit(self, entry: bytes | None, epoch: bytes | None, prediction: Prediction) -> bool:
        """Returns True if the bytes are a current entry that lists the predicted primary keys and is not due."""
        if not entry or entry[0] != VALUE_BYTE or entry[CREATED] <= self.lifetimes.due:
            return False
        if not self.unique and (epoch is None or entry[EPOCH] != epoch[1:]):
            return False
        if entry == prediction.entry and prediction.index is self:
            return True
        guard = self.fingerprint + (ANY_EPOCH if self.unique else entry[EPOCH])
        try:
            if entry[GUARD] != guard or not self.rows.same_pks(self.decode(unpack_entry(entry)), prediction.pks):
                return False
        except Exception:  # damaged, or hostile
            return False
        if prediction is not NO_PREDICTION:
            prediction.entry, prediction.index = entry, self
        return True

    def entry(self, token: bytes, epoch: bytes, pks: Sequence[Any]) -> bytes:
        """Returns the entry that lists these rows, or the absence if the index is unique and there is no row."""
        if self.unique and not pks:
            return pack_entry(ABSENT, token, self.fingerprint + epoch[1:], now_ms())
        guard = self.fingerprint + (ANY_EPOCH if self.unique else epoch[1:])
        return pack_entry(VALUE, token, guard, now_ms(), self.schema.pks_codec.encode(pks))

    def entry_of(self, token: bytes, epoch: bytes, rows: Sequence[RowValues]) -> bytes:
        """Returns the entry that lists these rows, in this order."""
        return self.entry(token, epoch, [row[self.schema.pk] for row in rows])

    def confirms(self, pks: list[Any], rows: Sequence[RowValues], values: Values) -> bool:
        """Returns True if these rows, which an entry lists as ``pks``, still have the values of the lookup.

        Does not raise, whatever the rows hold.
        """
        try:
            return all(self.matches(row, values) for row in rows)
        except Exception:  # a decimal that signals, a user's own class
            return False

    def matches(self, row: RowValues, values: Values) -> bool:
        """Returns True if the row still has the values of the lookup."""
        own = map(row.__getitem__, self.attributes)
        return all(map(eq, own, values)) if self.compares_by_value else self.key(tuple(own)) == self.key(values)

    def answers(self, row: RowValues | Absent | Miss, pk: Any, values: Values) -> bool:
        """Returns True if ``row`` is the row with this primary key and still has the values of the lookup.

        Does not raise, whatever the row holds.
        """
        return isinstance(row, dict) and self.rows.is_row(row, pk) and self.confirms([pk], [row], values)

    def impossible(self, wanted: Mapping[bytes, Values]) -> list[bytes]:
        """Returns the keys of values that no row can have, so that no statement need look for them."""
        return impossible_keys(self.schema, self.attributes, wanted)

    def cacheable(self, values: Values) -> bool:
        """Returns True if an answer for these values may be stored.

        A unique column may hold several NULLs, so NULL names no single row. A list by a column with a loose
        collation is not stored either: a writer whose value is spelled differently cannot name its key.
        """
        return None not in values if self.unique else not self.compares_loosely


class ExactListDependency:
    """A list that a row also invalidates by its *old* values of the key, so that no entry lists a row that has left.

    Other lists are checked against all of their rows instead, see ``IndexEntries.confirms``. A part of a list cannot
    be: a row before that part may have left, and so moved the others.
    """

    unique = False

    def __init__(self, index: IndexEntries) -> None:
        self.index = index
        self.schema = index.schema
        self.attributes = index.attributes
        self.watched = frozenset(index.attributes)
        self.policy = index.policy
        self.counters = index.counters
        self.key = index.key
