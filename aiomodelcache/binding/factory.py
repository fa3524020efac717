"""``EntryFactory``: creates rows, indexes, lists and results from declarations.

It decides their columns, order, lifetimes and policy. Errors name the declaration that is at fault.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from tortoise.models import Model

from aiomodelcache.backends.near import Near
from aiomodelcache.binding.class_options import returned_by_class
from aiomodelcache.config import CacheConfig
from aiomodelcache.declare.classes import COUNTING, DeclaredQuery
from aiomodelcache.declare.options import Options, codec_option
from aiomodelcache.declare.registry import label_of, path_of
from aiomodelcache.declare.resilience import resilience_of
from aiomodelcache.encoding.keys import NARROW_SUFFIX, KeySpace
from aiomodelcache.entries.base import keep_near
from aiomodelcache.entries.copies import set_resilience
from aiomodelcache.entries.derived import DerivedEntries
from aiomodelcache.entries.groups import GroupVersions
from aiomodelcache.entries.indexes import ExactListDependency, IndexEntries
from aiomodelcache.entries.many_to_many import ManyToManyEntries, ThroughModelDependency
from aiomodelcache.entries.model import ModelEntries
from aiomodelcache.entries.partitioned import PartitionedRows
from aiomodelcache.entries.policy import InvalidationType, Lifetimes, Policy
from aiomodelcache.entries.resilience import SLIDING_PART
from aiomodelcache.entries.results import ResultEntries
from aiomodelcache.entries.rows import RowEntries
from aiomodelcache.exceptions import CacheConfigurationError
from aiomodelcache.observe.stats import Stats
from aiomodelcache.orm.meta import column_attribute, is_relation
from aiomodelcache.orm.relations import ManyToMany
from aiomodelcache.orm.schema import ModelSchema
from aiomodelcache.orm.stored_values import StoredRows
from aiomodelcache.orm.unchanged_rows import UnchangedRows


class EntryFactory:
    """Creates the entries of one cache while the cache opens."""

    def __init__(
        self, config: CacheConfig, space: KeySpace, stats: Stats, models: Mapping[type[Model], ModelEntries], near: Near
    ) -> None:
        self.lifetimes: list[Lifetimes] = []
        """The lifetimes of all entries created so far."""
        self.declarations: list[type] = []
        """The cached models and the cache classes. Those with the same name are counted by their modules, too."""
        self._config = config
        self._space = space
        self._stats = stats
        self._models = models
        self._near = near

    def rows(self, schema: ModelSchema, options: Options) -> RowEntries:
        """Creates the rows of a model."""
        kind = RowEntries if self._space.partitions == 1 else PartitionedRows
        rows = kind(
            schema,
            connection=schema.connection,
            space=self._space,
            version=options.version,
            lifetimes=self._lifetimes(options),
            policy=_policy(options),
            caches_any_absence=options.negative_timeout is not None,
            counters=self._stats.of(self._label(schema.model)),
            replicated=self._config.replica_lag is not None,
        )
        rows.near = self._config.near if options.near is None else options.near
        keep_near(self._near, rows, self._space)
        self._set_write_through(rows, options)
        if options.keep_unchanged:
            rows.unchanged = UnchangedRows(schema, options.origin)
        rows.relayed = options.relay is True
        if rows.relayed and rows.policy.off:
            raise CacheConfigurationError(
                f"{options.origin}.relay has no effect with invalidation = OFF, as no write invalidates: remove one."
            )
        if options.invalidation is not InvalidationType.OFF if options.queries is None else options.queries:
            rows.table_key = self._space.table_key(schema.connection, schema.table)
            rows.queries_ignore = _ignored_columns(schema, options)
            if rows.queries_ignore:
                rows.narrow_key = rows.table_key + NARROW_SUFFIX
        return rows

    def _set_write_through(self, rows: RowEntries, options: Options) -> None:
        wanted = self._config.write_through if options.write_through is None else options.write_through
        if not wanted:
            return
        obstacle = ""
        if rows.replicated:
            obstacle = "with replica_lag, as its writers keep readers from filling a row until the replicas have it"
        elif rows.policy.off:
            obstacle = "with invalidation = OFF, as no writer marks the rows"
        elif rows.schema.hides_rows:
            obstacle = "with a manager that hides rows, as a writer does not know what that shows"
        if not obstacle:
            rows.stored = StoredRows(rows.schema)
        elif options.write_through or rows.replicated:
            origin = options.origin if options.write_through else "ModelCache"
            raise CacheConfigurationError(f"{origin}.write_through has no effect {obstacle}: remove one.")

    def groups(self, entries: ModelEntries, options: Options) -> None:
        """Creates the versions of groups of rows, if the model declares them, so that writes mark them."""
        schema, rows = entries.schema, entries.rows
        if not options.queries_by:
            return
        attributes = key_columns(schema, options.origin, "queries_by", options.queries_by)
        if schema.compares_loosely(attributes):
            raise CacheConfigurationError(
                f"{options.origin}: queries_by names ({', '.join(options.queries_by)}), whose values the database "
                "compares loosely, so that a write would not name every group that it changes: use other fields."
            )
        if rows.table_key is None:
            raise CacheConfigurationError(
                f"{options.origin}.queries_by has no effect with invalidation = OFF: set queries = True, or remove it."
            )
        columns = {schema.attribute(name) for name in schema.field_names()}
        entries.groups = GroupVersions(rows, attributes, frozenset(name for name in columns if name), self._space)
        entries.results.append(entries.groups)

    def index(
        self,
        entries: ModelEntries,
        options: Options,
        key: tuple[str, ...],
        attributes: tuple[str, ...],
        *,
        unique: bool,
    ) -> IndexEntries:
        """Creates an index of a model and registers it, so that writes to the model invalidate it."""
        schema = entries.schema
        order_by = () if unique else _order_by(schema, options)
        index = IndexEntries(
            entries.rows,
            key,
            attributes,
            connection=schema.connection,
            space=self._space,
            unique=unique,
            order_by=order_by,
            limit=None if unique else options.limit,
            version=options.version,
            lifetimes=self._lifetimes(options),
            policy=_policy(options),
            caches_any_absence=options.negative_timeout is not None,
            counters=self._stats.of(f"{self._label(schema.model)}({', '.join(key)})"),
        )
        if options.near and not entries.rows.near:
            raise CacheConfigurationError(
                f"{options.origin}.near has no effect while the rows that the entry names are not kept near: "
                f"set near = True in {schema.name}.CacheMeta, or remove it here."
            )
        index.near = entries.rows.near if options.near is None else options.near
        keep_near(self._near, index, self._space)
        entries.indexes.append(index)
        if (options.paged or not attributes) and not unique and not index.policy.off:
            index.exact = True
            entries.results.append(ExactListDependency(index))
        return index

    def many_to_many(
        self,
        owner: ModelEntries,
        relation: ManyToMany,
        options: Options,
    ) -> ManyToManyEntries:
        """Creates a many-to-many list and registers it, so that writes to the relation invalidate the list."""
        related = self._models[relation.related]
        entry_set = ManyToManyEntries(
            owner.schema,
            relation,
            related.rows,
            space=self._space,
            order_by=_order_by(related.schema, options),
            limit=options.limit,
            version=options.version,
            lifetimes=self._lifetimes(options),
            policy=Policy(),
            counters=self._stats.of(f"{self._label(owner.schema.model)}.{relation.name}"),
        )
        entry_set.near = related.rows.near and owner.rows.near
        keep_near(self._near, entry_set, self._space)
        owner.owned.append(entry_set)
        if related.rows not in owner.rows.linked:
            owner.rows.linked.append(related.rows)
        for entries in self._models.values():
            own, other = [
                column_attribute(entries.schema.model, column)
                for column in (relation.own_column, relation.other_column)
            ]
            if entries.schema.table == relation.table and own is not None and other is not None:
                entries.results.append(ThroughModelDependency(entry_set, entries.schema, own, other))
        return entry_set

    def result(
        self,
        entries: ModelEntries,
        options: Options,
        key: tuple[str, ...],
        attributes: tuple[str, ...],
        query: type[DeclaredQuery[Any]],
    ) -> ResultEntries:
        """Creates the entries of a class of computed results and registers them with the model's writers."""
        schema, policy = entries.schema, _policy(options)
        resilience = resilience_of(
            options.origin,
            stale_if_error=options.stale_if_error,
            soft_timeout=options.soft_timeout,
            sliding=options.sliding,
        )
        counted = issubclass(query, COUNTING)
        kind: type[ResultEntries] = ResultEntries if counted or policy.off else DerivedEntries
        result = kind(
            self._label(query),
            [schema.table, path_of(query), ",".join(key)],
            connection=schema.connection,
            space=self._space,
            rows=entries.rows,
            attributes=attributes,
            watched=frozenset(attributes) if counted and not schema.hides_rows else None,
            bound=self._models,
            codec=codec_option(options.origin, query.codec),
            returns=returned_by_class(query),
            version=options.version,
            lifetimes=self._lifetimes(options, SLIDING_PART if resilience.sliding else None),
            policy=policy,
            lease_ttl=self._config.compute_ttl,
            counters=self._stats.of(self._label(query)),
        )
        result.near = entries.rows.near if options.near is None else options.near
        keep_near(self._near, result, self._space)
        result.compute_for = partial(query.computing, result)
        set_resilience(result, resilience)
        entries.results.append(result)
        return result

    def _label(self, cls: type) -> str:
        return label_of(cls, self.declarations)

    def _lifetimes(self, options: Options, ahead: float | None = None) -> Lifetimes:
        config = self._config
        lifetimes = Lifetimes(
            options.timeout or config.timeout,
            options.negative_timeout or config.negative_timeout,
            config.ttl_jitter,
            config.refresh_ahead if ahead is None else ahead,
        )
        self.lifetimes.append(lifetimes)
        return lifetimes


def key_columns(schema: ModelSchema, origin: str, attribute: str, key: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the attributes behind a key's fields. Raises ``CacheConfigurationError`` for a field that cannot be one.

    A field of a key must have a column in the model's table, and the database must be able to compare its values by
    equality. A key names a field once.
    """
    columns: list[str] = []
    for name in key:
        column = schema.attribute(name)
        if column is None and is_relation(schema.model, name):
            raise CacheConfigurationError(
                f"{origin}: {attribute} names {name!r}, a relation without a column in {schema.name}'s own table; "
                "declare the key on the model at its other end."
            )
        if column is None:
            raise CacheConfigurationError(
                f"{origin}: {attribute} names {name!r}, which is not a field of {schema.name}. "
                f"Its fields: {', '.join(schema.field_names())}."
            )
        if not schema.keyable(column):
            raise CacheConfigurationError(
                f"{origin}: {attribute} names {name!r}, whose values are not single values that the database "
                "compares for equality; use another field."
            )
        if column in columns:
            raise CacheConfigurationError(f"{origin}: {attribute} names {name!r} twice in one key.")
        columns.append(column)
    return tuple(columns)


def _ignored_columns(schema: ModelSchema, options: Options) -> frozenset[str]:
    """Returns the attributes in ``queries_ignore``, and the names of their relations, which a write may use instead."""
    columns = {name: schema.attribute(name) for name in options.queries_ignore}
    for name, column in columns.items():
        if column is None:
            raise CacheConfigurationError(
                f"{options.origin}.queries_ignore names {name!r}, which is not a field of {schema.name}. "
                f"Its fields: {', '.join(schema.field_names())}."
            )
        if column == schema.pk:
            raise CacheConfigurationError(
                f"{options.origin}.queries_ignore names {name!r}, the primary key, which every query reads: remove it."
            )
    return frozenset(name for name in schema.field_names() if schema.attribute(name) in columns.values())


def _order_by(schema: ModelSchema, options: Options) -> tuple[str, ...]:
    """Returns the attributes by which a list is ordered. Raises ``CacheConfigurationError``.

    The order must not depend on other tables, because writes to other tables do not invalidate the list.
    """
    order_by: list[str] = []
    for name in options.order_by:
        field = name.removeprefix("-")
        column = schema.attribute(field)
        if column is None:
            other_table = is_relation(schema.model, field.partition("__")[0])
            raise CacheConfigurationError(
                f"{options.origin}.order_by names {name!r}, which is not a {'column' if other_table else 'field'} of "
                f"{schema.name}{' itself' if other_table else ''}. Its fields: {', '.join(schema.field_names())}."
            )
        order_by.append("-" * (field != name) + column)
    for name in () if order_by else schema.ordering:
        if schema.attribute(name.removeprefix("-")) is None:
            raise CacheConfigurationError(
                f"{options.origin}: {schema.name}.Meta.ordering names {name!r}, which is not a column of "
                f"{schema.name} itself, so that its lists cannot be kept up to date: set order_by."
            )
    return tuple(order_by)


def _policy(options: Options) -> Policy:
    if options.allowtime is not None and options.invalidation is not InvalidationType.DYNAMIC:
        raise CacheConfigurationError(
            f"{options.origin}.allowtime is for invalidation = InvalidationType.DYNAMIC: set that, or remove it."
        )
    return Policy.with_allowtime(options.invalidation, options.allowtime)
