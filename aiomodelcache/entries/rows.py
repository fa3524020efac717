"""Entries of rows: one for each primary key.

Turns primary keys into keys and bytes into column values. Pure except for counting: sends no requests.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

from aiomodelcache.encoding.keys import KeySpace
from aiomodelcache.encoding.layout import (
    ABSENT,
    CREATED,
    GUARD,
    PAYLOAD,
    STALE,
    VALUE,
    pack_entry,
    unpack_entry,
)
from aiomodelcache.encoding.native import rows_decoder
from aiomodelcache.encoding.partitions import partitions_of
from aiomodelcache.encoding.rows import SharedRow
from aiomodelcache.entries.base import (
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
from aiomodelcache.entries.decoded import NOTHING_DECODED, Kept
from aiomodelcache.entries.policy import Lifetimes, Policy
from aiomodelcache.entries.shapes import StoredShapes
from aiomodelcache.observe.stats import Counters
from aiomodelcache.orm.meta import RowValues, Values, mark_stale
from aiomodelcache.orm.remembered import impossible_keys
from aiomodelcache.orm.schema import ModelSchema
from aiomodelcache.orm.stored_values import StoredRows
from aiomodelcache.orm.unchanged_rows import UnchangedRows


class RowEntries(KeyedEntries):
    """The row entries of one model: each row is cached once, by its primary key."""

    unique = True
    exact = True
    """True: the absence of a row is an entry of its own, which the row's writer invalidates."""
    near = False
    """True if entries may be kept in this process."""
    decoded = NOTHING_DECODED
    """The entries that the cache keeps decoded."""
    stored: StoredRows | None = None
    """The rows as the database returns them after a write, if writers may store them; else None."""
    unchanged: UnchangedRows | None = None
    """The comparison of rows with instances, if saves that change nothing keep the entries; else None."""
    shapes: StoredShapes | None = None
    """The columns of entries of other releases, if they may answer (``adopt_rows``); else None."""
    table_key: bytes | None = None
    """The key of the table's version, or None if nothing is derived from queries of the table."""
    narrow_key: bytes | None = None
    """The key of the version that writes of the columns in ``queries_ignore`` alone leave as it is."""
    link_keys: Sequence[bytes] = ()
    """The keys of the versions of through tables that link these rows."""
    relayed = False
    """True if writes by other programs are seen within ``relay_lag``, or the entries are not used."""
    queries_ignore: frozenset[str] = frozenset()
    """The attributes whose writes alone leave the narrow version as it is."""

    def __init__(
        self,
        schema: ModelSchema,
        *,
        connection: str,
        space: KeySpace,
        version: object,
        lifetimes: Lifetimes,
        policy: Policy,
        caches_any_absence: bool,
        counters: Counters,
        replicated: bool = False,
    ) -> None:
        self.schema = schema
        self.version = version
        self.policy = policy
        self._decode = schema.codec.decode_unsafely
        self._pk = schema.pk
        self._loaded = schema.loaded
        self._attributes = {**schema.loaded, "_await_when_save": None}
        """The attributes of an instance beside columns."""
        self._decode_rows = rows_decoder(schema.codec.columns, self._attributes)
        self._decode_new = self._decoded_now if self._decode_rows is None else self._decoded_by_extension
        self._epoch: bytes | None = None
        self._guard = b""
        """The fingerprint and epoch of current entries, for the epoch in ``_epoch``. No other rows hold this object."""
        self.rows = self
        self.replicated = replicated
        """True if misses may be read from a replica. Then writes stay marked for as long as the replica may lag."""
        self.fields = self.attributes = (schema.pk,)
        self.order_by: tuple[str, ...] = ()
        self.limit: int | None = None
        self.prefix = space.prefix("r", connection, schema.table)
        self.partitions = partitions_of(space, connection, schema.table)
        self.epoch_of = self.partitions.epoch_of
        self.epoch_key = None if self.partitions.divided else self.partitions.epochs[0]
        """The key of the only epoch, or None if the rows are divided."""
        self._encode = self.partitions.encode_single
        self.spans_tenants = space.tenant == b""
        self.fingerprint = fingerprint("row", schema.fingerprint, version)
        self.lifetimes = lifetimes
        self._caches_any_absence = caches_any_absence
        self.compares_by_value = schema.compares_like_keys(self.attributes)
        """True if ``==`` tells primary keys apart as the database does. Else their cache keys are compared."""
        self.counters = counters
        self.linked: list[RowEntries] = []
        """The rows of models that many-to-many lists by this model's primary key contain."""

    @property
    def version_keys(self) -> list[bytes]:
        """The keys of all versions of the table."""
        return [key for key in (self.table_key, self.narrow_key) if key is not None]

    def key(self, pk: Any) -> bytes:
        """Returns the key of the row with this (normalised) primary key."""
        return self.prefix + self._encode(pk if type(pk) is int else self.schema.key_value(self._pk, pk))

    key_of_one = key

    def key_of(self, values: Values) -> bytes:
        """Returns the key of the row that a lookup by primary key names with these values."""
        return self.key(values[0])

    def impossible(self, wanted: Mapping[bytes, Values]) -> list[bytes]:
        """Returns the keys of rows that cannot exist, so that no statement need look for them."""
        return impossible_keys(self.schema, self.attributes, wanted)

    def hit(self, entry: bytes | None, epoch: bytes | None, pk: Any) -> RowValues | None:
        """Returns the row if the bytes are a current entry of it that is not due, else None.

        The row has the attributes ``ModelSchema.loaded``, too. ``read`` tells the other cases apart. Every hit takes
        this path, so its steps are written out.
        """
        if entry is None or epoch is None:
            return None
        if epoch is not self._epoch:
            if epoch != self._epoch:
                self._guard = self.fingerprint + epoch[1:]
            self._epoch = epoch
        decoded = self.decoded
        kept = decoded.find(entry)
        row: RowValues
        try:
            if kept is None or kept.guard is not self._guard:
                decoded_now = self._decode_new(entry)
                if decoded_now is None:
                    return None
                row = decoded_now
            elif kept.created <= self.lifetimes.due:
                return None
            else:
                row = kept.content.copy()
                kept.used = True
                decoded.counters.hits += 1
            is_row = row[self._pk] == pk if self.compares_by_value else self.is_row(row, pk)
            return row if is_row else None
        except Exception:  # damaged, or hostile
            return None

    def _guard_of(self, epoch: bytes) -> bytes:
        """Returns the fingerprint and epoch of current entries, the same object while the epoch stays."""
        if epoch is not self._epoch:
            if epoch != self._epoch:
                self._guard = self.fingerprint + epoch[1:]
            self._epoch = epoch
        return self._guard

    def _decoded_now(self, entry: bytes) -> RowValues | None:
        """Returns the row of an entry that is not kept, or None if it is not current, or is due.

        Raises an exception for damaged bytes.
        """
        if entry[GUARD] != self._guard or entry[0] != VALUE_BYTE or entry[CREATED] <= self.lifetimes.due:
            return None
        payload = unpack_entry(entry)
        row = self._decode(payload)
        row.update(self._loaded)
        if self.decoded.to_keep(entry):
            self._keep(entry, payload)
        return row

    def hits(
        self, found: Mapping[bytes, bytes | None], keys: Iterable[bytes], epoch: bytes | None, pks: Iterable[Any]
    ) -> list[RowValues] | None:
        """Returns the rows under these keys as ``hit`` does, at less cost for each, or None if one of them is no hit.

        ``found``: what was read, by key. ``epoch``: that of the rows, unless their keys are divided.
        """
        decoded = self.decoded
        if epoch is None:
            return None
        guard, due = self._guard_of(epoch), self.lifetimes.due
        name, by_value = self._pk, self.compares_by_value
        rows: list[RowValues] = []
        number = 0
        try:
            entries = list(map(found.get, keys))
            all_kept = list(map(decoded.find, entries))
            new: Any = None if all(all_kept) else self._decoded_together(entries, all_kept)
            for kept, pk in zip(all_kept, pks, strict=True):
                if kept is None:
                    row = next(new)
                    if row is None:
                        return None
                elif kept.guard is not guard:
                    row = self._decoded_now(kept.entry)
                    if row is None:
                        return None
                elif kept.created <= due:
                    return None
                else:
                    row = kept.content.copy()
                    kept.used = True
                    number += 1
                if not (row[name] == pk if by_value else self.is_row(row, pk)):
                    return None
                rows.append(row)
        except Exception:  # a user's own class
            return None
        decoded.counters.hits += number
        return rows

    def _decoded_by_extension(self, entry: bytes) -> RowValues | None:
        rows = self._decode_by_extension([entry])
        return self._decoded_now(entry) if rows is None else rows[0]

    def _decode_by_extension(self, entries: list[bytes]) -> list[RowValues] | None:
        rows = None if self._decode_rows is None else self._decode_rows(entries, self._guard, self.lifetimes.due)
        if rows is not None:
            for entry in filter(self.decoded.to_keep, entries):
                self._keep(entry, entry[PAYLOAD])
        return rows

    def _decoded_together(
        self, entries: Sequence[bytes | None], all_kept: Sequence[Kept | None]
    ) -> Iterator[RowValues | None]:
        """Returns the rows of the entries that are not kept, as ``_decoded_now`` does, in order."""
        missing = [entry for entry, kept in zip(entries, all_kept, strict=True) if kept is None]
        if None in missing:
            return iter((None,))
        current = cast("list[bytes]", missing)
        rows = self._decode_by_extension(current)
        return map(self._decoded_now, current) if rows is None else iter(rows)

    def _columns_of(self, shared: SharedRow) -> RowValues:
        row = shared.copy()
        for name in self._attributes:
            del row[name]
        return row

    def _keep(self, entry: bytes, payload: bytes) -> None:
        """Keeps a row decoded, with room for all attributes of an instance. Does not raise."""
        with suppress(Exception):
            row = self.schema.codec.decode_shared(payload)
            row.add(self._attributes)
            self.decoded.keep(entry, entry, self, self._guard, row, row.size)

    def same_pks(self, pks: list[Any], others: list[Any]) -> bool:
        """Returns True if both lists have the same primary keys, in the same order."""
        return pks == others if self.compares_by_value else list(map(self.key, pks)) == list(map(self.key, others))

    def read(self, entry: bytes | None, epoch: bytes | None) -> RowValues | Absent | Miss:
        """Returns the row that an entry holds, an absence, or a miss if the bytes are no current entry."""
        if entry is None or epoch is None:
            return NoValue.MISS
        guard = self._guard_of(epoch)
        if entry[GUARD] != guard:
            adopted = None if self.shapes is None else self.shapes.answer(entry, epoch)
            if adopted is None:
                return count_unusable(self.counters, self.schema.name, entry, self.fingerprint)
            self.counters.adopted += 1
            return adopted
        try:
            kept = self.decoded.find(entry)
            if kept is not None and kept.guard is guard:
                kept.used = True
                self.decoded.counters.hits += 1
                return self._columns_of(kept.content)
            state, payload = entry[:1], unpack_entry(entry)
            if state == STALE:
                state, payload = self.policy.unwrap_copy(payload)
            if state == VALUE:
                row = self.schema.codec.decode(payload)
                if entry[:1] == STALE:
                    mark_stale(row)
                elif self.decoded.to_keep(entry):
                    self._keep(entry, payload)
                return row
        except Exception as error:  # also of a user's own field
            return count_undecodable(self.counters, self.schema.name, error)
        return NoValue.ABSENT if state == ABSENT else NoValue.MISS

    def is_row(self, row: RowValues, pk: Any) -> bool:
        """Returns True if a row that an entry holds has this primary key. Does not raise, whatever the row holds."""
        try:
            own = row[self._pk]
            return bool(own == pk) if self.compares_by_value else self.key(own) == self.key(pk)
        except Exception:  # a decimal that signals, a user's own class
            return False

    def check_keys(self, pks: Iterable[Any]) -> None:
        """Raises an exception if one of the primary keys that an entry lists cannot be the key of a row."""
        if not self.schema.pks_codec.trusts_types:
            for pk in pks:
                self.key(pk)

    def entry(self, token: bytes, epoch: bytes, payload: bytes | None) -> bytes:
        """Returns the entry of a row, or of its absence if ``payload`` is None."""
        guard = self.fingerprint + epoch[1:]
        if payload is None:
            return pack_entry(ABSENT, token, guard, now_ms())
        return pack_entry(VALUE, token, guard, now_ms(), payload)
