"""The publication of the captured tables: the changes that PostgreSQL sends to a relay. Also the relay's own table.

Rules of the installation:

1. It waits until all transactions end that have written a table which it adds. Their changes would be sent in part.
2. Partitions are published as themselves, because each has a replica identity of its own.
3. A table whose rows have no replica identity is refused, because PostgreSQL then refuses its UPDATEs and DELETEs.
"""

from collections.abc import Sequence
from typing import Final

from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache.exceptions import RelayError
from aiomodelcache.relay.captured import CapturedTable
from aiomodelcache.relay.stream.identity import identities
from aiomodelcache.relay.triggers.definitions import (
    NAME_PREFIX,
    TABLE_STATE,
    CatalogueRows,
    Definition,
    literal,
    md5_digest,
    quoted,
    select,
    tag,
)
from aiomodelcache.relay.triggers.postgres import (
    PostgresTriggers,
    captured_relations,
    check_relations,
    current_schema,
    relation_name,
)

STREAM: Final = f"{NAME_PREFIX}stream"
"""The table of one row: the coverage, the owner, and the last known state of the slot."""
_COLUMNS: Final = "(captured text, owner text, slot text, position pg_lsn)"
_FLAGS: Final = "f t t t t f"
"""Not of all tables, but of all kinds of changes, and of partitions as themselves."""
_INSTALLED: Final = f"""
    SELECT relname::text AS name, coalesce(pg_catalog.obj_description(oid, 'pg_class'), '') AS state
    FROM pg_catalog.pg_class
    WHERE relname = '{STREAM}' AND relnamespace = pg_catalog.to_regnamespace(current_schema())
  UNION ALL
    SELECT pubname::text, pg_catalog.concat_ws(' ', puballtables, pubinsert, pubupdate, pubdelete, pubtruncate,
        pubviaroot, pg_catalog.md5((
            SELECT string_agg(relid::text, ',' ORDER BY relid)
            FROM pg_catalog.pg_get_publication_tables(pubname::text) AS listed
        )), CASE WHEN EXISTS (
            SELECT FROM pg_catalog.pg_publication_rel AS part WHERE prpubid = pg_publication.oid
            AND coalesce(to_jsonb(part) ->> 'prqual', to_jsonb(part) ->> 'prattrs') IS NOT NULL
        ) THEN 'filtered' END)
    FROM pg_catalog.pg_publication WHERE pubname = {{}}
"""


class Publication(PostgresTriggers):
    """The publication of one connection, installed as triggers are."""

    coverage = STREAM
    missing = "no publication is installed"
    remedy = "run `aiomodelcache publication install`"

    async def wanted(self, client: BaseDBAsyncClient, tables: Sequence[CapturedTable]) -> list[Definition]:
        """Returns the table and the publication. Raises ``RelayError`` for a table that cannot be published."""
        schema = await current_schema(client)
        rows = await captured_relations(client, tables)
        for table in tables:
            check_relations(table, [each for each in rows if each["name"] == relation_name(table)])
        _refuse_unlogged(rows)
        for identity in await identities(client, tables):
            if identity.effect == "fails":
                raise RelayError(
                    f"{identity.place} has no replica identity, so its UPDATEs and DELETEs would fail once it is "
                    f"published: {identity.remedy}."
                )
        place = quoted(schema, STREAM)
        create = (
            f"CREATE TABLE IF NOT EXISTS {place} {_COLUMNS}",
            f"REVOKE ALL ON TABLE {place} FROM PUBLIC",
            f"COMMENT ON TABLE {place} IS {literal(TABLE_STATE)}",
        )
        name = publication_name(schema)
        listed = sorted({int(row["relation"]) for row in rows if row["relkind"] == "r"})
        state = f"{_FLAGS} {md5_digest(','.join(map(str, listed)))}"
        return [
            Definition("table", "", STREAM, TABLE_STATE, create),
            Definition("publication", "", name, state, (_publish(name, rows),)),
        ]

    async def installed(self, client: BaseDBAsyncClient) -> dict[tuple[str, str], str]:
        """Returns the state of each installed object."""
        name = publication_name(await current_schema(client))
        rows = await select(client, _INSTALLED.format(literal(name)))
        return {("", str(row["name"])): str(row["state"]) for row in rows}

    async def check_visible(self, client: BaseDBAsyncClient, triggers: Sequence[Definition]) -> None:
        """Does nothing: every user sees the catalogue."""

    def drop(self, place: tuple[str, str]) -> str:
        """Returns the statement that drops an installed object."""
        kind = "TABLE" if place[1] == STREAM else "PUBLICATION"
        return f"DROP {kind} IF EXISTS {quoted(place[1])}"


PUBLICATION: Final = Publication()


def publication_name(schema: str) -> str:
    """Returns the name of the publication for connections with this schema. Each database has its own."""
    return f"{NAME_PREFIX}{tag(schema)}"


def _refuse_unlogged(rows: CatalogueRows) -> None:
    for row in rows:
        if row["relkind"] == "r" and row["relpersistence"] != "p":
            raise RelayError(
                f"{row['place']} is not logged, so nothing tells of its changes: use triggers, or run ALTER TABLE "
                f"{row['place']} SET LOGGED."
            )


def _publish(name: str, rows: CatalogueRows) -> str:
    """Returns one statement, so that it is one transaction whatever runs it."""
    # Partitions are published along with their table, unless a model names only the partition.
    listed = sorted({f"ONLY {row['place']}" for row in rows if row["is_root"] or not row["relispartition"]})
    tables = ", ".join(listed)
    locked = ", ".join(sorted({str(row["place"]) for row in rows}))
    return f"""DO $aiomodelcache$ BEGIN
    LOCK TABLE {locked} IN SHARE ROW EXCLUSIVE MODE;
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_publication WHERE pubname = {literal(name)}) THEN
        CREATE PUBLICATION {quoted(name)};
    END IF;
    ALTER PUBLICATION {quoted(name)} SET (publish = 'insert, update, delete, truncate', \
publish_via_partition_root = false);
    ALTER PUBLICATION {quoted(name)} SET TABLE {tables};
END $aiomodelcache$"""
