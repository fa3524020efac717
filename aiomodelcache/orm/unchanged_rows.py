"""Asks the database whether a row has exactly the values that a save would write.

Knows which columns can be compared so that equal means "the same value", and the SQL of the comparison. Texts are
compared by their bytes, whatever their collation. The other types are those whose ``=`` holds no different values to be
equal, if the column has the type that its field declares.
"""

import datetime
import decimal
import enum
import uuid
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final

from tortoise.fields import data as data_fields
from tortoise.models import Model

from aiomodelcache.exceptions import CacheConfigurationError
from aiomodelcache.orm.fields import converts_like_tortoise, is_enum
from aiomodelcache.orm.meta import columns_of, meta_of, pk_of
from aiomodelcache.orm.schema import ModelSchema

_TEXTS: Final = (str, uuid.UUID)
"""Types of values that Tortoise sends as text."""
_EXACT: Final = (int, bytes, datetime.date, datetime.timedelta, decimal.Decimal, enum.Enum, *_TEXTS)
_LOCKS: Final = {"postgres": " FOR NO KEY UPDATE", "mysql": " FOR UPDATE", "sqlite": ""}
"""The lock that an UPDATE of the row takes, by dialect. SQLite has none: a transaction's reads are of one moment."""
_AS_BYTES: Final = {
    "postgres": '{column}::text COLLATE "C"={value}',
    "mysql": "CAST(CONVERT({column} USING utf8mb4) AS BINARY)=CAST(CONVERT({value} USING utf8mb4) AS BINARY)",
    "sqlite": "{column}={value} COLLATE BINARY",
}
"""The comparison of texts, by dialect."""


class UnchangedRows:
    """The rows of a model whose unchanged saves keep their entries.

    Raises ``CacheConfigurationError`` for a field that a save may change although its attribute was not changed.
    """

    def __init__(self, schema: ModelSchema, origin: str) -> None:
        self._schema = schema
        self._origin = origin
        fields = meta_of(schema.model).fields_map
        if schema.dialect not in _LOCKS:
            raise CacheConfigurationError(
                f"{origin}.keep_unchanged is not possible on {schema.dialect}: remove it, or use another database."
            )
        self.columns = [name for name in schema.column_names if not (fields[name].pk or fields[name].generated)]
        """The attributes of the columns that a save of all columns writes."""
        for name in self.columns:
            obstacle = _obstacle(fields[name])
            if obstacle:
                raise CacheConfigurationError(
                    f"{origin}.keep_unchanged is not possible with {schema.name}.{name}, {obstacle}: remove one."
                )
        self._typed = [name for name in self.columns if not _is_text(fields[name], schema.dialect)]

    def refuse_other_types(self) -> None:
        """Raises ``CacheConfigurationError`` for a column whose real type compares otherwise than the declared one."""
        schema = self._schema
        for name in self._typed if schema.as_declared else ():  # empty if the catalogue could not be read
            if name in schema.loose_columns:
                raise CacheConfigurationError(
                    f"{self._origin}.keep_unchanged is not possible with {schema.name}.{name}, whose column has "
                    "another type in the database than declared: change one of them, or remove keep_unchanged."
                )

    def compared(self, instance: Model, update_fields: Collection[str] | None) -> list[str]:
        """Returns the attributes that a save writes, or nothing if their values cannot be compared exactly."""
        names = self.columns if update_fields is None else [*update_fields]
        values = vars(instance)
        known = all(
            name in values and (values[name] is None or isinstance(values[name], _EXACT)) for name in (*names, self.pk)
        )
        written = names is self.columns or set(names) <= set(self.columns)
        return names if known and written and not self._schema.compares_loosely(self._typed) else []

    @property
    def pk(self) -> str:
        """The attribute of the primary key."""
        return self._schema.pk


def _obstacle(field: Any) -> str:
    """Returns why the database cannot tell that a save leaves a column as it is, or nothing if it can."""
    if getattr(field, "auto_now", False):
        return "which has auto_now, so every save changes it"
    if not converts_like_tortoise(field):
        return "whose class has conversions of its own"
    if not is_enum(field) and not (isinstance(field.field_type, type) and issubclass(field.field_type, _EXACT)):
        return "whose values the database does not compare exactly"
    return ""


def _is_text(field: Any, dialect: str) -> bool:
    """Returns True if the values of a field are sent as texts, which are compared by their bytes."""
    if is_enum(field):
        return isinstance(field, data_fields.CharEnumFieldInstance)
    return issubclass(field.field_type, _TEXTS) or (dialect == "sqlite" and field.field_type is decimal.Decimal)


async def has_values(instance: Model, executor: Any, attributes: Sequence[str]) -> bool:
    """Returns True if the instance's row exists and has its values of these attributes. Locks the row, if so."""
    model, client = type(instance), executor.db
    meta, dialect, context = meta_of(model), client.capabilities.dialect, client.query_class.SQL_CONTEXT
    conditions: list[str] = []
    values: list[Any] = []
    for name, column in columns_of(model, [pk_of(model), *attributes]).items():
        quoted, value = f"{context.quote_char}{column}{context.quote_char}", getattr(instance, name)
        if value is None:
            conditions.append(f"{quoted} IS NULL")
            continue
        sent = meta.fields_map[name].to_db_value(value, instance)
        form = _AS_BYTES[dialect] if isinstance(sent, str) and name != meta.pk_attr else "{column}={value}"
        conditions.append(form.format(column=quoted, value=executor.parameter(len(values)).get_sql(context)))
        values.append(sent)
    table = meta.basetable.get_sql(context)
    sql = f"SELECT 1 FROM {table} WHERE {' AND '.join(conditions)}{_LOCKS[dialect]}"
    return bool(await client.execute_query_dict(sql, values))


def refuse_other_types(rows: Iterable[UnchangedRows | None]) -> None:
    """Raises ``CacheConfigurationError`` if the catalogue has shown that one of these cannot be compared exactly."""
    for each in rows:
        if each is not None:
            each.refuse_other_types()
