"""The tables whose writes a relay has to see, with the columns that name the affected keys.

Pure: derived from the declarations, and equal in every process of one release. Must not know how writes are captured.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from tortoise.models import Model

from aiomodelcache.exceptions import CacheConfigurationError
from aiomodelcache.open_cache import OpenCache
from aiomodelcache.orm.meta import columns_of, full_name, pk_of, schema_of, table_of
from aiomodelcache.orm.relations import many_to_many, many_to_many_names
from aiomodelcache.orm.schema import ModelSchema
from aiomodelcache.orm.tables import database_id
from aiomodelcache.write.affected import affected_columns

FORMAT: Final = 3
"""The format of captured lines. A change makes triggers of earlier releases out of date."""

_FINGERPRINT_SIZE: Final = 8


@dataclass(frozen=True, slots=True)
class CapturedTable:
    """A table whose writes are captured."""

    connection: str
    """The alias of its connection in Tortoise's configuration."""
    schema: str | None
    """The schema or database that the model names; None for the connection's own."""
    table: str
    pk: str
    """The column of the primary key. Empty for a through table, which has none."""
    columns: tuple[str, ...]
    """The columns whose old and new values are captured, sorted. The primary key is one of them."""
    models: tuple[type[Model], ...]
    """The models with ``relay = True`` of this table, or all cached ones if none has it. Empty for a through table."""

    @property
    def name(self) -> str:
        """The table's name, after that of its schema if the model names one."""
        return f"{self.schema}.{self.table}" if self.schema else self.table

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that identify the table and all that its triggers capture."""
        return _digest(repr((FORMAT, self.schema or "", self.table, self.pk, self.columns)))


def captured_tables(cache: OpenCache, *, every: bool = False) -> dict[str, list[CapturedTable]]:
    """Returns the captured tables by the alias of their connection; an empty dict if no model has ``relay = True``.

    These are the tables of such models, and the through tables of their many-to-many relations on which lists or
    derived entries depend. With ``every``, those of all other cached models, too. Raises ``CacheConfigurationError`` if
    two connections with captured tables lead to one database, because the relay of one connection would delete the
    lines of the other.
    """
    found = _collect(cache, every=False)
    if every:
        found = _collect(cache, every=True) | found
    by_connection: dict[str, list[CapturedTable]] = {}
    for _, each in sorted(found.items()):
        by_connection.setdefault(each.connection, []).append(each)
    _refuse_two_connections(cache, by_connection)
    return by_connection


def further_tables(cache: OpenCache, tables: Sequence[CapturedTable]) -> list[CapturedTable]:
    """Returns the tables of other cached models on the connections of these tables. They may be captured as well."""
    known = {(table.connection, table.name) for table in tables}
    connections = {table.connection for table in tables}
    found = sorted(_collect(cache, every=True).items())
    return [table for place, table in found if table.connection in connections and place not in known]


def coverage_of(tables: Iterable[CapturedTable]) -> str:
    """Returns the fingerprints of tables, separated by spaces, as they are stored with the triggers."""
    return " ".join(sorted(table.fingerprint for table in tables))


def coverage_fingerprint(coverage: str) -> str:
    """Returns 16 hexadecimal digits that identify what ``coverage_of`` returns.

    They are part of the key by which readers learn that a relay is alive. So a release that captures more than the
    installed triggers is not served from the cache.
    """
    return _digest(coverage)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=_FINGERPRINT_SIZE).hexdigest()


def _collect(cache: OpenCache, *, every: bool) -> dict[tuple[str, str], CapturedTable]:
    """Returns the captured tables by connection and name. ``every``: of all cached models."""
    found: dict[tuple[str, str], CapturedTable] = {}
    for model, entries in cache.models.items():
        if every or entries.rows.relayed:
            schema = entries.schema
            place = schema.connection, schema.table
            known = found.get(place)
            models = (*known.models, model) if known is not None else (model,)
            found[place] = _captured_model(cache, schema, models)
    for place, columns in _through_tables(cache, every=every):
        if place not in found:
            connection, name = place
            own, _, table = name.rpartition(".")
            found[place] = CapturedTable(connection, own or None, table, "", tuple(sorted(columns)), ())
    return found


def _captured_model(cache: OpenCache, schema: ModelSchema, models: tuple[type[Model], ...]) -> CapturedTable:
    """Returns the table of models, with the columns that determine the keys of all cached models of the table.

    Models that name the columns otherwise than the first one are invalidated as a whole, so they need no columns.
    """
    exact = cache.written[models[0]].exact
    attributes = {name for entries in exact for name in affected_columns(entries, None, manual=True)}
    columns = columns_of(models[0], attributes)
    [pk] = columns_of(models[0], [pk_of(models[0])]).values()
    own = schema_of(models[0]), table_of(models[0])
    return CapturedTable(schema.connection, *own, pk, tuple(sorted({pk, *columns.values()})), models)


def _through_tables(cache: OpenCache, *, every: bool) -> Iterable[tuple[tuple[str, str], tuple[str, str]]]:
    """Yields the through tables at models with ``relay = True``, or at all: connection and name, and the columns."""
    listed = {(through.owner.connection, through.relation.table) for through in cache.many_to_many}
    for model, entries in cache.models.items():
        for name in many_to_many_names(model):
            relation = many_to_many(model, name)
            if relation is None:
                continue
            place = entries.schema.connection, relation.table
            other = cache.models.get(relation.related)
            relayed = every or entries.rows.relayed or (other is not None and other.rows.relayed)
            if relayed and (place in listed or cache.versions.key(*place) is not None):
                yield place, (relation.own_column, relation.other_column)


def _refuse_two_connections(cache: OpenCache, by_connection: dict[str, list[CapturedTable]]) -> None:
    clients = {schema.connection: schema.client for schema in cache.connections}
    known: dict[object, CapturedTable] = {}
    for connection, tables in by_connection.items():
        other = known.setdefault(database_id(clients[connection]), tables[0])
        if other.connection != connection:
            names = " and ".join(
                f"{full_name(each.models[0]) if each.models else each.name} ({each.connection})"
                for each in (other, tables[0])
            )
            raise CacheConfigurationError(
                f"CacheMeta.relay: {names} use two connections to one database. Give all models of a database whose "
                "writes are captured the same connection."
            )
