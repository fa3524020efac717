"""Relations between models: foreign keys, one-to-one, many-to-many, and what the database enforces."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from tortoise.fields.base import DatabaseDefault, OnDelete
from tortoise.fields.db_defaults import SqlDefault
from tortoise.models import Model

from aiomodelcache.orm.meta import meta_of


class RelationInfo(NamedTuple):
    """A relation between the rows of two models that have the same value: in ``attribute``, in ``to_attribute``."""

    related: type[Model]
    attribute: str
    to_attribute: str
    single: bool
    """Whether there is at most one related row."""


class ManyToMany(NamedTuple):
    """A many-to-many relation, seen from one of its sides."""

    name: str
    related: type[Model]
    reverse: str
    """What the related model calls the relation."""
    table: str
    """The table of the links, qualified by its schema."""
    own_column: str
    """In which the primary key of this side is."""
    other_column: str


def many_to_many(model: type[Model], name: str) -> ManyToMany | None:
    """The model's many-to-many relation of this name, on whichever side it was declared; None if there is none."""
    field: Any = meta_of(model).fields_map.get(name)
    if name not in meta_of(model).m2m_fields:
        return None
    keys = field.backward_key, field.forward_key
    return ManyToMany(name, field.related_model, field.related_name, link_table(field), *keys)


def many_to_many_names(model: type[Model]) -> list[str]:
    """Names of the many-to-many relations."""
    return sorted(meta_of(model).m2m_fields)


def link_table(relation: Any) -> str:
    """The table of the links of a many-to-many relation (Tortoise's field), qualified by its schema."""
    return f"{relation.through_schema}.{relation.through}" if relation.through_schema else str(relation.through)


class ForeignKey(NamedTuple):
    """A foreign key that the database enforces: ``child.attribute`` refers to ``parent.to_field``."""

    parent: type[Model]
    child: type[Model]
    attribute: str
    to_field: str
    on_delete: OnDelete
    fk_default_after_delete: Any
    """What SET NULL or SET DEFAULT leaves in ``attribute``; a ``DatabaseDefault`` if only the database knows."""


def enforced_foreign_keys(models: Iterable[type[Model]]) -> list[ForeignKey]:
    """All foreign keys between these models that the database enforces."""
    found: list[ForeignKey] = []
    for child in models:
        meta = meta_of(child)
        for field in [meta.fields_map[name] for name in sorted(meta.fk_fields | meta.o2o_fields)]:
            if field.db_constraint:
                to_field = field.to_field_instance.model_field_name
                on_delete = OnDelete(field.on_delete)  # may be given as a string
                left = _default_after_delete(field) if on_delete is OnDelete.SET_DEFAULT else None
                found.append(ForeignKey(field.related_model, child, field.source_field, to_field, on_delete, left))
    return found


def _default_after_delete(field: Any) -> Any:
    # A `default` is Python's own; the column may have another one, or none.
    known = field.has_db_default() and not isinstance(field.db_default, SqlDefault)
    return field.db_default if known else DatabaseDefault(field)
