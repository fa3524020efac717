"""The entries that a write through a model affects: those of all cached models of its table."""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from tortoise.models import Model

from aiomodelcache.entries.model import ModelEntries
from aiomodelcache.orm.meta import column_attribute, columns_of, field_class, pk_of

ModelsOfTable = Mapping[type[Model], Sequence[type[Model]]]
"""The models that share the table of a model, itself included, by the model."""


class WrittenEntries(NamedTuple):
    """The entries that a write through one model affects."""

    exact: Sequence[ModelEntries]
    """Entries whose keys the written rows name, by the attributes of the model that writes. Its own come first."""
    whole: Sequence[ModelEntries]
    """Entries of models that name columns of their keys otherwise. All of them are invalidated."""

    @property
    def hides_rows(self) -> bool:
        """True if a manager of the models in ``exact`` may hide rows."""
        return any(entries.schema.hides_rows for entries in self.exact)


NOTHING: Final = WrittenEntries((), ())


def entries_by_writer(
    bound: Mapping[type[Model], ModelEntries], tables: ModelsOfTable
) -> dict[type[Model], WrittenEntries]:
    """Returns the entries of each model that shares its table with a cached one, or is cached itself."""
    by_writer: dict[type[Model], WrittenEntries] = {}
    for writer, sharing in tables.items():
        others = [bound[model] for model in sharing if model in bound and model is not writer]
        exact = [entries for entries in others if _names_alike(writer, entries)]
        whole = [entries for entries in others if not any(entries is other for other in exact)]
        own = [bound[writer]] if writer in bound else []
        if own or others:
            by_writer[writer] = WrittenEntries([*own, *exact], whole)
    return by_writer


def _names_alike(writer: type[Model], entries: ModelEntries) -> bool:
    """Returns True if the attributes of ``writer`` name the keys of another model's entries."""
    model = entries.schema.model
    entry_sets = [*entries.indexes, *entries.results]
    keys = {pk_of(model), *(name for entry_set in entry_sets for name in entry_set.attributes)}
    watched = {name for entry_set in entry_sets for name in entry_set.watched or ()}
    watched |= {name for name in entries.rows.queries_ignore if entries.schema.attribute(name) == name}
    columns = columns_of(model, keys | watched)
    return (
        pk_of(writer) == pk_of(model)
        and all(column_attribute(writer, columns[name]) == name for name in keys)
        and all(field_class(writer, name) is field_class(model, name) for name in keys)
        and all(column_attribute(writer, columns[name]) in (name, None) for name in watched)
    )
