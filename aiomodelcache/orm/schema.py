"""The cache's view of a bound model: its columns, keys, uniqueness, instances and connection.

Must not know entries, plans or Redis. A ``ModelSchema`` is built after ``Tortoise.init``, because models have no
columns before.
"""

import datetime
import uuid
from collections.abc import Callable, Collection, Iterable, Sequence
from contextvars import ContextVar, copy_context
from typing import Any, Final, cast

import tortoise.context
from tortoise.backends.base.client import BaseDBAsyncClient, TransactionalDBClient
from tortoise.context import TortoiseContext, get_current_context
from tortoise.expressions import Q
from tortoise.fields import data as data_fields
from tortoise.fields.base import Field
from tortoise.fields.relational import (
    BackwardFKRelation,
    BackwardOneToOneRelation,
    ForeignKeyFieldInstance,
)
from tortoise.models import Model
from tortoise.queryset import QuerySet

from aiomodelcache.encoding.codec import NATIVE
from aiomodelcache.encoding.messages import described, safe_cause, safe_reason
from aiomodelcache.encoding.rows import Column, KeysCodec, RowCodec
from aiomodelcache.exceptions import CacheConfigurationError, TenantError
from aiomodelcache.orm.connections import root_client, router_client
from aiomodelcache.orm.fields import column_of, converts_like_tortoise
from aiomodelcache.orm.key_values import (
    can_hold,
    compares_like_keys,
    compares_loosely,
    identity_type,
    integer_bound,
    normaliser_of,
)
from aiomodelcache.orm.meta import (
    Values,
    default_ordering,
    full_name,
    has_own_rows,
    meta_of,
)
from aiomodelcache.orm.relations import RelationInfo

_contextual: Final[ContextVar[TortoiseContext | None]] = cast("Any", tortoise.context)._current_context
"""The TortoiseContext of the current context, without the global one for contexts that have none."""


class ModelSchema:
    """The schema of one bound model. Raises ``CacheConfigurationError`` if a field cannot be cached."""

    def __init__(self, model: type[Model], client: BaseDBAsyncClient | None = None) -> None:
        meta = meta_of(model)
        self.model = model
        self.name = model.__name__
        self.client = client or router_client(model, for_write=True)
        self.connection = self.client.connection_name
        self.table = self.table_of(model)
        self.dialect = self.client.capabilities.dialect
        self.pk: str = meta.pk_attr
        self.ordering = default_ordering(model)
        fields = self._stored_fields().items()
        columns = [self._column(name, field) for name, field in fields]
        self.column_names = tuple(column.name for column in columns)
        self.columns = self.as_declared = frozenset(self.column_names)
        """The columns. Those whose real type is the declared one, as far as known, are ``as_declared``."""
        self.loose_columns = {name for name, field in fields if compares_loosely(field, self.dialect)}
        """The columns in which the database may treat different values as equal, or store another one than written:
        strings (case, accents, padding), decimals on SQLite, and columns whose real type is not the declared one.
        """
        self.codec = RowCodec(columns)
        self.pks_codec = KeysCodec(next(column for column in columns if column.name == self.pk))
        self.hides_rows = has_own_rows(model)
        """True if the model's own manager may hide rows. Then a change of any column may hide or show a row."""
        self.identity = self.pk, full_name(model) if self.hides_rows else ""
        self.shapes = {column.name: self._shape(column) for column in columns}
        self.fingerprint = repr([self.identity, *self.shapes.values()]).encode()
        """Identifies the meaning of entries. Models of one table with the same fingerprint share their entries."""
        custom_generated_pk = meta.db_pk_column not in meta.generated_db_fields
        self.loaded = {"_partial": False, "_saved_in_db": True, "_custom_generated_pk": custom_generated_pk}
        """The attributes that loaded instances have alike, beside columns."""
        converted = (data_fields.DecimalField, data_fields.DatetimeField)
        self._converted = frozenset(name for name, field in meta.fields_map.items() if isinstance(field, converted))
        """The columns that may store a value other than the one written."""
        self._custom = frozenset(name for name in self.columns if not converts_like_tortoise(meta.fields_map[name]))
        """The columns whose fields have conversions of their own."""
        self.integer_bounds = {
            name: integer_bound(str(field.get_for_dialect(self.dialect, "SQL_TYPE")), self.dialect)
            for name, field in self._stored_fields().items()
        }
        """The bounds of the integers that each column accepts. See ``key_values.integer_bound``."""
        self._opening_context = copy_context()
        self._context = get_current_context()
        connections: ContextVar[dict[str, Any]] = cast("Any", self._context).connections._storage_var
        self._connections_by_name = connections.get
        """Returns the connections of the context by name. In a transaction, one of them is the transaction's client."""
        self._normalisers: dict[str, Callable[[Any], Any]] = {}
        self.remembered: dict[Any, Any] = {}  # the statements of ``orm.remembered``

    @staticmethod
    def table_of(model: type[Model]) -> str:
        """Returns a model's table, qualified by its schema."""
        meta = meta_of(model)
        return f"{meta.schema}.{meta.db_table}" if meta.schema else str(meta.db_table)

    # Fields ------------------------------------------------------------------------------------

    def _stored_fields(self) -> dict[str, Field[Any]]:
        meta = meta_of(self.model)
        return {name: meta.fields_map[name] for name in meta.fields_db_projection}

    def _shape(self, column: Column) -> tuple[Any, ...]:
        """Returns everything that the meaning of a column's bytes depends on."""
        field, declared = meta_of(self.model).fields_map[column.name], self.declared_type(column.name)
        return column.name, type(field).__qualname__, declared, repr(column.type), column.load is not None

    def declared_type(self, attribute: str) -> str:
        """Returns the SQL type that a column was declared with."""
        return cast("str", meta_of(self.model).fields_map[attribute].get_for_dialect(self.dialect, "SQL_TYPE"))

    def attribute(self, field: str) -> str | None:
        """Returns the instance attribute of a declared field's column (``organizer`` -> ``organizer_id``).

        Returns None if the model has no such column.
        """
        meta = meta_of(self.model)
        if field == "pk":
            return self.pk
        declared = meta.fields_map.get(field)
        if isinstance(declared, ForeignKeyFieldInstance):
            return str(cast("Any", declared).source_field)
        return field if declared is not None and field in meta.fields_db_projection else None

    def field_names(self) -> list[str]:
        """Returns the names that keys may be declared by. A relation counts by its own name, not its column's."""
        meta = meta_of(self.model)
        relation_columns = {meta.fields_map[name].source_field for name in meta.fk_fields | meta.o2o_fields}
        return sorted((set(meta.fields_db_projection) - relation_columns) | meta.fk_fields | meta.o2o_fields)

    def keyable(self, attribute: str) -> bool:
        """Returns True if the column's values are single values, and the database can compare them for equality."""
        field = meta_of(self.model).fields_map[attribute]
        if field.field_type in (list, dict, set):
            return False
        return bool(field.indexable) or isinstance(field, data_fields.TextField)

    def unique(self, attributes: Collection[str]) -> bool:
        """Returns True if the database allows at most one row for each combination of these columns' values."""
        meta = meta_of(self.model)
        columns = set(attributes)
        if self.dialect == "sqlite":  # it stores decimals as text: 1.1 and 1.10 are equal, and yet may both be there
            columns -= {name for name in columns if isinstance(meta.fields_map[name], data_fields.DecimalField)}
        if any(meta.fields_map[name].unique or meta.fields_map[name].pk for name in columns):
            return True
        together = [*meta.unique_together]
        together += [
            constraint.fields
            for constraint in meta.constraints
            if type(constraint).__name__ == "UniqueConstraint" and constraint.condition is None
        ]
        return any(fields and {self.attribute(field) for field in fields} <= columns for fields in together)

    def compares_loosely(self, attributes: Iterable[str]) -> bool:
        """Returns True if one of these columns is ``loose_columns``."""
        return not self.loose_columns.isdisjoint(attributes)

    def compares_like_keys(self, attributes: Iterable[str]) -> bool:
        """Returns True if ``==`` of these columns' values agrees with the comparison of their keys."""
        fields = meta_of(self.model).fields_map
        return all(compares_like_keys(fields[name]) for name in attributes)

    def foreign_key(self, field: str) -> tuple[type[Model], str, str] | None:
        """Returns (related model, attribute with the key, field that the key refers to), or None."""
        declared = meta_of(self.model).fields_map.get(field)
        if not isinstance(declared, ForeignKeyFieldInstance):
            return None
        relation = cast("Any", declared)
        return relation.related_model, relation.source_field, relation.to_field_instance.model_field_name

    def relation(self, field: str) -> RelationInfo | None:
        """Returns a foreign key or one-to-one relation that this model declares or is the target of, or None."""
        forward = self.foreign_key(field)
        if forward is not None:
            return RelationInfo(*forward, True)
        declared = meta_of(self.model).fields_map.get(field)
        if not isinstance(declared, BackwardFKRelation):
            return None
        backward = cast("Any", declared)
        single = isinstance(declared, BackwardOneToOneRelation)
        attribute = backward.to_field_instance.model_field_name
        return RelationInfo(backward.related_model, attribute, backward.relation_field, single)

    def foreign_keys(self) -> list[str]:
        """Returns the names of the foreign keys, sorted."""
        meta = meta_of(self.model)
        return sorted(meta.fk_fields | meta.o2o_fields)

    # Values of keys ------------------------------------------------------------------------------

    def normalise(self, attribute: str, value: Any) -> Any:
        """Returns ``value`` as an instance from the database would hold it.

        Accepts every value that Tortoise accepts in a filter, and a related instance for a foreign key. Raises
        ``ValueError`` naming the model and the field if the value is not one of the field.
        """
        if value is None:
            return None
        normaliser = self._normalisers.get(attribute)
        if normaliser is None:
            normaliser = self._normalisers[attribute] = normaliser_of(
                meta_of(self.model).fields_map[attribute], self.model, self.dialect
            )
        try:
            return normaliser(value)
        except Exception as error:  # also of the value's own methods
            raise ValueError(
                f"{self.name}.{attribute} cannot be looked up by {described(value)}: {safe_reason(error)}"
            ) from safe_cause(error)

    def identity_type(self, attribute: str) -> tuple[Any, int]:
        """Returns the type whose values ``normalise`` leaves unchanged. See ``key_values.identity_type``."""
        return identity_type(meta_of(self.model).fields_map[attribute])

    def key_value(self, attribute: str, value: Any) -> Any:
        """Returns a normalised value in a form that ``keys`` can encode, such as an enum's stored value.

        A lookup's value and an equal value from a row get the same form, although asyncpg has its own UUID class. The
        value of a field with conversions of its own has the form that is sent to the database, which compares that.
        """
        if value is None or ((type(value) in NATIVE or isinstance(value, uuid.UUID)) and attribute not in self._custom):
            return value
        return meta_of(self.model).fields_map[attribute].to_db_value(value, self.model)

    def encodable_types(self, attribute: str) -> frozenset[type]:
        """Returns common types of normalised values that ``key_value`` leaves unchanged."""
        return frozenset() if attribute in self._custom else frozenset((int, str))

    def can_hold(self, attributes: Iterable[str], values: Values) -> bool:
        """Returns False if no row can have one of these normalised values, so that no statement need look for them."""
        for name, value in zip(attributes, values, strict=True):
            field, bound = meta_of(self.model).fields_map[name], self.integer_bounds[name]
            plain = name not in self._custom  # integers and text are written out, because most keys of misses are such
            if plain and type(value) is str and field.field_type is str and value.isascii() and "\0" not in value:
                continue
            fits = plain and type(value) is int and -bound <= value < bound
            if not fits and not can_hold(field, self.dialect, self.key_value(name, value), bound):
                return False
        return True

    def kept(self, attribute: str, value: Any) -> bool:
        """Returns True if a row written with this value will hold the same value.

        The database may store another one: decimals are rounded to the column's scale, and not every database keeps
        an offset from UTC.
        """
        if value is None or attribute not in self._converted:
            return True
        field: Any = meta_of(self.model).fields_map[attribute]
        try:
            stored: Any = field.to_python_value(value)
            same = bool(stored == value)
        except (ValueError, TypeError, ArithmeticError):
            return False
        return same and (not isinstance(value, datetime.datetime) or stored.utcoffset() == value.utcoffset())

    # Instances -------------------------------------------------------------------------------------

    def instance(self, values: dict[str, Any]) -> Model:
        """Returns an instance as if loaded from the database; ``values`` becomes its ``__dict__``."""
        values.update(self.loaded)
        values["_await_when_save"] = {}
        instance = object.__new__(self.model)
        object.__setattr__(instance, "__dict__", values)
        return instance

    def _column(self, name: str, field: Field[Any]) -> Column:
        column = column_of(name, field, self.model, self.client)
        if column is None:
            raise CacheConfigurationError(
                f"{self.name}.{name} ({type(field).__name__}, values of {field.field_type!r}) cannot be stored in "
                "the cache: give the field's class to_db_value and to_python_value methods that convert to and "
                "from a number, text or bytes, or do not cache this model."
            )
        return column

    def codec_of(self, names: Iterable[str]) -> RowCodec:
        """Returns the codec of these columns alone, for partial instances. Raises ``KeyError`` for another name."""
        fields = self._stored_fields()
        return RowCodec([self._column(name, fields[name]) for name in names])

    # The database ----------------------------------------------------------------------------------

    def queryset(self, client: BaseDBAsyncClient) -> QuerySet[Any]:
        """Returns a query for the model's rows as its own manager shows them, which may hide rows."""
        rows: QuerySet[Any] = meta_of(self.model).manager.get_queryset().using_db(client)
        return rows

    def replica(self) -> BaseDBAsyncClient:
        """Returns the connection that a router names for a read of the model now. It may differ on each call."""
        return root_client(self._opening_context.run(cast("Any", self.model)._choose_db))

    def having(self, attributes: Sequence[str], values: Values) -> Q:
        """Returns the condition that a row has these values. No row meets it if no row can have them."""
        if self.can_hold(attributes, values):
            return self.matching(attributes, [values])
        return _condition({f"{self.pk}__in": []})

    def matching(self, attributes: Sequence[str], wanted: Sequence[Values]) -> Q:
        """Returns the condition that a row has one of the ``wanted`` combinations of values."""
        if len(attributes) == 1 and len(wanted) > 1:
            name = attributes[0]
            in_values = _condition({f"{name}__in": [value for (value,) in wanted if value is not None]})
            return in_values | _condition({f"{name}__isnull": True}) if (None,) in wanted else in_values
        terms = [_condition(dict(zip(attributes, values, strict=True))) for values in wanted]
        while len(terms) > 1:  # in groups of 8, because every term of one OR nests one level deeper
            terms = [Q(*terms[at : at + 8], join_type="OR") for at in range(0, len(terms), 8)]
        return terms[0]

    def transaction(self) -> TransactionalDBClient | None:
        """Returns the open transaction that a query of this model would run in now, or None.

        Raises ``TenantError`` in another ``TortoiseContext``, where the model's rows are in another database.
        """
        if _contextual.get() is not self._context and (get_current_context() or self._context) is not self._context:
            raise TenantError(
                f"{self.name} is looked up in another TortoiseContext than the one that its cache was opened in: pass "
                "ModelCache(tenant=...) a function whose result tells them apart."
            )
        client = self._connections_by_name().get(self.connection)
        if client is self.client or not isinstance(client, TransactionalDBClient):
            return None
        if not cast("Any", client)._finalized:
            return client
        # A transaction that is committed by hand holds the lock of SQLite's only connection until its block ends. A
        # query that waits for this lock inside the block would wait forever. If another task's transaction has begun,
        # the block has ended, and the query can wait for the end of that transaction.
        lock = getattr(cast("Any", client)._parent, "_lock", None)
        if lock is None or not lock.locked() or getattr(cast("Any", client)._connection, "in_transaction", True):
            return None
        return client


def _condition(conditions: dict[str, Any]) -> Q:
    return Q(**conditions)
