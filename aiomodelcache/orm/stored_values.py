"""Values as the database returns them after they were written, where that is certain without asking it.

Knows the types of columns of which each database keeps every value, or a range of them. Others are unknown: floats and
texts beyond ASCII on MySQL, JSON, times of day, arrays, and fields with conversions of their own.
"""

import datetime
import decimal
import math
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

from tortoise.fields import data as data_fields
from tortoise.timezone import get_default_timezone, get_use_tz, parse_timezone

from aiomodelcache.encoding.codec import EncodeError
from aiomodelcache.orm.fields import column_of, converts_like_tortoise, is_enum
from aiomodelcache.orm.meta import RowValues, meta_of
from aiomodelcache.orm.schema import ModelSchema

Convert = Callable[[Any], Any]
"""Returns the value that the database returns for a written one. Raises any exception if that is not certain."""

_INTEGER_BITS: Final = {"SMALLINT": 15, "INT": 31, "BIGINT": 63}
"""The bits of integers by type of column, without the sign."""
_TYPES: Final[dict[str, dict[Any, set[str]]]] = {
    "sqlite": {
        int: {*_INTEGER_BITS},
        bool: {"INT"},
        str: {"VARCHAR", "TEXT"},
        bytes: {"BLOB"},
        float: {"REAL"},
        uuid.UUID: {"CHAR"},
        decimal.Decimal: {"VARCHAR"},
        datetime.date: {"DATE"},
        datetime.datetime: {"TIMESTAMP"},
        datetime.timedelta: {"BIGINT"},
    },
    "postgres": {
        int: {*_INTEGER_BITS},
        bool: {"BOOL"},
        str: {"VARCHAR", "TEXT"},
        bytes: {"BYTEA"},
        float: {"DOUBLE PRECISION"},
        uuid.UUID: {"UUID"},
        decimal.Decimal: {"DECIMAL"},
        datetime.date: {"DATE"},
        datetime.datetime: {"TIMESTAMPTZ"},
        datetime.timedelta: {"BIGINT"},
    },
    "mysql": {
        int: {*_INTEGER_BITS},
        bool: {"BOOL"},
        str: {"VARCHAR", "LONGTEXT"},
        bytes: {"LONGBLOB"},
        uuid.UUID: {"CHAR"},
        decimal.Decimal: {"DECIMAL"},
        datetime.date: {"DATE"},
        datetime.datetime: {"DATETIME"},
        datetime.timedelta: {"BIGINT"},
    },
}
"""The declared types of columns, by dialect and by type of the field's values, whose values are known."""
_FIRST_YEAR: Final = {"mysql": 1000}
"""The first year whose dates a database keeps."""


class UnknownValueError(ValueError):
    """The error for a written value that the database may return otherwise."""


class StoredRows:
    """The rows of one model as the database returns them after a write of all columns."""

    def __init__(self, schema: ModelSchema) -> None:
        self._schema = schema
        fields = meta_of(schema.model).fields_map
        self._converters = {name: _converter(fields[name], schema) for name in schema.column_names}
        self._nullable = {name for name in schema.column_names if fields[name].null}

    def payload(self, written: Mapping[str, Any]) -> bytes | None:
        """Returns the bytes of the row, or None if one of its values is not known for certain."""
        schema = self._schema
        try:
            row: RowValues = {name: self._stored(name, written[name]) for name in schema.column_names}
            return schema.codec.encode(row)
        except (EncodeError, ArithmeticError, ValueError, TypeError, LookupError):
            return None

    def _stored(self, name: str, value: Any) -> Any:
        convert = self._converters[name]
        if value is None and name in self._nullable:
            return None
        if value is None or convert is None or name not in self._schema.as_declared:
            raise UnknownValueError(name)
        return convert(value)


def _converter(field: Any, schema: ModelSchema) -> Convert | None:
    """Returns the conversion of a field's values, or None if no value of the field is known for certain."""
    dialect = schema.dialect
    declared = str(field.get_for_dialect(dialect, "SQL_TYPE")).upper()
    kind: Any = field.field_type
    if is_enum(field):
        kind = int if isinstance(field, data_fields.IntEnumFieldInstance) else str
    elif not converts_like_tortoise(field):
        return None
    if declared.partition("(")[0].strip() not in _TYPES.get(dialect, {}).get(kind, ()):
        return None
    convert = _exactly(kind, _CONVERTERS[kind](field, schema, declared))
    if not is_enum(field):
        return convert

    def convert_member(member: Any) -> Any:
        if type(member) is not field.enum_type or convert(member.value) != member.value:
            raise UnknownValueError
        return member

    return convert_member


def _exactly(kind: type, convert: Convert) -> Convert:
    """Returns a conversion that refuses values of other types, subclasses included."""

    def convert_exactly(value: Any) -> Any:
        if type(value) is not kind:
            raise UnknownValueError
        return convert(value)

    return convert_exactly


def _check(known: bool) -> None:
    if not known:
        raise UnknownValueError


def _integers(field: Any, schema: ModelSchema, declared: str) -> Convert:
    bound = 1 << _INTEGER_BITS[declared]

    def convert(value: int) -> int:
        _check(-bound <= value < bound)
        return value

    return convert


def _texts(field: Any, schema: ModelSchema, declared: str) -> Convert:
    limit = getattr(field, "max_length", None) or math.inf

    def convert(value: str) -> str:
        value.encode()  # raises for a lone surrogate
        _check(len(value) <= limit and "\0" not in value and (schema.dialect != "mysql" or value.isascii()))
        return value

    return convert


def _same(field: Any, schema: ModelSchema, declared: str) -> Convert:
    return lambda value: value


def _floats(field: Any, schema: ModelSchema, declared: str) -> Convert:
    def convert(value: float) -> float:
        _check(math.isfinite(value) and (value != 0 or math.copysign(1, value) > 0))  # SQLite drops the sign of zero
        return value

    return convert


def _uuids(field: Any, schema: ModelSchema, declared: str) -> Convert:
    column = column_of(field.model_field_name, field, schema.model, schema.client)
    load = column.load if column is not None else None  # asyncpg has a class of its own
    return (lambda value: load(value.bytes)) if load is not None else (lambda value: value)


def _decimals(field: Any, schema: ModelSchema, declared: str) -> Convert:
    def convert(value: decimal.Decimal) -> decimal.Decimal:
        _check(value.is_finite())
        stored = cast("decimal.Decimal", field.to_python_value(value))
        _check(stored == value and stored.adjusted() < field.max_digits - field.decimal_places)
        _check(stored != 0 or not stored.is_signed())  # the databases drop the sign of zero
        return stored

    return convert


def _dates(field: Any, schema: ModelSchema, declared: str) -> Convert:
    def convert(value: datetime.date) -> datetime.date:
        _check(value.year >= _FIRST_YEAR.get(schema.dialect, 1))
        return value

    return convert


def _moments(field: Any, schema: ModelSchema, declared: str) -> Convert:
    aware, dialect = get_use_tz(), schema.dialect

    def convert(value: datetime.datetime) -> datetime.datetime:
        offset = value.utcoffset()
        _check(value.year >= _FIRST_YEAR.get(dialect, 1) and (offset is not None) is aware)
        if offset is None:
            _check(dialect != "postgres" and not value.fold)  # asyncpg takes a naive one for local time
            return value
        _check(not offset.seconds % 60 and not offset.microseconds)
        if dialect == "mysql":  # its driver drops the offset
            _check(not offset and get_default_timezone() == parse_timezone("UTC"))
            return cast("datetime.datetime", field.to_python_value(value.replace(tzinfo=None, fold=0)))
        return cast("datetime.datetime", field.to_python_value(value.astimezone(datetime.UTC)))

    return convert


def _durations(field: Any, schema: ModelSchema, declared: str) -> Convert:
    return lambda value: field.to_python_value(field.to_db_value(value, schema.model))


_CONVERTERS: Final[dict[Any, Callable[[Any, ModelSchema, str], Convert]]] = {
    int: _integers,
    bool: _same,
    str: _texts,
    bytes: _same,
    float: _floats,
    uuid.UUID: _uuids,
    decimal.Decimal: _decimals,
    datetime.date: _dates,
    datetime.datetime: _moments,
    datetime.timedelta: _durations,
}
