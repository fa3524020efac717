"""The replica identities of the captured tables: the columns whose old values PostgreSQL tells.

A change names the keys of a row exactly if the old values of all captured columns are known. If they are not, each
UPDATE and DELETE invalidates the whole table, because the row may have left any list or key.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache.relay.captured import CapturedTable
from aiomodelcache.relay.triggers.definitions import quoted, select
from aiomodelcache.relay.triggers.postgres import captured_relations, relation_name

_INDEXES: Final = """
    SELECT pg_class.oid::bigint AS relation, relreplident::text AS setting, name, columns,
        indexrelid IS NOT DISTINCT FROM pg_catalog.pg_get_replica_identity_index(pg_class.oid) AS is_identity
    FROM pg_catalog.pg_class LEFT JOIN LATERAL (
        SELECT indexrelid, (SELECT relname::text FROM pg_catalog.pg_class WHERE oid = indexrelid) AS name, ARRAY(
            SELECT attname::text FROM pg_catalog.pg_attribute WHERE attrelid = indrelid
            AND attnum = ANY ((indkey::int2[])[0:indnkeyatts - 1])
        ) AS columns
        FROM pg_catalog.pg_index
        WHERE indrelid = pg_class.oid AND indisunique AND indisvalid AND indimmediate
          AND indpred IS NULL AND indexprs IS NULL
          AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute WHERE attrelid = indrelid AND NOT attnotnull
            AND attnum = ANY ((indkey::int2[])[0:indnkeyatts - 1]))
    ) usable ON true
    WHERE pg_class.oid = ANY (ARRAY[{}]::oid[])
"""
"""The indexes that may be a replica identity: unique, at once, and of columns that are never NULL."""


class Identity(NamedTuple):
    """The effect of one table's replica identity. A partition is a table of its own."""

    table: str
    """The name of the captured table."""
    place: str
    """The table or the partition."""
    effect: Literal["each row", "the whole table", "fails"]
    """The entries that an UPDATE or a DELETE of a row invalidates, or its refusal by PostgreSQL."""
    remedy: str
    """The statement to run for "each row". Empty if that is the case."""


async def identities(client: BaseDBAsyncClient, tables: Sequence[CapturedTable]) -> list[Identity]:
    """Returns the identity of each captured table that has rows of its own, and of each of its partitions."""
    rows = [row for row in await captured_relations(client, tables) if row["relkind"] == "r"]
    if not rows:
        return []
    indexes: dict[int, list[Mapping[str, Any]]] = {}
    for index in await select(client, _INDEXES.format(", ".join(str(row["relation"]) for row in rows))):
        indexes.setdefault(int(index["relation"]), []).append(index)
    by_name = {relation_name(table): table for table in tables}
    return [_identity(by_name[row["name"]], str(row["place"]), indexes[int(row["relation"])]) for row in rows]


def _identity(table: CapturedTable, place: str, indexes: Iterable[Mapping[str, Any]]) -> Identity:
    indexes = list(indexes)
    setting = str(indexes[0]["setting"])
    known = [set(each["columns"]) for each in indexes if each["name"] is not None and each["is_identity"]]
    if setting == "f" or (setting != "n" and any(columns.issuperset(table.columns) for columns in known)):
        return Identity(table.name, place, "each row", "")
    fit = [each for each in indexes if each["name"] is not None and set(each["columns"]).issuperset(table.columns)]
    target = f"USING INDEX {quoted(fit[0]['name'])}" if fit else "FULL"
    remedy = f"run ALTER TABLE {place} REPLICA IDENTITY {target}"
    return Identity(table.name, place, "the whole table" if known and setting != "n" else "fails", remedy)
