"""Statements of lookups by values of columns, whose text is made once for each number of values.

Tortoise takes 100 to 200 µs to make the text of a statement, and more for each value in it. The text depends on the
columns, the order and the number of values alone, unless the model's manager hides rows. So the text that Tortoise has
made is sent again, with other values. The number of values is rounded up to a power of two by repeating the last one.
Where PostgreSQL takes an array, one text serves any number of values.
"""

import uuid
from collections.abc import Mapping, Sequence
from itertools import cycle, repeat
from typing import Any, Final, NamedTuple, cast

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.fields import data as data_fields
from tortoise.fields.base import Field
from tortoise.models import Model
from tortoise.validators import MaxLengthValidator

from aiomodelcache.orm.hydrate import RowConverter, fetch_rows, is_built_by_tortoise, is_plain_select, row_converter
from aiomodelcache.orm.meta import Values, meta_of
from aiomodelcache.orm.schema import ModelSchema

_TYPES: Final = frozenset[type]({int, str, uuid.UUID})
"""The types of values that are sent. Statements for others are made anew."""
_ARRAY_FIELDS: Final = (
    data_fields.IntField,
    data_fields.BigIntField,
    data_fields.SmallIntField,
    data_fields.CharField,
    data_fields.TextField,
    data_fields.UUIDField,
)
"""Fields whose columns PostgreSQL compares with an array of their values."""
_field: Final[Any] = Field
_MAX_REMEMBERED: Final = 256
"""Maximum number of remembered statements of one model. Beyond it, statements are made anew."""


class _RememberedStatement(NamedTuple):
    """The text of a statement, the number of its values, and how the driver's rows become instances."""

    sql: str
    slots: int
    """0 if all values are one array."""
    convert: RowConverter

    def parameters(self, values: list[Any]) -> list[Any]:
        """Returns the parameters of the statement for values as they are sent to the database."""
        return _padded(values, self.slots) if self.slots else [values]


async def fetch_by_values(
    schema: ModelSchema,
    client: BaseDBAsyncClient,
    attributes: tuple[str, ...],
    wanted: Sequence[Values],
    order_by: tuple[str, ...],
) -> list[Model] | None:
    """Returns the instances with these values of columns, in order, or None if the statement must be made anew.

    Raises the database's errors, and those of Tortoise for values that a field refuses.
    """
    count, single = len(wanted), len(attributes) == 1
    values = [value for (value,) in wanted] if single else wanted[0]
    if schema.hides_rows or not (single or count == 1) or not _TYPES.issuperset(map(type, values)):
        return None
    model = cast("Any", schema.model)
    fields = [meta_of(model).fields_map[name] for name in attributes]
    encoded = list(values)
    if not single or not _is_sent_as_is(fields[0], encoded):
        encoded = [field.to_db_value(value, model) for field, value in zip(cycle(fields), values, strict=False)]
    slots = len(fields) if count == 1 else 0 if _takes_array(client, fields[0]) else 1 << (count - 1).bit_length()
    key = attributes, order_by, slots
    known = schema.remembered.get(key)
    if known is None and len(schema.remembered) < _MAX_REMEMBERED:
        known = _learn(schema, client, key, wanted, encoded)
        schema.remembered[key] = known or False
    if not known or not is_built_by_tortoise(model, client):
        return None
    return await fetch_rows(schema, client, known.sql, known.parameters(encoded), known.convert)


def impossible_keys(schema: ModelSchema, attributes: tuple[str, ...], wanted: Mapping[bytes, Values]) -> list[bytes]:
    """Returns the keys of normalised values that no row can have, so that no statement need look for them."""
    if len(attributes) == 1 and _can_hold_all(schema, attributes[0], [value for (value,) in wanted.values()]):
        return []
    return [key for key, values in wanted.items() if not schema.can_hold(attributes, values)]


def _can_hold_all(schema: ModelSchema, attribute: str, values: list[Any]) -> bool:
    """Returns True for text and integers that rows can have, as nearly all keys are, as ``can_hold`` does for each."""
    kinds = set(map(type, values))
    if len(kinds) != 1 or not kinds <= schema.encodable_types(attribute):
        return False
    if str in kinds:
        text = "".join(values)
        return meta_of(schema.model).fields_map[attribute].field_type is str and text.isascii() and "\0" not in text
    bound = schema.integer_bounds[attribute]
    return bool(-bound <= min(values) and max(values) < bound)


def _learn(
    schema: ModelSchema,
    client: BaseDBAsyncClient,
    key: tuple[tuple[str, ...], tuple[str, ...], int],
    wanted: Sequence[Values],
    encoded: list[Any],
) -> _RememberedStatement | None:
    """Returns the statement for so many values, or None if its text depends on more than their number."""
    attributes, order_by, slots = key
    if len(wanted) > 1:
        wanted = _padded(wanted, slots) if slots else wanted[:1]
    rows = schema.queryset(client).filter(schema.matching(attributes, wanted))
    query: Any = rows.order_by(*order_by) if order_by else rows
    if not is_plain_select(schema, query):
        return None
    query._make_query()
    sql, parameters = query.query.get_parameterized_sql()
    expected = _padded(encoded, slots) if slots else encoded[:1]
    if parameters != expected or list(map(type, parameters)) != list(map(type, expected)):
        return None
    if not slots:
        before, equals, after = sql.partition("=$1")
        if not equals or "$" in before + after:
            return None
        sql = f"{before}=ANY($1){after}"
    return _RememberedStatement(sql, slots, row_converter(schema.model))


def _padded(values: Sequence[Any], size: int) -> list[Any]:
    return [*values, *repeat(values[-1], size - len(values))]


def _is_sent_as_is(field: Any, values: Sequence[Any]) -> bool:
    """Returns True if Tortoise would neither convert nor refuse any of these values, which saves asking it for each."""
    kind = cast("Any", type(field))
    if kind.to_db_value is not _field.to_db_value or kind.validate is not _field.validate:
        return False
    if set(map(type, values)) != {field.field_type}:
        return False
    lengths = [each.max_length for each in field.validators if type(each) is MaxLengthValidator]
    return len(lengths) == len(field.validators) and (not lengths or max(map(len, values)) <= min(lengths))


def _takes_array(client: BaseDBAsyncClient, field: Any) -> bool:
    """Returns True if the driver encodes an array of a column's values by the column's type."""
    return type(client).__module__.startswith("tortoise.backends.asyncpg") and type(field) in _ARRAY_FIELDS
