"""Relations between models: foreign keys, one-to-one, many-to-many, and constraints that the database enforces."""

from collections.abc import Iterable, Set
from typing import Any, NamedTuple, cast

from tortoise.fields.base import DatabaseDefault, OnDelete
from tortoise.fields.db_defaults import SqlDefault
from tortoise.fields.relational import ReverseRelation
from tortoise.models import Model

from aiomodelcache.orm.meta import INTERNAL_ATTRIBUTES, is_partial, meta_of


class RelationInfo(NamedTuple):
    """A relation between the rows of two models: ``attribute`` of one row equals ``to_attribute`` of the other."""

    related: type[Model]
    attribute: str
    to_attribute: str
    single: bool
    """True if there is at most one related row."""


class ManyToMany(NamedTuple):
    """A many-to-many relation, seen from one of its sides."""

    name: str
    related: type[Model]
    reverse: str
    """The relation's name on the related model."""
    table: str
    """The through table, qualified by its schema."""
    own_column: str
    """The through table's column with the primary key of this side."""
    other_column: str
    """The through table's column with the primary key of the related model."""


def many_to_many(model: type[Model], name: str) -> ManyToMany | None:
    """Returns the model's many-to-many relation of this name, declared on either side; None if there is none."""
    field: Any = meta_of(model).fields_map.get(name)
    if name not in meta_of(model).m2m_fields:
        return None
    keys = field.backward_key, field.forward_key
    return ManyToMany(name, field.related_model, field.related_name, through_table(field), *keys)


def many_to_many_names(model: type[Model]) -> list[str]:
    """Returns the names of the model's many-to-many relations, sorted."""
    return sorted(meta_of(model).m2m_fields)


def through_table(relation: Any) -> str:
    """Returns the through table of a many-to-many field of Tortoise, qualified by its schema."""
    return f"{relation.through_schema}.{relation.through}" if relation.through_schema else str(relation.through)


def foreign_key_by(model: type[Model], attribute: str) -> str:
    """Returns the name of the foreign key whose column is ``attribute``."""
    meta = meta_of(model)
    keys: set[str] = meta.fk_fields | meta.o2o_fields
    return next(name for name in sorted(keys) if meta.fields_map[name].source_field == attribute)


def single_relations(model: type[Model]) -> dict[str, str]:
    """Returns the names of the relations to at most one row, by the attributes that hold the fetched row."""
    meta = meta_of(model)
    return {f"_{name}": name for name in sorted(meta.fk_fields | meta.o2o_fields | meta.backward_o2o_fields)}


def plural_relations(model: type[Model]) -> dict[str, str]:
    """Returns the names of the relations to several rows, by the attributes that hold the fetched rows."""
    meta = meta_of(model)
    return {f"_{name}": name for name in sorted(meta.m2m_fields | meta.backward_fk_fields)}


def unstored_parts(instance: Model, columns: Set[str]) -> list[str]:
    """Describes the parts of an instance that its row does not store: annotations and fetched relations, also None."""
    stored = columns | INTERNAL_ATTRIBUTES
    values = vars(instance)
    missing = ["not all of its columns"] if is_partial(instance) or not columns <= values.keys() else []
    others = {name: value for name, value in values.items() if name not in stored}
    return missing + sorted(name for name, value in others.items() if not _is_not_fetched(value))


def _is_not_fetched(value: Any) -> bool:
    return isinstance(value, ReverseRelation) and not cast("Any", value)._fetched


class ForeignKey(NamedTuple):
    """A foreign key that the database enforces: ``child.attribute`` refers to ``parent.to_field``."""

    parent: type[Model]
    child: type[Model]
    attribute: str
    to_field: str
    on_delete: OnDelete
    fk_default_after_delete: Any
    """The value that SET NULL or SET DEFAULT stores in ``attribute``: a ``DatabaseDefault`` if it is not known here."""


def enforced_foreign_keys(models: Iterable[type[Model]]) -> list[ForeignKey]:
    """Returns all foreign keys of these models that the database enforces."""
    foreign_keys: list[ForeignKey] = []
    for child in models:
        meta = meta_of(child)
        for field in [meta.fields_map[name] for name in sorted(meta.fk_fields | meta.o2o_fields)]:
            if field.db_constraint:
                to_field = field.to_field_instance.model_field_name
                on_delete = OnDelete(field.on_delete)  # may be a string
                default = _default_after_delete(field) if on_delete is OnDelete.SET_DEFAULT else None
                foreign_keys.append(
                    ForeignKey(field.related_model, child, field.source_field, to_field, on_delete, default)
                )
    return foreign_keys


def _default_after_delete(field: Any) -> Any:
    # The `default` of a field is applied by Tortoise only: the column may have another default, or none.
    is_known = field.has_db_default() and not isinstance(field.db_default, SqlDefault)
    return field.db_default if is_known else DatabaseDefault(field)
