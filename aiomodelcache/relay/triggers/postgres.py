"""Triggers of PostgreSQL: one line for each statement, made of its transition tables.

Rules of the generated function, which runs inside every user's write:

1. No error of the values makes it fail. It is caught, and the line names the whole table. So it is after RENAME COLUMN.
2. It converts the captured columns only. Others may be large, or of types whose conversion is the user's own code.
3. It runs as its owner, with all settings pinned that the text of a value depends on. So writers need no privilege on
   the change table.
4. It notifies only if no other open transaction does, because NOTIFY takes a lock that all databases of the server
   share. Where transactions can be prepared it never notifies, because a notification would forbid that.

A statement trigger does not see writes that name a partition or a child table, so each of these has its own triggers.
Workers of logical replication fire row triggers only, so each table with rows has one of these for them.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from tortoise.backends.base.client import BaseDBAsyncClient, TransactionalDBClient

from aiomodelcache.exceptions import RelayError
from aiomodelcache.orm.transactions import transaction
from aiomodelcache.relay.captured import CapturedTable
from aiomodelcache.relay.triggers.definitions import (
    CHANGES,
    COVERAGE,
    INSTALL,
    MAX_ROWS,
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

CHANNEL: Final = "aiomodelcache"
"""The channel of notifications."""
NOTIFY_LOCK: Final = 0x61696F6D63
"""The advisory lock of the transaction that will notify."""
MAX_COLUMNS: Final = 90
"""Maximum number of captured columns of a table, because functions take 100 arguments. Beyond it, lines name none."""
LOCK_TIMEOUT: Final = "5s"
"""The longest wait of an installation for the lock of a table. Beyond it, it fails: later writers wait behind it."""

_SETTINGS: Final = {
    "search_path": "pg_catalog, pg_temp",
    "TimeZone": "'UTC'",
    "DateStyle": "'ISO, MDY'",
    "IntervalStyle": "'postgres'",
    "extra_float_digits": "3",
    "bytea_output": "'hex'",
}
_TABLES: Final = """
    WITH RECURSIVE wanted (name) AS (VALUES {}), captured (name, relation) AS (
        SELECT name, relid FROM wanted, LATERAL (SELECT pg_catalog.to_regclass(name)::pg_catalog.oid AS relid) found
      UNION
        SELECT name, inhrelid FROM captured JOIN pg_catalog.pg_inherits ON inhparent = relation
    )
    SELECT name, relation::bigint, relkind::text, relpersistence::text, inhparent IS NULL AS is_root,
        relispartition, ARRAY(
            SELECT attname::text FROM pg_catalog.pg_attribute WHERE attrelid = relation AND attgenerated = 'v'
        ) AS virtual, pg_catalog.quote_ident(nspname) || '.' || pg_catalog.quote_ident(relname) AS place
    FROM captured LEFT JOIN pg_catalog.pg_class ON pg_class.oid = relation
    LEFT JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
    LEFT JOIN LATERAL (
        SELECT inhparent FROM pg_catalog.pg_inherits JOIN captured other
        ON other.name = captured.name AND other.relation = inhparent WHERE inhrelid = captured.relation LIMIT 1
    ) parent ON true
    ORDER BY name, is_root DESC, place
"""
"""The captured tables with their partitions and children, of any depth."""
_INSTALLED: Final = f"""
    SELECT '' AS place, proname::text AS name, pg_catalog.md5(prosrc) || prosecdef::text AS state
    FROM pg_catalog.pg_proc
    WHERE proname LIKE '{NAME_PREFIX}%' AND pronamespace = pg_catalog.to_regnamespace(current_schema())
  UNION ALL
    SELECT pg_catalog.quote_ident(nspname) || '.' || pg_catalog.quote_ident(relname), tgname::text,
        proname::text || ' ' || tgenabled::text || ' ' || tgtype::text
    FROM pg_catalog.pg_trigger JOIN pg_catalog.pg_class ON pg_class.oid = tgrelid
    JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
    JOIN pg_catalog.pg_proc ON pg_proc.oid = tgfoid
    WHERE tgname LIKE '{NAME_PREFIX}%' AND NOT tgisinternal
      AND pronamespace = pg_catalog.to_regnamespace(current_schema())
  UNION ALL
    SELECT '', relname::text, coalesce(pg_catalog.obj_description(oid, 'pg_class'), '') FROM pg_catalog.pg_class
    WHERE relname IN ('{CHANGES}', '{COVERAGE}') AND relnamespace = pg_catalog.to_regnamespace(current_schema())
"""
"""Everything of an installation in the connection's schema."""


class PostgresTriggers:
    """The triggers of PostgreSQL."""

    coverage = COVERAGE
    missing = "no triggers are installed"
    remedy = INSTALL

    async def wanted(self, client: BaseDBAsyncClient, tables: Sequence[CapturedTable]) -> list[Definition]:
        """Returns the objects that capture the tables' writes. Raises ``RelayError``."""
        schema = await current_schema(client)
        found = [*_own_tables(schema)]
        rows = await captured_relations(client, tables)
        for table in tables:
            own = [each for each in rows if each["name"] == relation_name(table)]
            check_relations(table, own)
            below = _captured_below(table, own, rows, tables)
            # PostgreSQL computes no virtual columns for triggers.
            virtual = {column for each in own for column in each["virtual"]}
            exact = len(table.columns) <= MAX_COLUMNS and virtual.isdisjoint(table.columns)
            body = _body(schema, table, below, exact=exact)
            name = f"{NAME_PREFIX}{tag(f'{schema}:{table.name}')}"  # applications of other schemas have their own
            function = _function(schema, name, body)
            revoke = f"REVOKE ALL ON FUNCTION {quoted(schema, name)}() FROM PUBLIC"
            found.append(Definition("function", "", name, f"{md5_digest(body)}true", (function, revoke), table.name))
            for each in own:
                found += _triggers(schema, name, table, str(each["place"]), has_rows=each["relkind"] == "r")
        return found

    async def installed(self, client: BaseDBAsyncClient) -> dict[tuple[str, str], str]:
        """Returns the state of each installed object."""
        return {(row["place"], row["name"]): row["state"] for row in await select(client, _INSTALLED)}

    async def check_visible(self, client: BaseDBAsyncClient, triggers: Sequence[Definition]) -> None:
        """Does nothing: every user sees the catalogue."""

    def drop(self, place: tuple[str, str]) -> str:
        """Returns the statement that drops an installed object."""
        on, name = place
        if on:
            return f"DROP TRIGGER IF EXISTS {quoted(name)} ON {on}"
        if name in (CHANGES, COVERAGE):
            return f"DROP TABLE IF EXISTS {quoted(name)}"
        return f"DROP FUNCTION IF EXISTS {quoted(name)}()"

    async def run(self, client: BaseDBAsyncClient, statements: Sequence[str]) -> None:
        """Runs the statements in one transaction, so that no write is missed between two of them."""
        own: Any
        async with transaction(client) as own:
            if not isinstance(client, TransactionalDBClient):
                await own.execute_script(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
            for statement in statements:
                await own.execute_script(statement)


async def current_schema(client: BaseDBAsyncClient) -> str:
    """Returns the schema in which the connection creates tables. Raises ``RelayError`` if there is none."""
    [row] = await select(client, "SELECT current_schema()::text AS schema")
    if row["schema"] is None:
        raise RelayError("No schema of the connection's search_path exists: create one, or set another search_path.")
    return str(row["schema"])


async def captured_relations(client: BaseDBAsyncClient, tables: Iterable[CapturedTable]) -> CatalogueRows:
    """Returns each table with its partitions and children.

    The columns: name, relation, relkind, relpersistence, place, is_root, relispartition, and virtual, the names of its
    virtual generated columns.
    """
    names = ", ".join(f"({literal(relation_name(table))})" for table in tables)
    return await select(client, _TABLES.format(names))


def relation_name(table: CapturedTable) -> str:
    """Returns the name of a table as a statement would spell it."""
    return quoted(table.schema, table.table)


def check_relations(table: CapturedTable, rows: CatalogueRows) -> None:
    """Raises ``RelayError`` if a table does not exist, or if it or a partition is of another kind."""
    kinds = {str(row["relkind"]) for row in rows if row["relkind"] is not None}
    if not kinds:
        raise RelayError(f"The table {table.name} does not exist: create it before its triggers.")
    if not kinds <= {"r", "p"}:
        raise RelayError(
            f"{table.name} is, or has a partition that is, no table of this database (a view or a foreign table), so "
            "its writes cannot be captured: remove relay = True from its CacheMeta, or leave --all out."
        )


def _captured_below(
    table: CapturedTable, own: CatalogueRows, rows: CatalogueRows, tables: Sequence[CapturedTable]
) -> list[CapturedTable]:
    """Returns the other captured tables that are partitions or children of this one.

    A statement that names this table changes their rows, and fires none of their statement triggers.
    """
    relations = {row["relation"] for row in own}
    below = {row["name"] for row in rows if row["is_root"] and row["relation"] in relations}
    return [other for other in tables if other is not table and relation_name(other) in below]


def _own_tables(schema: str) -> list[Definition]:
    changes = (
        "(xid bigint NOT NULL DEFAULT pg_catalog.txid_current(), id bigint GENERATED ALWAYS AS IDENTITY, "
        "source text NOT NULL, size integer, old jsonb, new jsonb, "
        "written timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(), PRIMARY KEY (xid, id)) "
        "WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000)"
    )
    found: list[Definition] = []
    for name, columns in ((CHANGES, changes), (COVERAGE, "(captured text, owner text)")):
        place = quoted(schema, name)
        create = (
            f"CREATE TABLE IF NOT EXISTS {place} {columns}",
            f"REVOKE ALL ON TABLE {place} FROM PUBLIC",
            f"COMMENT ON TABLE {place} IS {literal(TABLE_STATE)}",
        )
        found.append(Definition("table", "", name, TABLE_STATE, create))
    return found


def _function(schema: str, name: str, body: str) -> str:
    settings = " ".join(f"SET {setting} = {value}" for setting, value in _SETTINGS.items())
    return (
        f"CREATE OR REPLACE FUNCTION {quoted(schema, name)}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER "
        f"{settings} AS $aiomodelcache${body}$aiomodelcache$"
    )


def _body(schema: str, table: CapturedTable, below: Sequence[CapturedTable], *, exact: bool) -> str:
    changes, source = quoted(schema, CHANGES), literal(table.name)
    limit = MAX_ROWS if exact else 0
    columns = table.columns if exact else table.columns[:1]
    also = "".join(f"    INSERT INTO {changes} (source) VALUES ({literal(other.name)});\n" for other in below)
    return f"""
DECLARE
    aiomodelcache_count bigint := 0;
    aiomodelcache_olds jsonb;
    aiomodelcache_news jsonb;
BEGIN
    IF TG_OP <> 'TRUNCATE' AND TG_LEVEL = 'STATEMENT' THEN
        IF TG_OP = 'DELETE' THEN
            SELECT count(*) INTO aiomodelcache_count FROM (SELECT FROM aiomodelcache_old LIMIT {MAX_ROWS + 1}) counted;
        ELSE
            SELECT count(*) INTO aiomodelcache_count FROM (SELECT FROM aiomodelcache_new LIMIT {MAX_ROWS + 1}) counted;
        END IF;
        IF aiomodelcache_count = 0 THEN
            RETURN NULL;
        END IF;
    END IF;
    BEGIN
        IF TG_OP = 'TRUNCATE' OR aiomodelcache_count > {limit} THEN
            NULL;
        ELSIF TG_LEVEL = 'ROW' THEN
            IF TG_OP <> 'INSERT' THEN
                aiomodelcache_olds := jsonb_build_array({_values("OLD", columns)});
            END IF;
            IF TG_OP <> 'DELETE' THEN
                aiomodelcache_news := jsonb_build_array({_values("NEW", columns)});
            END IF;
        ELSE
            IF TG_OP <> 'INSERT' THEN
                SELECT jsonb_agg({_values("aiomodelcache_row", columns)}) INTO aiomodelcache_olds
                FROM aiomodelcache_old aiomodelcache_row;
            END IF;
            IF TG_OP <> 'DELETE' THEN
                SELECT jsonb_agg({_values("aiomodelcache_row", columns)}) INTO aiomodelcache_news
                FROM aiomodelcache_new aiomodelcache_row;
            END IF;
        END IF;
    EXCEPTION WHEN OTHERS THEN
        aiomodelcache_olds := NULL;
        aiomodelcache_news := NULL;
    END;
    INSERT INTO {changes} (source, size, old, new) VALUES (
        {source},
        nullif(coalesce(jsonb_array_length(aiomodelcache_olds), 0)
            + coalesce(jsonb_array_length(aiomodelcache_news), 0), 0),
        aiomodelcache_olds,
        aiomodelcache_news
    );
{also}    IF current_setting('max_prepared_transactions') = '0' AND pg_try_advisory_xact_lock({NOTIFY_LOCK}) THEN
        PERFORM pg_notify('{CHANNEL}', '');
    END IF;
    RETURN NULL;
END
"""


def _values(row: str, columns: Sequence[str]) -> str:
    return f"jsonb_build_array({', '.join(f'{row}.{quoted(column)}' for column in columns)})"


_EVENTS: Final = {
    "insert": ("AFTER INSERT", "REFERENCING NEW TABLE AS aiomodelcache_new", 4),
    "update": (
        "AFTER UPDATE",
        "REFERENCING OLD TABLE AS aiomodelcache_old NEW TABLE AS aiomodelcache_new",
        16,
    ),
    "delete": ("AFTER DELETE", "REFERENCING OLD TABLE AS aiomodelcache_old", 8),
    "truncate": ("AFTER TRUNCATE", "", 32),
    "replica": ("AFTER INSERT OR UPDATE OR DELETE", "", 29),
}
"""The event, the transition tables and ``tgtype`` of each trigger."""
_ENABLED: Final = {"truncate": ("ALWAYS", "A"), "replica": ("REPLICA", "R")}
"""The state of triggers that workers of logical replication must fire, in words and as ``tgenabled``."""


def _triggers(schema: str, function: str, table: CapturedTable, place: str, *, has_rows: bool) -> list[Definition]:
    found: list[Definition] = []
    for event, (when, transition, kind) in _EVENTS.items():
        if event == "replica" and not has_rows:
            continue
        name = f"{function}_{event}"
        level = "ROW" if event == "replica" else "STATEMENT"
        enabled, letter = _ENABLED.get(event, ("", "O"))
        create = [
            f"DROP TRIGGER IF EXISTS {quoted(name)} ON {place}",
            f"CREATE TRIGGER {quoted(name)} {when} ON {place} {transition} FOR EACH {level} "
            f"EXECUTE FUNCTION {quoted(schema, function)}()",
        ]
        if enabled:
            create.append(f"ALTER TABLE ONLY {place} ENABLE {enabled} TRIGGER {quoted(name)}")
        state = f"{function} {letter} {kind}"
        found.append(Definition("trigger", place, name, state, tuple(create), table.name))
    return found
