"""The foreign keys by which deleting rows of one model changes cached rows of other models.

Knows declarations only. ``write.cascades`` finds the rows.
"""

from collections.abc import Mapping, Sequence

from tortoise.fields.base import OnDelete
from tortoise.models import Model

from aiomodelcache.entries.many_to_many import ManyToManyEntries
from aiomodelcache.entries.tables import NOTHING, ModelsOfTable, WrittenEntries
from aiomodelcache.orm.meta import column_attribute, columns_of, pk_of
from aiomodelcache.orm.relations import ForeignKey, enforced_foreign_keys

Written = Mapping[type[Model], WrittenEntries]


class CascadeGraph:
    """The foreign keys and many-to-many lists that a delete may reach, from each model.

    ``tables`` are all models, with the models of their table: a delete through any of them cascades alike. ``limit`` is
    the maximum number of rows of one model whose keys are collected. Beyond it the whole model is invalidated.
    """

    def __init__(self, written: Written, tables: ModelsOfTable, limit: int) -> None:
        self._written = written
        self.limit = limit
        entries_of_all = [entries for by_writer in written.values() for entries in by_writer.exact]
        lists = dict.fromkeys(through for entries in entries_of_all for through in entries.owned)
        self._lists: dict[type[Model], list[ManyToManyEntries]] = {}
        for model, by_writer in written.items():
            schemas = [entries.schema for entries in by_writer.exact]
            self._lists[model] = [through for through in lists if through.schema in schemas]
        self._by_parent: dict[type[Model], list[ForeignKey]] = {}
        self._unknown: dict[type[Model], list[ForeignKey]] = {}
        keys = _distinct(enforced_foreign_keys(tables), written, tables)
        for key in keys:
            if key.child in written or (key.on_delete is OnDelete.CASCADE and self._reaches(key.child, keys, tables)):
                [column] = columns_of(key.parent, [key.to_field]).values()
                for parent in tables[key.parent]:
                    attribute = column_attribute(parent, column)
                    if attribute is None:
                        self._unknown.setdefault(parent, []).append(key)
                    else:
                        self._by_parent.setdefault(parent, []).append(key._replace(parent=parent, to_field=attribute))

    def affects(self, model: type[Model]) -> bool:
        """Returns True if deleting rows of ``model`` changes the entries of other rows."""
        return bool(self.foreign_keys_to(model) or self.unknown_keys_to(model) or self.lists_of(model))

    def written(self, model: type[Model]) -> WrittenEntries:
        """Returns the entries that a change of rows of ``model`` affects."""
        return self._written.get(model, NOTHING)

    def lists_of(self, model: type[Model]) -> list[ManyToManyEntries]:
        """Returns the many-to-many lists that may contain rows of ``model``."""
        return self._lists.get(model, [])

    def foreign_keys_to(self, model: type[Model]) -> list[ForeignKey]:
        """Returns the foreign keys to ``model`` to follow when its rows are deleted."""
        return self._by_parent.get(model, [])

    def unknown_keys_to(self, model: type[Model]) -> list[ForeignKey]:
        """Returns the foreign keys to a column that ``model`` lacks, so that its rows do not tell what to follow."""
        return self._unknown.get(model, [])

    def columns_needed(self, model: type[Model]) -> list[str]:
        """Returns the attributes of ``model`` whose values are needed to follow its cascades."""
        own = [pk_of(model)] if self.lists_of(model) else []
        return list(dict.fromkeys([*own, *(key.to_field for key in self.foreign_keys_to(model))]))

    def _reaches(self, model: type[Model], keys: Sequence[ForeignKey], tables: ModelsOfTable) -> bool:
        """Returns True if deleting rows of ``model`` deletes or changes rows of a cached model."""
        seen: set[type[Model]] = set()
        pending = [model]
        while pending:
            parent = pending.pop()
            seen.add(parent)
            for key in keys:
                if key.parent in tables[parent]:
                    if key.child in self._written:
                        return True
                    if key.on_delete is OnDelete.CASCADE and key.child not in seen:
                        pending.append(key.child)
        return False


def _distinct(keys: Sequence[ForeignKey], written: Written, tables: ModelsOfTable) -> list[ForeignKey]:
    """Returns the foreign keys to follow: those that several models of a table declare, once."""
    found: dict[tuple[object, ...], ForeignKey] = {}
    for key in sorted(keys, key=lambda key: not _is_cached(key.child, written)):
        if key.on_delete not in (OnDelete.RESTRICT, OnDelete.NO_ACTION):
            [column] = columns_of(key.child, [key.attribute]).values()
            found.setdefault((tables[key.child][0], tables[key.parent][0], column, key.on_delete), key)
    return [key for key in keys if key in found.values()]


def _is_cached(model: type[Model], written: Written) -> bool:
    return any(entries.schema.model is model for entries in written.get(model, NOTHING).exact)
