"""Entries of many-to-many lists: the rows at the other end of a many-to-many relation.

``ManyToManyEntries`` is an index whose values are in another table than its rows. A row does not show whether it is
still linked, so every write that links or unlinks rows invalidates the list's key. ``plans`` treats these lists like
other indexes.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.expressions import F, Q
from tortoise.queryset import QuerySet

from aiomodelcache.encoding import keys
from aiomodelcache.encoding.codec import EncodeError
from aiomodelcache.encoding.keys import KeySpace
from aiomodelcache.encoding.layout import VALUE, pack_entry
from aiomodelcache.encoding.messages import safe_cause
from aiomodelcache.entries.base import fingerprint, now_ms
from aiomodelcache.entries.indexes import IndexEntries
from aiomodelcache.entries.policy import Lifetimes, Policy
from aiomodelcache.entries.rows import RowEntries
from aiomodelcache.observe.stats import Counters
from aiomodelcache.orm.meta import RowValues, Values, ordering_attributes
from aiomodelcache.orm.relations import ManyToMany
from aiomodelcache.orm.remembered import impossible_keys
from aiomodelcache.orm.schema import ModelSchema

OWNER: Final = "_aiomodelcache_owner"
"""The annotation with the owner's primary key on each related row that a statement returns."""
_DIGEST_SIZE: Final = 8


class ManyToManyEntries(IndexEntries):
    """The lists of one many-to-many relation of ``owner``: related rows by the owner's primary key."""

    def __init__(
        self,
        owner: ModelSchema,
        relation: ManyToMany,
        rows: RowEntries,
        *,
        space: KeySpace,
        order_by: tuple[str, ...],
        limit: int | None,
        version: object,
        lifetimes: Lifetimes,
        policy: Policy,
        counters: Counters,
    ) -> None:
        schema = rows.schema
        self.owner = owner
        self.relation = relation
        self.rows = rows
        self.partitions = rows.partitions
        self.epoch_of = rows.epoch_of
        self.schema = schema
        self.fields = (relation.name,)
        self.attributes = (OWNER,)
        self.unique = False
        self.order_by = order_by or schema.ordering
        self.limit = limit
        self.watched = frozenset[str]()
        self.ordering = ordering_attributes(schema.model, self.order_by)
        shape = [",".join(order_by) + (f"[{limit}]" if limit is not None else "")] if order_by or limit else []
        self.prefix = space.prefix("m", owner.connection, relation.table, relation.own_column, *shape)
        self.fingerprint = fingerprint("through", schema.fingerprint, owner.fingerprint, version)
        self.lifetimes = lifetimes
        self.policy = policy
        self.compares_by_value = False
        self.counters = counters
        self.decode = self._decode

    @property
    def compares_loosely(self) -> bool:
        """True if the database may find an owner by another primary key than its own."""
        return self.owner.compares_loosely((self.owner.pk,))

    def key(self, values: Values) -> bytes:
        """Returns the key of the list of the owner with this (normalised) primary key."""
        return self.prefix + self.partitions.encode((self.owner.key_value(self.owner.pk, values[0]),))

    key_of = key

    def impossible(self, wanted: Mapping[bytes, Values]) -> list[bytes]:
        """Returns the keys of owners that cannot exist."""
        return impossible_keys(self.owner, (self.owner.pk,), wanted)

    def select(self, client: BaseDBAsyncClient, wanted: Sequence[Values]) -> QuerySet[Any]:
        """Returns the query for the related rows of these owners, as the related model's own manager shows them."""
        relation = self.relation
        conditions: dict[str, Any] = {f"{relation.reverse}__in": [pk for (pk,) in wanted]}
        owner: Any = F(f"{relation.reverse}__{self.owner.pk}")
        return self.schema.queryset(client).filter(Q(**conditions)).annotate(**{OWNER: owner})

    def owner_of(self, values: RowValues) -> Values:
        """Returns the owner's primary key, from a row that the query of ``select`` returned."""
        return (self.owner_value(values[OWNER]),)

    def owner_value(self, pk: Any) -> Any:
        """Returns an owner's primary key as its instances hold it. Raises ``ValueError`` for a bad value."""
        return self.owner.normalise(self.owner.pk, pk)

    def entry_of(self, token: bytes, epoch: bytes, rows: Sequence[RowValues]) -> bytes:
        """Returns the entry that lists these rows, with a digest of the values that they are ordered by."""
        payload = self._digest(rows) + self.schema.pks_codec.encode([row[self.schema.pk] for row in rows])
        return pack_entry(VALUE, token, self.fingerprint + epoch[1:], now_ms(), payload)

    def _decode(self, payload: bytes) -> "ListedPks":
        return ListedPks(self.schema.pks_codec.decode(payload[_DIGEST_SIZE:]), payload[:_DIGEST_SIZE])

    def answers(self, row: Any, pk: Any, values: Values) -> bool:
        """Returns False: a single row does not show whether the list is current. ``confirms`` compares all rows."""
        return False

    def confirms(self, pks: Any, rows: Sequence[RowValues], values: Values) -> bool:
        """Returns True if the rows still have the values that the list was ordered by. Does not raise."""
        try:
            return bool(pks.digest == self._digest(rows))
        except Exception:  # a row holds values that a column cannot have
            return False

    def _digest(self, rows: Sequence[RowValues]) -> bytes:
        """Returns a digest of the values that these rows are ordered by. Raises ``EncodeError``."""
        key_value = self.schema.key_value
        try:
            encoded = [keys.encode_value(key_value(name, row[name])) for row in rows for name in self.ordering]
        except TypeError as error:
            raise EncodeError("it is ordered by a column whose values have no equality") from safe_cause(error)
        return hashlib.blake2b(b":".join(encoded), digest_size=_DIGEST_SIZE).digest()


class ListedPks(list[Any]):
    """The primary keys that an entry lists, and the digest of the values that the rows were ordered by."""

    __slots__ = ("digest",)

    def __init__(self, pks: list[Any], digest: bytes) -> None:
        super().__init__(pks)
        self.digest = digest


class ThroughModelDependency:
    """A many-to-many list that depends on rows of a model of the through table.

    A write to such a row invalidates the list. ``schema`` is the through model's, ``attributes`` is the column with
    the owner's primary key.
    """

    unique = False

    def __init__(self, through: ManyToManyEntries, schema: ModelSchema, own: str, other: str) -> None:
        self.through = through
        self.schema = schema
        self.attributes = (own,)
        self.watched = frozenset((own, other))
        self.policy = through.policy
        self.counters = through.counters

    def key(self, values: Values) -> bytes:
        """Returns the key of the list that a row of the through table belongs to."""
        return self.through.key((self.through.owner_value(values[0]),))
