"""What a bound model looks like to the cache: its columns, keys, uniqueness, instances and connection.

Knows nothing of entries, plans or Redis. A ``ModelSchema`` is made after ``Tortoise.init``: before that, models have
no columns yet.
"""

import datetime
import uuid
from collections.abc import Callable, Collection, Iterable, Sequence
from contextvars import ContextVar, copy_context
from functools import cached_property, partial
from typing import Any, cast

from tortoise.backends.base.client import BaseDBAsyncClient, TransactionalDBClient
from tortoise.context import get_current_context
from tortoise.exceptions import ValidationError
from tortoise.expressions import Q
from tortoise.fields import data as data_fields
from tortoise.fields.base import Field
from tortoise.fields.relational import (
    BackwardFKRelation,
    BackwardOneToOneRelation,
    ForeignKeyFieldInstance,
    ReverseRelation,
)
from tortoise.manager import Manager
from tortoise.models import Model
from tortoise.queryset import QuerySet

from aiomodelcache.encoding.codec import NATIVE
from aiomodelcache.encoding.rows import Column, KeysCodec, RowCodec
from aiomodelcache.exceptions import CacheConfigurationError
from aiomodelcache.orm.connections import root_client
from aiomodelcache.orm.fields import (
    EXACT,
    as_mysql_returns,
    column_of,
    converts_like_tortoise,
    has_canonical_text,
    is_enum,
    normalise,
)
from aiomodelcache.orm.meta import Values, is_partial, meta_of
from aiomodelcache.orm.relations import RelationInfo


class ModelSchema:
    """One bound model. Raises ``CacheConfigurationError`` if a field cannot be cached."""

    def __init__(self, model: type[Model]) -> None:
        meta = meta_of(model)
        self.model = model
        self.name = model.__name__
        self.client = root_client(cast("Any", model)._choose_db(True))
        self.connection = self.client.connection_name
        self.table = self.table_of(model)
        self.dialect = self.client.capabilities.dialect
        self.pk: str = meta.pk_attr
        self.ordering: tuple[str, ...] = tuple(name for name, _ in meta._default_ordering)
        columns = [self._column(name, field) for name, field in self._stored_fields().items()]
        self.columns = frozenset(column.name for column in columns)
        self.codec = RowCodec(columns)
        self.pks_codec = KeysCodec(next(column for column in columns if column.name == self.pk))
        self.fingerprint = repr([self._shape(column) for column in columns]).encode()
        self.hides_rows = meta.manager.__class__.get_queryset is not cast("Any", Manager).get_queryset
        """Whether the model's own manager may show some rows only. Then any column may decide about it."""
        self._custom_generated_pk: bool = meta.db_pk_column not in meta.generated_db_fields
        converted = (data_fields.DecimalField, data_fields.DatetimeField)
        self._converted = frozenset(name for name, each in meta.fields_map.items() if isinstance(each, converted))
        """Columns that may hold another value than they were given."""
        self._outside = copy_context()
        self._normalisers: dict[str, Callable[[Any], Any]] = {}

    @staticmethod
    def table_of(model: type[Model]) -> str:
        """A model's table, qualified by its schema."""
        meta = meta_of(model)
        return f"{meta.schema}.{meta.db_table}" if meta.schema else str(meta.db_table)

    # Fields ------------------------------------------------------------------------------------

    def _stored_fields(self) -> dict[str, Field[Any]]:
        meta = meta_of(self.model)
        return {name: meta.fields_map[name] for name in meta.fields_db_projection}

    def _shape(self, column: Column) -> tuple[Any, ...]:
        """What the meaning of a column's bytes depends on."""
        field = meta_of(self.model).fields_map[column.name]
        declared = field.get_for_dialect(self.dialect, "SQL_TYPE")
        return column.name, type(field).__qualname__, declared, repr(column.type), column.load is not None

    def attribute(self, field: str) -> str | None:
        """The instance attribute behind a declared field (``organizer`` -> ``organizer_id``).

        None if the model has no such column.
        """
        meta = meta_of(self.model)
        if field == "pk":
            return self.pk
        found = meta.fields_map.get(field)
        if isinstance(found, ForeignKeyFieldInstance):
            return str(cast("Any", found).source_field)
        return field if found is not None and field in meta.fields_db_projection else None

    def field_names(self) -> list[str]:
        """The names by which keys may be declared, relations by the relation's name."""
        meta = meta_of(self.model)
        behind = {meta.fields_map[name].source_field for name in meta.fk_fields | meta.o2o_fields}
        return sorted((set(meta.fields_db_projection) - behind) | meta.fk_fields | meta.o2o_fields)

    def keyable(self, attribute: str) -> bool:
        """Whether the column can be searched for by equality."""
        field = meta_of(self.model).fields_map[attribute]
        return bool(field.indexable) or isinstance(field, data_fields.TextField)

    def unique(self, attributes: Collection[str]) -> bool:
        """Whether the database lets at most one row have given values of these columns."""
        meta = meta_of(self.model)
        wanted = set(attributes)
        if any(meta.fields_map[name].unique or meta.fields_map[name].pk for name in wanted):
            return True
        together = [*meta.unique_together]
        together += [each.fields for each in meta.constraints if type(each).__name__ == "UniqueConstraint"]
        return any(fields and {self.attribute(field) for field in fields} <= wanted for fields in together)

    def uses_loose_collation(self, attributes: Iterable[str]) -> bool:
        """Whether the database may hold different strings to be equal (case, accents, padding)."""
        for name in attributes:
            field = meta_of(self.model).fields_map[name]
            declared = str(field.get_for_dialect(self.dialect, "SQL_TYPE")).upper()
            text = self.dialect == "mysql" and ("CHAR" in declared or "TEXT" in declared)
            if (text or "CITEXT" in declared or "COLLATE" in declared) and not has_canonical_text(field):
                return True
        return False

    def foreign_key(self, field: str) -> tuple[type[Model], str, str] | None:
        """(related model, attribute holding the key here, field that it refers to), or None."""
        found = meta_of(self.model).fields_map.get(field)
        if not isinstance(found, ForeignKeyFieldInstance):
            return None
        relation = cast("Any", found)
        return relation.related_model, relation.source_field, relation.to_field_instance.model_field_name

    def relation(self, field: str) -> RelationInfo | None:
        """A foreign key or one-to-one relation, of this model or, backwards, of another; or None."""
        forward = self.foreign_key(field)
        if forward is not None:
            return RelationInfo(*forward, True)
        found = meta_of(self.model).fields_map.get(field)
        if not isinstance(found, BackwardFKRelation):
            return None
        back = cast("Any", found)
        single = isinstance(found, BackwardOneToOneRelation)
        return RelationInfo(back.related_model, back.to_field_instance.model_field_name, back.relation_field, single)

    def foreign_keys(self) -> list[str]:
        """Names of the foreign keys."""
        meta = meta_of(self.model)
        return sorted(meta.fk_fields | meta.o2o_fields)

    # Values of keys ------------------------------------------------------------------------------

    def normalise(self, attribute: str, value: Any) -> Any:
        """Returns ``value`` as an instance from the database would hold it.

        Accepts what Tortoise accepts in a filter, and a related instance for a foreign key. Raises
        ``ValueError`` naming model and field if it is not a value of the field.
        """
        if value is None:
            return None
        normaliser = self._normalisers.get(attribute)
        if normaliser is None:
            normaliser = self._normalisers[attribute] = self._normaliser(attribute)
        try:
            return normaliser(value)
        except (ValueError, TypeError, ArithmeticError, AttributeError, ValidationError) as error:
            raise ValueError(f"{self.name}.{attribute} cannot be looked up by {value!r}: {error}") from error

    def identity_type(self, attribute: str) -> tuple[Any, int]:
        """The type of which values up to this length are normalised as they are, if there is one."""
        field: Any = meta_of(self.model).fields_map[attribute]
        if is_enum(field) or not converts_like_tortoise(field):
            return None, 0
        kind, checks = field.field_type, len(field.validators)
        if isinstance(field, data_fields.CharField):
            return (str, field.max_length) if checks == 1 else (None, 0)  # that of its length
        return (int, 0) if kind is int and not checks else (None, 0)

    def _normaliser(self, attribute: str) -> Callable[[Any], Any]:
        field: Any = meta_of(self.model).fields_map[attribute]
        convert = partial(normalise, field, self.model)
        if is_enum(field) or not converts_like_tortoise(field):
            return convert
        if self.dialect == "mysql" and isinstance(field, data_fields.TimeField | data_fields.DatetimeField):
            return lambda value: as_mysql_returns(convert(value))
        kind = field.field_type
        exact = EXACT.get(kind)
        if exact is None:
            return convert
        limited = isinstance(field, data_fields.CharField)
        if len(field.validators) > limited:  # the user's own must see every value
            return lambda value: exact(convert(value))
        if limited:
            limit = field.max_length
            return lambda value: value if type(value) is str and len(value) <= limit else exact(convert(value))
        return lambda value: value if type(value) is kind else exact(convert(value))

    def key_value(self, attribute: str, value: Any) -> Any:
        """Returns a normalised value in the form that ``keys`` can encode (an enum's stored value).

        It is the same for a value that was asked for and for one from a row: asyncpg has a UUID class of
        its own.
        """
        if value is None or type(value) in NATIVE or isinstance(value, uuid.UUID):
            return value
        return meta_of(self.model).fields_map[attribute].to_db_value(value, self.model)

    def kept(self, attribute: str, value: Any) -> bool:
        """Whether a row written with this value will hold it, and not another that only the database knows.

        Decimals are rounded to the column's scale, and not every database keeps an offset from UTC.
        """
        if value is None or attribute not in self._converted:
            return True
        field: Any = meta_of(self.model).fields_map[attribute]
        try:
            held: Any = field.to_python_value(value)
            same = bool(held == value)
        except (ValueError, TypeError, ArithmeticError):
            return False
        return same and (not isinstance(value, datetime.datetime) or held.utcoffset() == value.utcoffset())

    # Instances -------------------------------------------------------------------------------------

    def instance(self, values: dict[str, Any]) -> Model:
        """Returns an instance as if loaded from the database; ``values`` becomes its ``__dict__``."""
        values["_partial"] = False
        values["_saved_in_db"] = True
        values["_custom_generated_pk"] = self._custom_generated_pk
        values["_await_when_save"] = {}
        instance = object.__new__(self.model)
        object.__setattr__(instance, "__dict__", values)
        return instance

    def lost(self, instance: Model) -> list[str]:
        """What an instance holds that would not come back from its row: annotations, fetched relations."""
        kept = {*self.columns, "_saved_in_db", "_custom_generated_pk", "_await_when_save", "_partial"}
        held = vars(instance)
        missing = ["not all of its columns"] if is_partial(instance) or not self.columns <= held.keys() else []
        more = {name: value for name, value in held.items() if name not in kept and value is not None}
        return missing + sorted(name for name, value in more.items() if not _is_not_fetched(value))

    def _column(self, name: str, field: Field[Any]) -> Column:
        column = column_of(name, field, self.model, self.client)
        if column is None:
            raise CacheConfigurationError(
                f"{self.name}.{name} ({type(field).__name__}, values of {field.field_type!r}) cannot be stored in "
                "the cache: give the field's class to_db_value and to_python_value methods that convert to and "
                "from a number, text or bytes, or do not cache this model."
            )
        return column

    # The database ----------------------------------------------------------------------------------

    def queryset(self, client: BaseDBAsyncClient) -> QuerySet[Any]:
        """The model's rows, as its own manager shows them (a manager may hide rows)."""
        rows: QuerySet[Any] = meta_of(self.model).manager.get_queryset().using_db(client)
        return rows

    def replica(self) -> BaseDBAsyncClient:
        """The connection that a router would read the model from now; it may name another one each time."""
        return root_client(self._outside.run(cast("Any", self.model)._choose_db))

    def matching(self, attributes: Sequence[str], wanted: Sequence[Values]) -> Q:
        """The condition that a row has one of the ``wanted`` combinations of values."""
        if len(attributes) == 1 and len(wanted) > 1:
            name = attributes[0]
            some = _q({f"{name}__in": [value for (value,) in wanted if value is not None]})
            return some | _q({f"{name}__isnull": True}) if (None,) in wanted else some
        each = [_q(dict(zip(attributes, values, strict=True))) for values in wanted]
        while len(each) > 1:  # in groups, because every term of one OR nests one level deeper
            each = [Q(*each[at : at + 8], join_type="OR") for at in range(0, len(each), 8)]
        return each[0]

    @cached_property
    def _connections(self) -> ContextVar[dict[str, Any]]:
        """By name, a task's open transactions among them."""
        context = get_current_context()
        if context is None:  # pragma: no cover - a schema is made after Tortoise.init
            raise CacheConfigurationError("Tortoise is not initialised")
        found: ContextVar[dict[str, Any]] = cast("Any", context.connections)._storage_var
        return found

    def transaction(self) -> TransactionalDBClient | None:
        """The open transaction that a query of this model would run in now, if there is one."""
        client = self._connections.get().get(self.connection)
        if client is self.client or not isinstance(client, TransactionalDBClient):
            return None
        if not cast("Any", client)._finalized:
            return client
        # One that was committed by hand keeps the lock of SQLite's only connection to the end of its block.
        # Whoever waits for that lock inside the block waits for ever. Where somebody else's transaction has
        # begun meanwhile, the block has ended, and that transaction's end is worth waiting for.
        lock = getattr(cast("Any", client)._parent, "_lock", None)
        if lock is None or not lock.locked() or getattr(cast("Any", client)._connection, "in_transaction", True):
            return None
        return client


def _is_not_fetched(value: Any) -> bool:
    return isinstance(value, ReverseRelation) and not cast("Any", value)._fetched


def _q(conditions: dict[str, Any]) -> Q:
    return Q(**conditions)
