"""Table versions: the keys by which derived entries notice any write to a table.

A write's intent marks the versions of the tables that it changes before COMMIT, and clears them after it. Clearing
leaves a version absent. The next computation that reads the table creates a new one, with a new random token.
"""

from collections.abc import Mapping, Sequence, Set

from tortoise.fields.base import OnDelete
from tortoise.models import Model

from aiomodelcache.encoding.keys import KeySpace
from aiomodelcache.encoding.partitions import TAG_SIZE
from aiomodelcache.entries.indexes import IndexEntries
from aiomodelcache.entries.many_to_many import ManyToManyEntries
from aiomodelcache.entries.model import ModelEntries
from aiomodelcache.entries.rows import RowEntries
from aiomodelcache.entries.tables import NOTHING, ModelsOfTable, WrittenEntries
from aiomodelcache.orm.meta import columns_of
from aiomodelcache.orm.relations import enforced_foreign_keys, many_to_many, many_to_many_names
from aiomodelcache.orm.schema import ModelSchema
from aiomodelcache.scopes.tracking import Tracker


class TableVersions:
    """The tables of one open cache that have a version: those of cached models, and through tables between them.

    ``tables`` are all models, with the models of their table.
    """

    def __init__(
        self,
        models: Mapping[type[Model], ModelEntries],
        written: Mapping[type[Model], WrittenEntries],
        tables: ModelsOfTable,
        space: KeySpace,
    ) -> None:
        self._keys: dict[tuple[str, str], bytes] = {}
        self._narrow = {
            entries.rows.table_key: (entries.rows.narrow_key, _ignored_columns(entries))
            for entries in models.values()
            if entries.rows.table_key is not None and entries.rows.narrow_key is not None
        }
        """For tables with columns in ``queries_ignore``: the narrow version's key, and these columns in lower case."""
        for entries in models.values():
            if entries.rows.table_key is not None:
                self._keys[entries.schema.connection, entries.schema.table] = entries.rows.table_key
        uncached = {ModelSchema.table_of(model) for model in tables if not _has_version(written.get(model, NOTHING))}
        self._through: dict[type[Model], list[bytes]] = {}
        for model, sharing in tables.items():
            keys = [key for other in sharing for key in self._add_through_tables(other, models, space, uncached)]
            self._through[model] = list(dict.fromkeys(keys))
            if model in models:
                models[model].rows.link_keys = self._through[model]
        self._deleted = self._cascades(written, tables)
        self._model_end = slice(-1 - TAG_SIZE if space.partitions > 1 else None)
        """The part of the key of an epoch or a stamp that all partitions of a model share."""
        self._by_epoch = {
            entries.rows.partitions.epochs[0][self._model_end]: entries.rows.table_key
            for entries in models.values()
            if entries.rows.table_key is not None
        }
        """The keys of the versions of cached models' tables, by the keys of the models' epochs."""
        narrow = [entries.rows.narrow_key for entries in models.values() if entries.rows.narrow_key is not None]
        self.all = list(dict.fromkeys([*self._keys.values(), *narrow]))
        """The keys of all versions."""
        self.tables = frozenset(self.all)
        self._prefixes = [
            (prefix, entries.rows.table_key)
            for entries in models.values()
            for prefix in (entries.rows.prefix, *[index.prefix for index in entries.indexes])
            if entries.rows.table_key is not None
        ]
        self._stamps = {entries.rows.partitions.stamps[0][self._model_end] for entries in models.values()}
        self.names = frozenset(name for _, name in self._keys)
        """The names of the tables that have a version."""

    def key(self, connection: str, table: str) -> bytes | None:
        """Returns the key of a table's version, or None if writes to the table are not noticed."""
        return self._keys.get((connection, table))

    def tables_by_epoch(self, keys: Set[bytes]) -> dict[bytes, bytes]:
        """Returns the versions of the tables of those models whose epochs are among these keys, by their epochs."""
        by_epoch, end = self._by_epoch, self._model_end
        if end.stop is None:
            return {key: by_epoch[key] for key in by_epoch.keys() & keys}
        return {key: by_epoch[key[end]] for key in keys if key[end] in by_epoch}

    def count_without_epochs(self, keys: Set[bytes]) -> int:
        """Returns the number of keys that are no epochs of models, of which each partition brings its own."""
        return len(keys) - len(self.tables_by_epoch(keys))

    def is_stamp(self, key: bytes) -> bool:
        """Returns True if this is the key of a stamp of a cached model."""
        return key[self._model_end] in self._stamps

    def through_keys(self, table: str) -> list[bytes]:
        """Returns the keys of a through table's versions, one for each connection of a model at its ends."""
        return [key for (_, name), key in self._keys.items() if name == table]

    def version_for(self, key: bytes, words: Set[str]) -> bytes:
        """Returns the key of the version that a statement of these words, in lower case, depends on."""
        return key if key not in self._narrow or self.reads_ignored(key, words) else self._narrow[key][0]

    def reads_ignored(self, key: bytes, words: Set[str]) -> bool:
        """Returns True if a statement of these words may read a column of the table in ``queries_ignore``."""
        return key in self._narrow and ("*" in words or not self._narrow[key][1].isdisjoint(words))

    def tables_of(self, entry_set: RowEntries | IndexEntries) -> list[bytes | None]:
        """Returns the versions of the tables that entries are loaded from. None: writes to one are not noticed."""
        tables = [entry_set.rows.table_key]
        if isinstance(entry_set, ManyToManyEntries):
            tables.append(self.key(entry_set.owner.connection, entry_set.relation.table))
        return tables

    def collapse(self, tracker: Tracker, limit: int) -> None:
        """Replaces the entries of models by the versions of their tables, as far as needed to have at most ``limit``.

        Epochs do not count. A version can stand for entries only if it was read before them.
        """
        by_table: dict[bytes, list[bytes]] = {}
        late = tracker.late
        for key in tracker.dependencies:
            table = next((table for prefix, table in self._prefixes if key.startswith(prefix)), None)
            if table is not None and table in tracker.versions and table not in late:
                by_table.setdefault(table, []).append(key)
        for table, keys in sorted(by_table.items(), key=lambda pair: -len(pair[1])):
            if self.count_without_epochs(tracker.dependencies.keys()) > limit:
                epochs = [key for key, of in self.tables_by_epoch(tracker.dependencies.keys()).items() if of == table]
                for key in [*keys, *(epochs if self._model_end.stop is not None else ())]:
                    del tracker.dependencies[key]
                tracker.add_table(table)  # what replaces an epoch marks the version, too

    def deleted_with(self, model: type[Model]) -> Sequence[bytes]:
        """Returns the versions of the other tables that the database changes when rows of ``model`` are deleted."""
        return self._deleted.get(model, ())

    def _add_through_tables(
        self, model: type[Model], models: Mapping[type[Model], ModelEntries], space: KeySpace, uncached: set[str]
    ) -> list[bytes]:
        """Adds the through tables of a model's relations. Writes through an uncached model of one are not noticed."""
        keys: list[bytes] = []
        for name in many_to_many_names(model):
            relation = many_to_many(model, name)
            if relation is None or relation.table in uncached:
                continue
            ends = [models.get(model), models.get(relation.related)]
            for entries in ends:
                if entries is not None and all(end is not None and end.rows.table_key is not None for end in ends):
                    place = entries.schema.connection, relation.table
                    key = self._keys.setdefault(place, space.table_key(*place))
                    keys += [key, self._narrow[key][0]] if key in self._narrow else [key]
        return keys

    def _cascades(
        self, written: Mapping[type[Model], WrittenEntries], tables: ModelsOfTable
    ) -> dict[type[Model], Sequence[bytes]]:
        foreign_keys = [
            key for key in enforced_foreign_keys(tables) if key.on_delete not in (OnDelete.RESTRICT, OnDelete.NO_ACTION)
        ]
        found: dict[type[Model], Sequence[bytes]] = {}
        for model in tables:
            changed: dict[bytes, None] = {}
            seen = {model}
            pending = [model]
            while pending:
                parent = pending.pop()
                changed.update(dict.fromkeys(self._through[parent]))
                for key in foreign_keys:
                    if key.parent in tables[parent]:
                        child = written.get(key.child, NOTHING)
                        rows = [entries.rows for entries in (*child.exact, *child.whole)]
                        changed.update(dict.fromkeys([version for each in rows for version in each.version_keys]))
                        if key.on_delete is OnDelete.CASCADE and key.child not in seen:
                            seen.add(key.child)
                            pending.append(key.child)
            if changed:
                found[model] = list(changed)
        return found


def _has_version(written: WrittenEntries) -> bool:
    return any(entries.rows.table_key is not None for entries in (*written.exact, *written.whole))


def _ignored_columns(entries: ModelEntries) -> frozenset[str]:
    schema = entries.schema
    attributes = [attribute for name in entries.rows.queries_ignore if (attribute := schema.attribute(name))]
    return frozenset([column.lower() for column in columns_of(schema.model, attributes).values()])
