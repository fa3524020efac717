"""Properties of all rows that a queryset returns: whether they are whole, and the conditions that each meets."""

from collections.abc import Collection, Iterable
from typing import Any

from tortoise.expressions import Q
from tortoise.models import Model
from tortoise.queryset import QuerySet

from aiomodelcache.orm.meta import attributes_of, meta_of


def equal_values(queryset: Any, attributes: Collection[str]) -> dict[str, Any] | None:
    """Returns the values that the queryset demands of these attributes, or None if it does not demand one of each."""
    model, found = queryset.model, dict[str, Any]()
    for name, value in _conditions(getattr(queryset, "_q_objects", ())):  # a union has none
        [attribute] = attributes_of(model, [name])
        if attribute in attributes and name not in queryset._annotations:
            found[attribute] = _column_value(model, name, value)
    return found if found.keys() >= set(attributes) else None


def selects_rows(queryset: Any) -> bool:
    """Returns True if a queryset returns whole rows, and nothing that is computed from their columns."""
    return issubclass(type(queryset), QuerySet) and not (queryset._annotations or queryset._fields_for_select)


def _conditions(conditions: Iterable[Any]) -> Iterable[tuple[str, Any]]:
    """Yields the names and values that all of the conditions demand to be equal."""
    for condition in conditions:
        if condition.join_type == Q.AND and not condition._is_negated:
            yield from condition.filters.items()
            yield from _conditions(condition.children)


def _column_value(model: type[Model], name: str, value: Any) -> Any:
    """Returns the value in the column, if a relation is compared with an instance."""
    if not isinstance(value, Model):
        return value
    relation = meta_of(model).fields_map[name]
    return getattr(value, relation.to_field_instance.model_field_name)
