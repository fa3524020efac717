"""Orders of rows: the rows that follow after a position, and values that Python orders as the database does.

NULL is the largest value on PostgreSQL, and the smallest one on SQLite and MySQL.
"""

import datetime
import decimal
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, cast

from tortoise.expressions import Q
from tortoise.models import Model

from aiomodelcache.orm.fields import converts_like_tortoise
from aiomodelcache.orm.meta import meta_of, ordering_attributes

OrderedAttribute = tuple[str, bool]
"""An attribute that rows are ordered by, and True for descending order."""

_ORDERED_ALIKE: Final = frozenset(
    {
        int,
        float,
        bool,
        decimal.Decimal,
        datetime.date,
        datetime.datetime,
        datetime.time,
        datetime.timedelta,
        uuid.UUID,
    }
)
"""Types that every database orders as Python does. Text is ordered by a collation."""


def columns_of_order(model: type[Model], order_by: Iterable[str]) -> list[OrderedAttribute]:
    """Returns the columns of an order like ``("-created", "id")``."""
    names = list(order_by)
    return list(zip(ordering_attributes(model, names), [name.startswith("-") for name in names], strict=True))


def after_condition(order: Iterable[OrderedAttribute], position: Mapping[str, Any], dialect: str) -> Q:
    """Returns the condition that a row follows after the row with the values of ``position``, in this order."""
    alternatives: list[Q] = []
    equal: dict[str, Any] = {}
    for name, descending in order:
        value = position[name]
        nulls_follow = (dialect == "postgres") is not descending
        if value is not None:
            beyond = _condition({f"{name}__{'lt' if descending else 'gt'}": value})
            beyond = beyond | _condition({f"{name}__isnull": True}) if nulls_follow else beyond
            alternatives.append(_condition(equal) & beyond)
        elif not nulls_follow:
            alternatives.append(_condition({**equal, f"{name}__isnull": False}))
        equal[name if value is not None else f"{name}__isnull"] = True if value is None else value
    return Q(*alternatives, join_type="OR")


def _condition(conditions: dict[str, Any]) -> Q:
    return Q(**conditions)


def orders_alike(model: type[Model], attribute: str) -> bool:
    """Returns True if Python orders the values of a column as the database does."""
    field = meta_of(model).fields_map[attribute]
    return field.field_type in _ORDERED_ALIKE and converts_like_tortoise(field)


def sort_key(attribute: str, dialect: str) -> Callable[[Any], tuple[int, Any]]:
    """Returns a function of an instance that returns its value of a column, in a form that can be compared.

    NULL comes where the database puts it. Infinity and NaN are compared as PostgreSQL does.
    """
    null = 2 if dialect == "postgres" else -1

    def key(instance: Any) -> tuple[int, Any]:
        value = cast("Any", vars(instance)[attribute])
        if value is None:
            return null, 0
        return (1, 0) if value != value else (0, value)  # NaN is equal to nothing

    return key
