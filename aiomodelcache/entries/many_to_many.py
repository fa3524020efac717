"""Entries of many-to-many lists: the rows at the other end of a many-to-many relation.

``ManyToManyEntries`` is an index whose values are in another table than its rows. A row cannot tell whether it is still
linked, so every write that links or unlinks invalidates the list's key. ``plans`` treats it like other indexes.
"""

import hashlib
from collections.abc import Sequence
from typing import Any, Final

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.expressions import F, Q
from tortoise.queryset import QuerySet

from aiomodelcache.encoding import keys
from aiomodelcache.encoding.codec import EncodeError
from aiomodelcache.encoding.layout import VALUE, pack
from aiomodelcache.entries.base import fingerprint, now_ms
from aiomodelcache.entries.indexes import IndexEntries
from aiomodelcache.entries.policy import Lifetimes, Policy
from aiomodelcache.entries.rows import RowEntries
from aiomodelcache.observe.stats import Counters
from aiomodelcache.orm.meta import RowValues, Values, ordering_attributes
from aiomodelcache.orm.relations import ManyToMany
from aiomodelcache.orm.schema import ModelSchema

OWNER: Final = "_aiomodelcache_owner"
"""What a statement calls the primary key of the row that a related row was found for."""
_DIGEST: Final = 8


class ManyToManyEntries(IndexEntries):
    """The rows that a many-to-many relation of ``owner`` leads to, by the owner's primary key."""

    def __init__(
        self,
        owner: ModelSchema,
        relation: ManyToMany,
        rows: RowEntries,
        *,
        namespace: str,
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
        self.schema = schema
        self.fields = (relation.name,)
        self.attributes = (OWNER,)
        self.unique = False
        self.order_by = order_by or schema.ordering
        self.limit = limit
        self.watched = frozenset[str]()
        self.ordering = ordering_attributes(schema.model, self.order_by)
        shape = [",".join(order_by) + (f"[{limit}]" if limit is not None else "")] if order_by or limit else []
        self.prefix = keys.prefix(namespace, "m", owner.connection, relation.table, relation.own_column, *shape)
        self.fingerprint = fingerprint("through", schema.fingerprint, owner.fingerprint, version)
        self.lifetimes = lifetimes
        self.policy = policy
        self.uses_loose_collation = owner.uses_loose_collation((owner.pk,))
        self.caches_absence = True
        self.counters = counters
        self.decode = self._decode

    def key(self, values: Values) -> bytes:
        """The key of the list of the row with this (normalised) primary key."""
        return self.prefix + keys.encode((self.owner.key_value(self.owner.pk, values[0]),))

    def select(self, client: BaseDBAsyncClient, wanted: Sequence[Values]) -> QuerySet[Any]:
        """The rows for each of these owners, as the related model's own manager shows them."""
        relation = self.relation
        conditions: dict[str, Any] = {f"{relation.reverse}__in": [pk for (pk,) in wanted]}
        owner: Any = F(f"{relation.reverse}__{self.owner.pk}")
        return self.schema.queryset(client).filter(Q(**conditions)).annotate(**{OWNER: owner})

    def owner_of(self, values: RowValues) -> Values:
        """Whom a row from such a statement was found for."""
        return (self.owner_value(values[OWNER]),)

    def owner_value(self, pk: Any) -> Any:
        """An owner's primary key as its instances hold it. Raises ``ValueError``."""
        return self.owner.normalise(self.owner.pk, pk)

    def entry_of(self, token: bytes, epoch: bytes, rows: Sequence[RowValues]) -> bytes:
        """The entry that lists these rows, and by what they were ordered."""
        payload = self._digest(rows) + self.schema.pks_codec.encode([row[self.schema.pk] for row in rows])
        return pack(VALUE, token, self.fingerprint + epoch[1:], now_ms(), payload)

    def _decode(self, payload: bytes) -> "Listed":
        return Listed(self.schema.pks_codec.decode(payload[_DIGEST:]), payload[:_DIGEST])

    def answers(self, row: Any, pk: Any, values: Values) -> bool:
        """Never by a single row: what the list is worth is told by all of them."""
        return False

    def confirms(self, pks: Any, rows: Sequence[RowValues], values: Values) -> bool:
        """Whether the rows are still ordered by what they were."""
        return bool(pks.digest == self._digest(rows))

    def _digest(self, rows: Sequence[RowValues]) -> bytes:
        """What the order of these rows depends on. Raises ``EncodeError``."""
        key_value = self.schema.key_value
        try:
            each = [keys.encode_value(key_value(name, row[name])) for row in rows for name in self.ordering]
        except TypeError as error:
            raise EncodeError(f"it is ordered by what has no equality: {error}") from error
        return hashlib.blake2b(b":".join(each), digest_size=_DIGEST).digest()


class Listed(list[Any]):
    """The primary keys that an entry lists, and the digest of what they were ordered by."""

    __slots__ = ("digest",)

    def __init__(self, pks: list[Any], digest: bytes) -> None:
        super().__init__(pks)
        self.digest = digest


class ThroughModelDependency:
    """What a model of the table of links, if there is one, has to think of when a row of it is written.

    ``schema`` is that model's, ``attributes`` the column that holds the owner.
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
        """The key of the list that a link belongs to."""
        return self.through.key((self.through.owner_value(values[0]),))
