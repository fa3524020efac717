"""Entries of rows: one for each primary key.

Turns primary keys into keys and bytes into column values. Pure but for counting: never asks a server.
"""

from typing import Any

from aiomodelcache.encoding import keys
from aiomodelcache.encoding.codec import DecodeError
from aiomodelcache.encoding.layout import (
    ABSENT,
    CREATED,
    GUARD,
    STALE,
    VALUE,
    DamagedEntry,
    pack,
    unpack,
)
from aiomodelcache.entries.base import (
    VALUE_BYTE,
    Absent,
    Miss,
    NoValue,
    count_undecodable,
    count_unusable,
    fingerprint,
    now_ms,
)
from aiomodelcache.entries.policy import Lifetimes, Policy
from aiomodelcache.observe.stats import Counters
from aiomodelcache.orm.meta import RowValues, Values
from aiomodelcache.orm.schema import ModelSchema


class RowEntries:
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
        caches_absence: bool,
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
        self.caches_absence = caches_absence
        self.uses_loose_collation = schema.uses_loose_collation(self.attributes)
        self.counters = counters
        self.linked: list[RowEntries] = []
        """Of models whose lists over many-to-many relations are by primary keys of this one."""

    def key(self, pk: Any) -> bytes:
        """The key of the row with this (normalised) primary key."""
        return self.prefix + keys.encode_single(pk if type(pk) is int else self.schema.key_value(self._pk, pk))

    key_of_one = key

    def key_of(self, values: Values) -> bytes:
        """The same for the values of a lookup."""
        return self.key(values[0])

    def hit(self, entry: bytes | None, epoch: bytes | None, pk: Any) -> RowValues | None:
        """The row, if the bytes are a current entry of this very one, and not due; ``read`` tells what else they are.

        The way of every hit, therefore written out.
        """
        if entry is None or epoch is None:
            return None
        if epoch is not self._epoch:
            self._epoch, self._guard = epoch, self.fingerprint + epoch[1:]
        if entry[GUARD] != self._guard or entry[0] != VALUE_BYTE or entry[CREATED] <= self.lifetimes.due:
            return None
        try:
            row = self._decode(unpack(entry))
        except Exception:  # damaged
            return None
        return row if row[self._pk] == pk else None

    def read(self, entry: bytes | None, epoch: bytes | None) -> RowValues | Absent | Miss:
        """What the bytes under a row's key say."""
        if entry is None or epoch is None:
            return NoValue.MISS
        if entry[GUARD] != self.fingerprint + epoch[1:]:
            return count_unusable(self.counters, self.schema.name, entry, self.fingerprint)
        try:
            state, payload = entry[:1], unpack(entry)
            if state == STALE:
                state, payload = self.policy.copied(payload)
            if state == VALUE:
                return self.schema.codec.decode(payload)
        except (DamagedEntry, DecodeError) as error:
            return count_undecodable(self.counters, self.schema.name, error)
        return NoValue.ABSENT if state == ABSENT else NoValue.MISS

    def entry(self, token: bytes, epoch: bytes, payload: bytes | None) -> bytes:
        """The entry of a row, or of its absence if there is no payload."""
        guard = self.fingerprint + epoch[1:]
        if payload is None:
            return pack(ABSENT, token, guard, now_ms())
        return pack(VALUE, token, guard, now_ms(), payload)
