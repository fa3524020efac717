"""Single fields of Tortoise: how their values are stored in an entry, and what a value becomes in a row.

Knows fields and values, not models as a whole: those are ``schema``'s.
"""

import datetime
import importlib
import re
import uuid
from collections.abc import Callable
from functools import partial
from operator import methodcaller
from typing import Any, Final, cast

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.fields import data as data_fields
from tortoise.fields.base import Field
from tortoise.models import Model
from tortoise.timezone import get_default_timezone, get_use_tz, parse_timezone

from aiomodelcache.encoding.codec import NATIVE
from aiomodelcache.encoding.rows import Column, is_a
from aiomodelcache.encoding.values import to_msgpack


def column_of(name: str, field: Any, model: type[Model], client: BaseDBAsyncClient) -> Column | None:
    """How a field's values are stored in a row entry; None if there is no exact way."""
    if isinstance(field, data_fields.JSONField):
        return _json_column(name, field, model)
    if is_enum(field):
        return Column(name, Any, _dump_member, field.enum_type)
    if not converts_like_tortoise(field):
        return Column(name, Any, partial(_dump_custom, field, model), field.to_python_value)
    if isinstance(field, data_fields.DatetimeField):
        return _datetime_column(name)
    if isinstance(field, data_fields.TimeField):
        return Column(name, str | int, _dump_time, _load_time)
    kind = field.field_type
    if kind in (uuid.UUID, list) and type(client).__module__.startswith("tortoise.backends.asyncpg"):
        driver: Any = importlib.import_module("asyncpg.pgproto.pgproto")  # returns a UUID class of its own
        if kind is uuid.UUID:
            return Column(name, bytes, None, driver.UUID, is_a(driver.UUID))
        return Column(name, Any, partial(_dump_array, driver.UUID), partial(_load_array, driver.UUID))
    if kind in NATIVE:
        return Column(name, kind)
    if kind is list:
        return Column(name, Any, to_msgpack)
    return None


def is_enum(field: Any) -> bool:
    """Whether it is one of Tortoise's two enum fields."""
    return isinstance(field, data_fields.IntEnumFieldInstance | data_fields.CharEnumFieldInstance)


def has_canonical_text(field: Any) -> bool:
    """Whether a text column's values are always spelled the same: UUIDs, and enums that no collation confuses."""
    if not converts_like_tortoise(field):
        return False
    if not isinstance(field, data_fields.CharEnumFieldInstance):
        return field.field_type is uuid.UUID
    spellings = [str(member.value) for member in field.enum_type]
    letters = {re.sub("[^a-z0-9]", "", spelling.lower()) for spelling in spellings}
    return all(map(str.isascii, spellings)) and len(letters) == len(spellings) and "" not in letters


def converts_like_tortoise(field: Field[Any]) -> bool:
    """Whether the class leaves the conversion from and to the database as Tortoise wrote it."""
    return all(
        getattr(type(field), method).__module__.startswith("tortoise.") for method in ("to_db_value", "to_python_value")
    )


def _json_column(name: str, field: Any, model: type[Model]) -> Column:
    if _encodes_like_tortoise(field) and not hasattr(field.field_type, "model_dump") and converts_like_tortoise(field):
        return Column(name, Any, to_msgpack, is_lossless=_is_document)
    return Column(name, str, partial(_dump_custom, field, model), field.to_python_value)


def _encodes_like_tortoise(field: Any) -> bool:
    """Whether JSON has the standard encoder; a field of an abstract model's heir has a copy of that."""
    ours: Any = data_fields.JSON_DUMPS
    theirs = field.encoder
    if isinstance(theirs, partial) and isinstance(ours, partial):
        same = (theirs.func, theirs.args, theirs.keywords) == (ours.func, ours.args, ours.keywords)
    else:
        same = theirs is ours
    return same and field.decoder is data_fields.JSON_LOADS


def _dump_array(driver_uuid: Any, array: Any) -> Any:
    return to_msgpack(_replaced(array, driver_uuid, lambda value: uuid.UUID(bytes=value.bytes)))


def _load_array(driver_uuid: Any, array: Any) -> Any:
    return _replaced(array, uuid.UUID, lambda value: driver_uuid(value.bytes))


def _replaced(value: Any, kind: type, make: Callable[[Any], Any]) -> Any:
    """Returns an array of any depth with each item of exactly this type remade."""
    found = cast("Any", type(value))
    if found is list:
        return [_replaced(item, kind, make) for item in value]
    return make(value) if found is kind else value


def _dump_member(member: Any) -> Any:
    return to_msgpack(member.value)


def _dump_custom(field: Any, model: type[Model], value: Any) -> Any:
    return to_msgpack(field.to_db_value(value, model))


def _datetime_column(name: str) -> Column:
    if not get_use_tz():
        return Column(name, datetime.datetime)
    zone = get_default_timezone()
    is_lossless = partial(_is_in_zone, zone) if zone == parse_timezone("UTC") else None
    return Column(name, datetime.datetime, None, methodcaller("astimezone", zone), is_lossless)


def _is_in_zone(zone: datetime.tzinfo, value: Any) -> bool:
    return type(value) is datetime.datetime and value.tzinfo is zone


def _is_document(value: Any) -> bool:
    """``to_msgpack`` refuses whatever it cannot write exactly."""
    return True


def _dump_time(value: datetime.time | datetime.timedelta) -> str | int:
    """MySQL's driver returns a ``timedelta`` for a TIME."""
    if isinstance(value, datetime.timedelta):
        return value // datetime.timedelta(microseconds=1)
    if get_use_tz() and value.tzinfo is get_default_timezone():
        value = value.replace(tzinfo=None)
    return value.isoformat()


def _load_time(stored: str | int) -> datetime.time | datetime.timedelta:
    if isinstance(stored, int):
        return datetime.timedelta(microseconds=stored)
    value = datetime.time.fromisoformat(stored)
    return value.replace(tzinfo=get_default_timezone()) if get_use_tz() and value.tzinfo is None else value


def _referred_value(field: Any, instance: Model) -> Any:
    """What a foreign key to ``instance`` holds."""
    relation = field.reference
    if relation is None or not isinstance(instance, relation.related_model):
        raise ValueError(f"a {type(instance).__name__} is no value of this field")
    value = getattr(instance, relation.to_field_instance.model_field_name)
    if value is None:
        raise ValueError("the instance has no key yet; save it first")
    return value


def normalise(field: Any, model: type[Model], value: Any) -> Any:
    """Returns ``value`` as Tortoise would read back what it sends to the database for it."""
    if isinstance(value, Model):
        value = _referred_value(field, value)
    value = field.to_db_value(value, model)
    if converts_like_tortoise(field) and isinstance(field, data_fields.DecimalField):
        return value  # rounded to the column's scale it would find rows that the database does not
    return field.to_python_value(value)


EXACT: Final[dict[Any, Callable[[Any], Any]]] = {
    int: int,
    float: float,
    str: str.__str__,
    datetime.date: lambda value: value.date() if isinstance(value, datetime.datetime) else value,
}
"""What makes a value of a subclass (a ``str`` enum, a NumPy float) one of the class that rows hold."""


def as_mysql_returns(value: Any) -> Any:
    """MySQL stores no offsets, and its drivers return a ``timedelta`` for a TIME."""
    if isinstance(value, datetime.time):
        return datetime.timedelta(
            hours=value.hour, minutes=value.minute, seconds=value.second, microseconds=value.microsecond
        )
    return value.replace(fold=0) if isinstance(value, datetime.datetime) else value
