"""The columns' real types and collations, which may compare otherwise than the models declare.

Owns the statements that ask each database for them, and the rule which real types compare like a declared one. Must
not know what a cache does with a column that compares loosely: see ``schema``.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Final, NamedTuple, cast

from tortoise.backends.base.client import BaseDBAsyncClient, TransactionalDBClient
from tortoise.exceptions import OperationalError

from aiomodelcache.encoding.messages import safe_reason
from aiomodelcache.orm.connections import write_client
from aiomodelcache.orm.key_values import has_canonical_text, integer_bound
from aiomodelcache.orm.meta import columns_of, meta_of
from aiomodelcache.orm.schema import ModelSchema

logger: Final = logging.getLogger("aiomodelcache")


class RealType(NamedTuple):
    """The type of a column in the database."""

    name: str
    """The type as the database spells it, with its length or precision."""
    is_exact: bool = True
    """False if the type or the collation holds different texts to be equal."""


_UNKNOWN: Final = RealType("", is_exact=False)

RealTypes = dict[tuple[int, str], RealType]
"""The real types by the position of the schema and the column. Lacks columns that do not exist."""


async def inspect_columns(schemas: Iterable[ModelSchema]) -> None:
    """Tells each schema which of its columns compare otherwise than declared, and which integers they accept.

    Sends one statement for each connection, on SQLite one for each model. If the database refuses it or does not
    answer, a warning is logged. All columns but integers, booleans, UUIDs and enums of plain text are then taken to
    compare loosely.
    """
    by_connection: dict[str, list[ModelSchema]] = {}
    for schema in schemas:
        by_connection.setdefault(schema.connection, []).append(schema)
    for connection, group in by_connection.items():
        read = _READERS.get(group[0].dialect)
        if read is None:
            continue
        try:
            types = await read(write_client(group[0].model), group)
        except Exception as error:  # of any class: a cache opens without its database
            logger.warning(
                "aiomodelcache: the types of columns cannot be read on the connection %r (%s), so no lists by text are "
                "cached until the cache opens again; let it read the catalogue, or set inspect_columns=False",
                connection,
                safe_reason(error),
            )
            types = None
        for number, schema in enumerate(group):
            _set_real_types(schema, number, types)


def _set_real_types(schema: ModelSchema, number: int, types: RealTypes | None) -> None:
    fields = meta_of(schema.model).fields_map
    real_types = {
        name: types.get((number, column)) if types is not None else _UNKNOWN
        for name, column in columns_of(schema.model, schema.columns).items()
    }
    schema.as_declared = frozenset(
        name
        for name, real in real_types.items()
        if real is None or stores_as_declared(fields[name], schema.dialect, real)
    )
    for name in filter(schema.keyable, schema.columns):
        real = real_types[name]
        if real is None:
            continue
        if not compares_as_declared(fields[name], schema.dialect, real):
            schema.loose_columns.add(name)
        if schema.dialect == "postgres":  # the other drivers refuse integers by their own size
            schema.integer_bounds[name] = integer_bound(real.name, schema.dialect)


# The rule ------------------------------------------------------------------------------------------------

_SYNONYMS: Final = {
    "character varying": "varchar",
    "character": "char",
    "bpchar": "char",
    "timestamp with time zone": "timestamptz",
    "timestamp without time zone": "timestamp",
    "time with time zone": "timetz",
    "time without time zone": "time",
    "double precision": "double",
    "numeric": "decimal",
    **dict.fromkeys(["bool", "boolean", "tinyint", "smallint", "mediumint", "integer", "bigint"], "int"),
}
_TEXTS: Final = frozenset({"varchar", "text", "enum"})


def compares_as_declared(field: Any, dialect: str, real: RealType) -> bool:
    """Returns True if a column of type ``real`` stores and compares values as the declared type of ``field`` does.

    The sizes of integers do not matter. A shorter text may store another value than the one written, as may another
    precision.
    """
    declared = str(field.get_for_dialect(dialect, "SQL_TYPE"))
    if real is _UNKNOWN:
        return field.field_type in (int, bool) or has_canonical_text(field)
    if dialect == "sqlite":
        same = _affinity(declared) == _affinity(real.name)
        return same and (real.is_exact or _affinity(declared) != "text" or has_canonical_text(field))
    (name, size), (real_name, real_size) = _parsed(declared), _parsed(real.name)
    if has_canonical_text(field) and "char" in name:
        return real_name in _TEXTS or real_name in ("char", "citext")
    if name in _TEXTS and real_name in _TEXTS:
        return real.is_exact and _length(real_size) >= _length(size)
    return real.is_exact and name == real_name and (size == real_size or name == "int")


def stores_as_declared(field: Any, dialect: str, real: RealType) -> bool:
    """Returns True if a column of type ``real`` stores the same values as the declared type of ``field``."""
    declared = str(field.get_for_dialect(dialect, "SQL_TYPE"))
    if dialect == "sqlite":
        return real is not _UNKNOWN and _affinity(declared) == _affinity(real.name)
    return _stored_type(declared) == _stored_type(real.name)


def _stored_type(sql_type: str) -> tuple[str, str]:
    """Returns the name of a type without its synonyms, and its length or precision."""
    name, _, rest = sql_type.lower().partition("(")
    size, _, rest = rest.partition(")")
    words = " ".join(f"{name} {rest}".split())
    if words in ("bool", "boolean") or (words, size) == ("tinyint", "1"):
        return "bool", ""
    words = "int" if words == "integer" else words
    if words in ("smallint", "int", "bigint"):
        return words, ""  # the size is that of the display
    return _SYNONYMS.get(words, words), size


def _parsed(sql_type: str) -> tuple[str, str]:
    """Returns the name of a type without its synonyms and signs, and its length or precision."""
    name, _, rest = sql_type.lower().partition("(")
    size, _, rest = rest.partition(")")
    name = " ".join(word for word in f"{name}{rest}".split() if word not in ("unsigned", "zerofill"))
    name = name.rpartition(".")[2]
    return _SYNONYMS.get(name, name), size


def _length(size: str) -> float:
    return int(size) if size.isdecimal() else float("inf")


def _affinity(sql_type: str) -> str:
    """Returns the affinity of a type of SQLite, which decides how values are stored and compared."""
    upper = sql_type.upper()
    for affinity, parts in _AFFINITIES.items():
        if any(part in upper for part in parts):
            return affinity
    return "number" if upper else "none"


_AFFINITIES: Final = {
    "number": ("INT",),
    "text": ("CHAR", "CLOB", "TEXT"),
    "none": ("BLOB",),
    "real": ("REAL", "FLOA", "DOUB"),
}
"""The parts of a type's name that decide its affinity, the first first."""


# The statements ----------------------------------------------------------------------------------------

_POSTGRES: Final = """
    WITH RECURSIVE wanted (number, name) AS (VALUES {}), found (number, name, type, size, collated) AS (
        SELECT number, attname, atttypid, atttypmod, attcollation
        FROM wanted JOIN pg_catalog.pg_attribute ON attrelid = pg_catalog.to_regclass(wanted.name)
        WHERE attnum > 0 AND NOT attisdropped
      UNION ALL
        SELECT number, name, typbasetype, typtypmod, collated
        FROM found JOIN pg_catalog.pg_type ON pg_type.oid = type WHERE typtype = 'd'
    )
    SELECT number, name, CASE typtype WHEN 'e' THEN 'enum' ELSE pg_catalog.format_type(type, size) END AS type,
        typname NOT IN ('bpchar', 'citext')
        AND coalesce(pg_catalog.to_jsonb(pg_collation) ->> 'collisdeterministic', 'true') = 'true' AS is_exact
    FROM found JOIN pg_catalog.pg_type ON pg_type.oid = type
    LEFT JOIN pg_catalog.pg_collation ON pg_collation.oid = collated
    WHERE typtype <> 'd'
"""
"""Domains are followed to the types below them. Collations before PostgreSQL 12 lack ``collisdeterministic``."""


async def _read_postgres(client: BaseDBAsyncClient, schemas: Sequence[ModelSchema]) -> RealTypes:
    names = [".".join(_quoted(part) for part in _parts(schema)) for schema in schemas]
    wanted = ", ".join(f"({number}, {_literal(name)})" for number, name in enumerate(names))
    # A statement that is refused must not end the caller's transaction.
    is_open = isinstance(client, TransactionalDBClient)
    async with cast("Any", client)._in_transaction() if is_open else nullcontext(cast("Any", client)) as connection:
        return _by_column(await connection.execute_query_dict(_POSTGRES.format(wanted)))


async def _read_mysql(client: BaseDBAsyncClient, schemas: Sequence[ModelSchema]) -> RealTypes:
    conditions = [
        f"(table_schema = {_literal(parts[0]) if parts[1:] else 'DATABASE()'} AND table_name = {_literal(parts[-1])})"
        for parts in map(_parts, schemas)
    ]
    cases = " ".join(f"WHEN {condition} THEN {number}" for number, condition in enumerate(conditions))
    rows = await cast("Any", client).execute_query_dict(
        f"SELECT CASE {cases} END AS number, column_name AS name, column_type AS type, 1 AS is_exact "
        f"FROM information_schema.columns WHERE {' OR '.join(conditions)}"
    )
    return _by_column(rows)


async def _read_sqlite(client: BaseDBAsyncClient, schemas: Sequence[ModelSchema]) -> RealTypes:
    types: RealTypes = {}
    for number, schema in enumerate(schemas):
        try:
            rows = await cast("Any", client).execute_query_dict(_sqlite_statement(number, schema))
        except OperationalError as error:
            if "no such table" not in str(error):
                raise
        else:
            types |= _by_column(rows)
    return types


def _sqlite_statement(number: int, schema: ModelSchema) -> str:
    """Returns the statement that compares other spellings of a text as each column of a table would.

    A column of a subquery has the collation of the column that its first SELECT names. SQLite tells collations nowhere
    else. A program's own collation may do anything, so none of the database may be in use.
    """
    table = ".".join(map(_quoted, _parts(schema)))
    columns = [*columns_of(schema.model, schema.columns).values()]
    probes = [f"c{at} = 'A' OR c{at} = 'a '" for at in range(len(columns))]
    pairs = zip(map(_literal, columns), probes, strict=True)
    return f"""
        SELECT {number} AS number, name, type, NOT EXISTS (
            SELECT 1 FROM sqlite_master JOIN pragma_collation_list AS known
            WHERE known.name NOT IN ('BINARY', 'NOCASE', 'RTRIM') AND sql LIKE '%COLLATE%' || known.name || '%'
        ) AND NOT CASE name {" ".join(f"WHEN {name} THEN {probe}" for name, probe in pairs)} ELSE 1 END AS is_exact
        FROM pragma_table_info({", ".join(map(_literal, reversed(_parts(schema))))}), (
            SELECT {", ".join(f"{table}.{_quoted(name)} AS c{at}" for at, name in enumerate(columns))}
            FROM {table} WHERE 0 UNION ALL SELECT {", ".join(["'a'"] * len(columns))}
        )
    """


def _by_column(rows: Iterable[Mapping[str, Any]]) -> RealTypes:
    return {(row["number"], row["name"]): RealType(row["type"], bool(row["is_exact"])) for row in rows}


def _parts(schema: ModelSchema) -> list[str]:
    """Returns the table's name, after that of its schema if it has one."""
    meta = meta_of(schema.model)
    return [*([meta.schema] if meta.schema else []), meta.db_table]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


_READERS: Final[dict[str, Callable[[BaseDBAsyncClient, Sequence[ModelSchema]], Awaitable[RealTypes]]]] = {
    "postgres": _read_postgres,
    "mysql": _read_mysql,
    "sqlite": _read_sqlite,
}
"""The functions that read real types, by dialect. Of other databases, the declarations are taken as they are."""
