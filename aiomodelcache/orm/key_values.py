"""Values of key columns: in the form that rows have them, and as the database compares them.

Knows single fields and dialects. ``schema`` asks for each column of a key.
"""

import datetime
import decimal
import enum
import math
import re
import sys
import uuid
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final, cast

from pypika_tortoise.terms import Node
from tortoise.expressions import Expression, Q
from tortoise.fields import data as data_fields
from tortoise.models import Model
from tortoise.query_utils import Prefetch
from tortoise.queryset import AwaitableQuery

from aiomodelcache.encoding import keys
from aiomodelcache.encoding.messages import SafeError, SafeTypeError
from aiomodelcache.orm.fields import converts_like_tortoise, is_enum


def identity_type(field: Any) -> tuple[Any, int]:
    """Returns the type whose values ``normalise`` leaves unchanged, and their maximum length if it is ``str``.

    The type is None if every value has to be normalised.
    """
    if is_enum(field) or not converts_like_tortoise(field):
        return None, 0
    kind, checks = field.field_type, len(field.validators)
    if isinstance(field, data_fields.CharField):
        return (str, field.max_length) if checks == 1 else (None, 0)  # one: the field's own check of its length
    return (int, 0) if kind is int and not checks else (None, 0)


def normaliser_of(field: Any, model: type[Model], dialect: str) -> Callable[[Any], Any]:
    """Returns a function that converts a value of a lookup to the value that a matching row holds."""
    convert = partial(normalise, field, model)
    if is_enum(field) or not converts_like_tortoise(field):
        return convert
    if dialect == "mysql" and isinstance(field, data_fields.TimeField | data_fields.DatetimeField):
        return lambda value: as_mysql_returns(convert(value))
    if dialect == "sqlite" and isinstance(field, data_fields.DecimalField):
        return lambda value: as_sqlite_compares(field, convert(value))
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


def compares_loosely(field: Any, dialect: str) -> bool:
    """Returns True if the database may treat different values of a field as equal."""
    if dialect == "sqlite" and isinstance(field, data_fields.DecimalField):
        column = cast("Any", field)
        return column.max_digits > sys.float_info.dig or not converts_like_tortoise(column)
    sql_type = str(field.get_for_dialect(dialect, "SQL_TYPE")).upper()
    text = dialect == "mysql" and ("CHAR" in sql_type or "TEXT" in sql_type)
    return (text or "CITEXT" in sql_type or "COLLATE" in sql_type) and not has_canonical_text(field)


def compares_like_keys(field: Any) -> bool:
    """Returns True if ``==`` of a field's values agrees with the comparison of their keys.

    It does not for moments in the hour that a clock repeats, for times with an offset, for NaN, and for a user's own
    types.
    """
    return is_enum(field) or (converts_like_tortoise(field) and field.field_type in _COMPARED_BY_VALUE)


_COMPARED_BY_VALUE: Final = frozenset({int, str, bool, bytes, uuid.UUID, datetime.date})


def identity(value: Any) -> Any:
    """Returns a hashable stand-in for a value from the database. Values that the database tells apart differ in it."""
    try:
        return keys.encode_value(value)
    except TypeError:  # a user's own type, whose equality is all there is
        return value


def same_value(value: Any, other: Any) -> bool:
    """Returns True if the database holds two values of one column to be equal."""
    if type(value) is type(other):
        return bool(identity(value) == identity(other))
    return bool(value == other)


def distinct(values: Iterable[Any]) -> list[Any]:
    """Returns the values without those that the database holds to be repetitions."""
    return list({identity(value): value for value in values}.values())


def has_canonical_text(field: Any) -> bool:
    """Returns True if equal values of a text column are always spelled the same.

    So are UUIDs, and enums whose members differ under every collation.
    """
    if not converts_like_tortoise(field):
        return False
    if not isinstance(field, data_fields.CharEnumFieldInstance):
        return field.field_type is uuid.UUID
    spellings = [str(member.value) for member in field.enum_type]
    letters = {re.sub("[^a-z0-9]", "", spelling.lower()) for spelling in spellings}
    return all(map(str.isascii, spellings)) and len(letters) == len(spellings) and "" not in letters


def _referred_value(field: Any, instance: Model) -> Any:
    """Returns the value of a foreign key column that refers to ``instance``. Raises ``ValueError``."""
    relation = field.reference
    if relation is None or not isinstance(instance, relation.related_model):
        raise SafeError(f"an instance of {type(instance).__name__} is not a value of this field")
    value = getattr(instance, relation.to_field_instance.model_field_name)
    if value is None:
        raise SafeError("the instance has no key yet; save it first")
    return value


def normalise(field: Any, model: type[Model], value: Any) -> Any:
    """Returns the value that Tortoise would read from the database after it stored ``value``."""
    if isinstance(value, Model):
        value = _referred_value(field, value)
    elif isinstance(value, _EXPRESSIONS):
        raise SafeTypeError("a key takes values, and neither expressions nor queries")
    value = field.to_db_value(value, model)
    if converts_like_tortoise(field) and isinstance(field, data_fields.DecimalField):
        return value  # a value rounded to the column's scale would match rows that the database does not match
    return field.to_python_value(value)


_EXPRESSIONS: Final = (Node, Q, Expression, AwaitableQuery, Prefetch)
"""Classes whose instances a queryset compares with in SQL. Field conversions would take them for values."""

EXACT: Final[dict[Any, Callable[[Any], Any]]] = {
    int: int,
    float: float,
    str: str.__str__,
    datetime.date: lambda value: value.date() if isinstance(value, datetime.datetime) else value,
}
"""Functions that convert a value of a subclass (a ``str`` enum, a NumPy float) to the class that rows hold."""


def as_mysql_returns(value: Any) -> Any:
    """Returns a time or date as MySQL's drivers do: without ``fold``, and as a ``timedelta`` for a TIME."""
    if isinstance(value, datetime.time):
        return datetime.timedelta(
            hours=value.hour, minutes=value.minute, seconds=value.second, microseconds=value.microsecond
        )
    return value.replace(fold=0) if isinstance(value, datetime.datetime) else value


def as_sqlite_compares(field: Any, value: decimal.Decimal) -> decimal.Decimal:
    """Returns the value of a decimal column that SQLite holds to be equal to ``value``, if there is one.

    SQLite compares decimals as floats, so ``Decimal(1.1)``, which is a little more than 1.1, equals 1.1.
    """
    try:
        rounded = value.quantize(field.quant)
        return rounded if float(rounded) == float(value) else value
    except (ArithmeticError, ValueError):  # infinite, too large for the column, or NaN
        return value


def can_hold(field: Any, dialect: str, value: Any, bound: float = math.inf) -> bool:
    """Returns False if no row can have this value, in the form that is sent to the database, in a field's column.

    The database or its driver refuses such a value with an error. A value that the database merely does not find is
    not checked. ``bound``: the column's ``integer_bound``.
    """
    if value is None:
        return not field.pk
    if isinstance(field, data_fields.TimeDeltaField) and isinstance(value, datetime.timedelta):
        value = field.to_db_value(value, field.model)
    if isinstance(field, data_fields.TimeField):
        # Tortoise cannot store a time in SQLite. MySQL compares anything with one.
        return dialect == "mysql" or (dialect == "postgres" and not isinstance(value, datetime.timedelta))
    if isinstance(value, str):
        return _is_utf8(value) and not (dialect == "postgres" and "\0" in value)
    if isinstance(value, int):
        return -bound <= value < bound
    if isinstance(value, float):
        return math.isfinite(value) or dialect != "mysql"
    if isinstance(value, decimal.Decimal):
        if not value.is_finite():
            return value.is_qnan() and dialect == "postgres"
        lowest = -_MAX_EXPONENT if dialect == "postgres" else -math.inf  # MySQL takes the smallest ones for zero
        return dialect == "sqlite" or lowest < value.adjusted() < _MAX_EXPONENT
    return True


def integer_bound(sql_type: str, dialect: str) -> float:
    """Returns the bound of the integers of a column: they are at least ``-bound`` and less than ``bound``.

    Drivers refuse others. The bound is infinite if the column accepts every integer.
    """
    bits = _INTEGER_BITS.get(dialect, {}).get(sql_type.upper())
    return math.inf if bits is None else 1 << bits


_INTEGER_BITS: Final[dict[str, dict[str, int]]] = {
    "postgres": {"SMALLINT": 15, "INT": 31, "INTEGER": 31, "BIGINT": 63},
    "sqlite": {"SMALLINT": 63, "INT": 63, "BIGINT": 63},
    "mysql": {"SMALLINT": 64, "INT": 64, "BIGINT": 64},
}
"""The bits of integers by dialect and type of column, without the sign, beyond which drivers refuse them."""

_MAX_EXPONENT: Final = 300
"""Bound of the exponents of decimals. No column has as many digits, and the databases refuse values far beyond."""


def _is_utf8(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return True


_EXACT: Final = frozenset({int, str, bool, bytes, datetime.date, datetime.datetime})
"""Types of values that a database stores and compares without rounding."""


def compares_exactly(field: Any, value: Any) -> bool:
    """Returns True if the database's ``=`` tells whether a column has this value, and a save does not change it."""
    is_exact = value is None or type(value) in _EXACT or isinstance(value, enum.Enum | uuid.UUID)
    return is_exact and converts_like_tortoise(field) and not getattr(field, "auto_now", False)
