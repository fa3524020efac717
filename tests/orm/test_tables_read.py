"""The tables and columns that SQLite reads for random statements are those that ``tables_in`` finds, or more.

SQLite tells what a statement reads when it prepares it.
"""

import sqlite3

from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from aiomodelcache.orm.sql_tables import tables_in
from tests.support.effort import FULL

TABLES = ["post", "tag", "order items", "from"]
READ = 20
"""The code of an authorizer's call for a column that is read."""

spaces = st.sampled_from([" ", "\n", " /* from tag */ ", " -- it's\n"])
names = st.one_of(
    st.sampled_from(["post", "tag", "POST", "main.tag"]),
    st.builds("{0[0]}{1}{0[1]}".format, st.sampled_from(['""', "``", "[]", "''"]), st.sampled_from(TABLES)),
)
aliases = st.sampled_from(["", " x", " AS y", ' AS "from"', " AS tag", " `post`"])
joins = st.sampled_from([", ", ",", " JOIN ", " LEFT JOIN ", " NATURAL JOIN "])
values = st.sampled_from(["1", "'from tag'", "count(*)", "*", "seen", '"seen"', "CAST(1 AS INT)", "1 IN (1, 2)"])


def selects(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Returns SELECTs with statements of ``inner`` in every place."""
    expressions = st.one_of(
        values,
        st.builds("({})".format, inner),
        st.builds("EXISTS({})".format, inner),
        st.builds("1 IN{}({})".format, spaces, inner),
        st.builds("1 NOT IN{}{}".format, spaces, names),
    )
    tables = st.builds("{}{}".format, st.one_of(names, names, st.builds("({})".format, inner)), aliases)
    lists = st.builds("{}{}{}".format, tables, joins, tables)
    sources = st.one_of(
        tables, tables, lists, st.builds("({})".format, lists), st.builds("(({}){})".format, lists, joins)
    )
    select = st.builds(
        "SELECT {}{}FROM{}{}{}".format,
        expressions,
        spaces,
        spaces,
        st.one_of(sources, st.builds("{}{}({})".format, tables, joins, lists)),
        st.one_of(st.just(""), st.builds(" WHERE {}".format, expressions)),
    )
    common = st.builds("WITH c AS ({}) {}".format, inner, select)
    return st.one_of(select, select, st.builds("{} UNION {}".format, select, inner), common)


statements = st.recursive(st.builds("SELECT {} FROM {}".format, values, names), selects, max_leaves=4)


@settings(max_examples=3_000 if FULL else 300, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@example("SELECT 1 FROM ((SELECT 1 FROM post) x, tag)")
@example("SELECT 1 FROM post WHERE 1 IN 'tag'")
@example("SELECT p.id FROM post p NATURAL JOIN tag")
@given(statements)
def test_no_table_or_column_that_is_read_is_missed(sql: str) -> None:
    read: set[tuple[str, str]] = set()

    def note(action: int, table: str | None, column: str | None, *_: str | None) -> int:
        if action == READ and table in TABLES:
            read.add((table, column or ""))
        return sqlite3.SQLITE_OK

    database = sqlite3.connect(":memory:")
    for table in TABLES:
        database.execute(f'CREATE TABLE "{table}" (seen INT)')
    database.set_authorizer(note)
    try:
        database.execute(f"EXPLAIN {sql}")
    except sqlite3.Error:
        assume(False)
    finally:
        database.close()
    found = tables_in(sql, "sqlite")
    if found.names and {*found.names} <= {*TABLES}:  # others are not noticed, so nothing is stored
        assert {table for table, _ in read} <= {*found.names}
        if "((" not in sql:  # SQLite reads all columns of tables in parentheses, also those that count for nothing
            assert "seen" not in {column for _, column in read} or found.words & {"seen", "*"}
