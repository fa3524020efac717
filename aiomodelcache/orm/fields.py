"""Single fields of Tortoise: the stored form of their values.

Knows fields and values, not models as a whole: see ``schema``. For the values of keys see ``key_values``.
"""

import datetime
import functools
import importlib
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
from aiomodelcache.encoding.rows import Column, TypePredicate
from aiomodelcache.encoding.values import to_msgpack


def column_of(name: str, field: Any, model: type[Model], client: BaseDBAsyncClient) -> Column | None:
    """Returns the column that stores a field's values in a row entry; None if no form would be exact."""
    if isinstance(field, data_fields.JSONField):
        return _json_column(name, field, model)
    if is_enum(field):
        return Column(name, Any, _dump_member, field.enum_type, is_frozen=True)
    if not converts_like_tortoise(field):
        return Column(name, Any, partial(_dump_custom, field, model), field.to_python_value)
    if isinstance(field, data_fields.DatetimeField):
        return _datetime_column(name)
    if isinstance(field, data_fields.TimeField):
        return Column(name, str | int, _dump_time, _load_time, is_frozen=True)
    kind = field.field_type
    if kind in (uuid.UUID, list) and type(client).__module__.startswith("tortoise.backends.asyncpg"):
        driver: Any = importlib.import_module("asyncpg.pgproto.pgproto")  # the driver has its own UUID class
        if kind is uuid.UUID:
            return Column(name, bytes, None, driver.UUID, TypePredicate(driver.UUID), is_frozen=True)
        return Column(name, Any, partial(_dump_array, driver.UUID), partial(_load_array, driver.UUID))
    if kind in NATIVE:
        return Column(name, kind)
    if kind is list:
        return Column(name, Any, to_msgpack)
    return None


def is_enum(field: Any) -> bool:
    """Returns True if the field is one of Tortoise's two enum fields."""
    return isinstance(field, data_fields.IntEnumFieldInstance | data_fields.CharEnumFieldInstance)


def converts_like_tortoise(field: Field[Any]) -> bool:
    """Returns True if the field's class inherits its conversions from and to the database from Tortoise."""
    kind: Any = cast("Any", type(field))
    return _inherits_conversions(kind)


@functools.cache
def _inherits_conversions(kind: type) -> bool:
    methods: list[Any] = [getattr(kind, name) for name in ("to_db_value", "to_python_value")]
    return all(method.__module__.startswith("tortoise.") for method in methods)


def _json_column(name: str, field: Any, model: type[Model]) -> Column:
    if _encodes_like_tortoise(field) and not hasattr(field.field_type, "model_dump") and converts_like_tortoise(field):
        return Column(name, Any, to_msgpack, is_lossless=_DOCUMENT)
    return Column(name, str, partial(_dump_custom, field, model), field.to_python_value)


def _encodes_like_tortoise(field: Any) -> bool:
    """Returns True if a JSON field has Tortoise's encoder and decoder.

    A field that a model inherits from an abstract model has a copy of the encoder.
    """
    standard: Any = data_fields.JSON_DUMPS
    encoder = field.encoder
    if isinstance(encoder, partial) and isinstance(standard, partial):
        same = (encoder.func, encoder.args, encoder.keywords) == (standard.func, standard.args, standard.keywords)
    else:
        same = encoder is standard
    return same and field.decoder is data_fields.JSON_LOADS


def _dump_array(driver_uuid: Any, array: Any) -> Any:
    return to_msgpack(_map_items(array, driver_uuid, lambda value: uuid.UUID(bytes=value.bytes)))


def _load_array(driver_uuid: Any, array: Any) -> Any:
    return _map_items(array, uuid.UUID, lambda value: driver_uuid(value.bytes))


def _map_items(value: Any, kind: type, convert: Callable[[Any], Any]) -> Any:
    """Returns an array of any depth with every item of exactly this type converted."""
    item_type = cast("Any", type(value))
    if item_type is list:
        return [_map_items(item, kind, convert) for item in value]
    return convert(value) if item_type is kind else value


def _dump_member(member: Any) -> Any:
    return to_msgpack(member.value)


def _dump_custom(field: Any, model: type[Model], value: Any) -> Any:
    return to_msgpack(field.to_db_value(value, model))


def _datetime_column(name: str) -> Column:
    if not get_use_tz():
        return Column(name, datetime.datetime)
    zone = get_default_timezone()
    if zone == parse_timezone("UTC"):
        load, is_lossless = partial(_in_utc, zone), partial(_is_in_zone, zone)
        return Column(name, datetime.datetime, None, load, is_lossless, is_frozen=True, zone=zone)
    return Column(name, datetime.datetime, None, methodcaller("astimezone", zone), is_frozen=True)


def _in_utc(zone: datetime.tzinfo, value: datetime.datetime) -> datetime.datetime:
    """Returns ``value.astimezone(zone)``, in half of its time for a value in UTC. ``zone`` is UTC by another name."""
    if value.tzinfo is datetime.UTC:
        return datetime.datetime.combine(value, value.time(), zone)
    return value.astimezone(zone)


def _is_in_zone(zone: datetime.tzinfo, value: Any) -> bool:
    return type(value) is datetime.datetime and value.tzinfo is zone


_DOCUMENT: Final = TypePredicate(None)
"""True for every value, because ``to_msgpack`` refuses values that it cannot write exactly."""


def _dump_time(value: datetime.time | datetime.timedelta) -> str | int:
    """Returns the stored form of a TIME, for which MySQL's driver returns a ``timedelta``."""
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
