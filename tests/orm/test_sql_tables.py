"""The tables of an SQL statement: every table that it reads is found, in any dialect."""

import pytest

from aiomodelcache.orm.sql_tables import UNKNOWN, tables_in

MYSQL, POSTGRES, SQLITE = "mysql", "postgres", "sqlite"
ALL = (MYSQL, POSTGRES, SQLITE)


@pytest.mark.parametrize(
    ("sql", "tables"),
    [
        ("SELECT a FROM t", ["t"]),
        ("SELECT a FROM t AS x, u y, (SELECT b FROM v) z WHERE a IN (SELECT c FROM w)", ["t", "u", "v", "w"]),
        ("SELECT a FROM t LEFT JOIN u ON t.a = u.a, v ORDER BY a, b", ["t", "u", "v"]),
        ("SELECT a FROM s.t", ["s.t"]),
        ("SELECT a FROM t UNION SELECT b FROM u ORDER BY a, b LIMIT 1", ["t", "u"]),
        ("SELECT a -- FROM x\n FROM t /* , y */ WHERE b = 'FROM z'", ["t"]),
        ("SELECT EXTRACT(YEAR FROM a), TRIM(BOTH 'x' FROM b), SUBSTRING(c FROM 2 FOR 3) FROM t", ["t"]),
        ("SELECT TRIM((SELECT b FROM u)) FROM t", ["u", "t"]),
        ("SELECT a FROM t WHERE a IS DISTINCT FROM b AND c IS NOT DISTINCT FROM d", ["t"]),
        ("SELECT a FROM t WHERE b = 1.5 AND c = 0x1F AND d = 1e5 LIMIT 2", ["t"]),
        ("SELECT a FROM f(b, c), t", ["f()", "t"]),
        ("SELECT a FROM t, (VALUES (1, (SELECT b FROM u)), (2, 3)) AS v (x, y), w", ["t", "u", "w"]),
        ("SELECT a FROM t JOIN (VALUES ROW(1), ROW(2)) AS v ON t.a = v.x", ["t"]),
        ("SELECT COUNT(*) OVER w FROM t WINDOW w AS (ORDER BY a), v AS (ORDER BY b)", ["t"]),
    ],
)
@pytest.mark.parametrize("dialect", ALL)
def test_tables_are_found_after_from_and_join_and_commas(dialect: str, sql: str, tables: list[str]) -> None:
    named = tables_in(sql, dialect)
    assert list(named.names) == tables
    assert named.only_reads


@pytest.mark.parametrize(
    ("sql", "tables"),
    [
        ("WITH c AS (SELECT a FROM t) SELECT a FROM c", ["t"]),
        ("WITH c (x, y) AS MATERIALIZED (SELECT a FROM t), d AS (SELECT x FROM c) SELECT x FROM d JOIN c", ["t"]),
        ("WITH RECURSIVE c AS (SELECT a FROM t UNION SELECT b FROM c) SELECT a FROM c", ["t"]),
        ("WITH c AS (SELECT a FROM c) SELECT a FROM c", ["c"]),
        ("WITH c AS (SELECT a FROM d), d AS (SELECT a FROM t) SELECT a FROM c, d", ["d", "t"]),
        ("SELECT a FROM (WITH c AS (SELECT 1) SELECT 1 FROM c) x, c", ["c"]),
        ("WITH c AS (SELECT 1) SELECT a FROM s.c", ["s.c"]),
        ("SELECT COUNT(*) OVER c FROM c WINDOW c AS (ORDER BY a)", ["c"]),
    ],
)
def test_common_table_expressions_hide_tables_only_where_they_are_in_scope(sql: str, tables: list[str]) -> None:
    assert list(tables_in(sql, POSTGRES).names) == tables


@pytest.mark.parametrize(
    ("dialect", "sql"),
    [
        (MYSQL, r'SELECT "\"", a FROM plain WHERE b = "c" AND EXISTS(SELECT 1 FROM t)'),
        (MYSQL, r"SELECT a FROM t WHERE b LIKE '%' ESCAPE '\' , ' FROM plain WHERE '"),
        (MYSQL, "SELECT 1 /*M! , a FROM plain */ FROM t"),
        (MYSQL, "SELECT 1 /*! , a FROM plain */ FROM t"),
        (MYSQL, "SELECT 1 #>> it's\n, a FROM plain WHERE b = 'c' AND EXISTS(SELECT 1 FROM t)"),
        (MYSQL, "SELECT 1 --it's\n, a FROM plain WHERE b = 'c' AND EXISTS(SELECT 1 FROM t)"),
        (MYSQL, "SELECT a FROM 1t"),
        (POSTGRES, "SELECT 1 /* /* */ ' */, a FROM plain WHERE b = '' AND EXISTS(SELECT FROM t)"),
        (POSTGRES, "SELECT $x$ ' $x$, a FROM plain WHERE b = '' AND EXISTS(SELECT FROM t)"),
        (POSTGRES, r"SELECT E'\'', a FROM plain WHERE b = ' AND EXISTS(SELECT FROM t)'"),
        (POSTGRES, r'SELECT a FROM U&"\0061", t'),
        (SQLITE, "SELECT $a$, b FROM plain WHERE c = $a$ AND EXISTS(SELECT 1 FROM t)"),
        (SQLITE, "SELECT a FROM 'plain' t"),
        (SQLITE, "SELECT a FROM [plain] t"),
        (POSTGRES, "TABLE plain"),
        (POSTGRES, "SELECT a FROM t WHERE a IN (TABLE plain)"),
        (POSTGRES, "SELECT a FROM (t JOIN plain ON true)"),
    ],
)
def test_what_could_hide_a_table_is_an_unknown_one(dialect: str, sql: str) -> None:
    assert UNKNOWN in tables_in(sql, dialect).names


@pytest.mark.parametrize(
    ("dialect", "sql"),
    [
        (MYSQL, "SELECT a FROM t FOR SYSTEM_TIME ALL, plain"),
        (MYSQL, "SELECT a FROM t USE INDEX FOR ORDER BY (a), plain"),
        (MYSQL, "SELECT a FROM t JOIN u ON t.a = u.order, plain"),
        (SQLITE, "SELECT a FROM t AS window, plain"),
        (SQLITE, "SELECT a FROM t fetch, plain"),
        (POSTGRES, "SELECT a FROM t JOIN u ON t.a && ARRAY[b, c], plain"),
        (MYSQL, "SELECT 1 FROM ((SELECT a, b FROM t) AS x, plain) JOIN u"),
        (SQLITE, "SELECT 1 FROM (((SELECT a, b FROM t) AS x JOIN u), plain)"),
    ],
)
def test_words_that_look_like_keywords_end_no_list_of_tables(dialect: str, sql: str) -> None:
    assert "plain" in tables_in(sql, dialect).names


@pytest.mark.parametrize("name", ["plain", '"plain"', "`plain`", "main.plain", "'plain'", "[plain]"])
def test_sqlite_reads_the_table_after_in(name: str) -> None:
    """All columns of it, although the statement names none."""
    named = tables_in(f"SELECT a FROM t WHERE a NOT IN {name} AND b IN (1, 2)", SQLITE)
    assert {"plain", "main.plain", UNKNOWN} & {*named.names}
    assert "*" in named.words & named.words_from
    assert tables_in("SELECT POSITION(a IN b) FROM t", POSTGRES).names == ("t",)
    assert "*" not in tables_in("SELECT a FROM t WHERE b IN (1, 2)", SQLITE).words


def test_operators_and_escapes_of_the_dialects_are_known() -> None:
    assert tables_in("SELECT a #>> '{b}', ARRAY[c, d] FROM t WHERE e = $1 AND f[1] = $2", POSTGRES).names == ("t",)
    assert tables_in(r"SELECT a FROM t WHERE b LIKE $1 ESCAPE '\'", POSTGRES).names == ("t",)
    assert tables_in(r"SELECT a FROM t WHERE b LIKE %s ESCAPE '\\'", MYSQL).names == ("t",)


def test_names_without_quotes_are_in_lower_case_on_postgres() -> None:
    assert tables_in('SELECT a FROM T JOIN "U" JOIN s.V', POSTGRES).names == ("t", "U", "s.v")
    assert tables_in("SELECT a FROM T", MYSQL).names == ("T",)


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE t SET a = 1",
        "SELECT a INTO u FROM t",
        "SELECT a FROM t FOR UPDATE",
        "WITH c AS (DELETE FROM t RETURNING a) SELECT a FROM c",
        "SELECT a FROM t; DELETE FROM t",
        "EXPLAIN SELECT a FROM t",
        "SET a = 1",
    ],
)
@pytest.mark.parametrize("dialect", ALL)
def test_only_select_only_reads(dialect: str, sql: str) -> None:
    assert not tables_in(sql, dialect).only_reads
    assert tables_in("SELECT REPLACE(a, 'b', 'c') FROM t;", dialect).only_reads


def test_words_are_all_words_and_a_star_for_columns() -> None:
    words = tables_in('SELECT "A", COUNT(*) FROM t', SQLITE).words
    assert words >= {"a", "count", "from", "t"}
    assert "*" not in words
    assert "*" in tables_in("SELECT t.* FROM t", SQLITE).words
    assert "*" in tables_in("SELECT a, * FROM t", SQLITE).words


@pytest.mark.parametrize("dialect", ALL)
def test_a_natural_join_reads_columns_that_it_does_not_name(dialect: str) -> None:
    assert "*" in tables_in("SELECT t.a FROM t NATURAL JOIN u", dialect).words


@pytest.mark.parametrize(
    ("sql", "seen_after_from"),
    [
        ("SELECT to_jsonb(t) FROM t", False),
        ("SELECT row_to_json(x) FROM s.t x", False),
        ("SELECT X::text FROM t AS x", False),
        ('SELECT count(DISTINCT "T") FROM "T"', False),
        ("SELECT a FROM t WHERE t IS NOT NULL", True),
        ("SELECT a FROM u x JOIN t y ON x.a = y.a ORDER BY y", True),
        ("SELECT to_jsonb(z) FROM (SELECT y FROM t y) z", True),
        ("SELECT x.b FROM t x (b, c)", True),
    ],
)
def test_postgres_reads_all_columns_where_a_table_stands_for_its_row(sql: str, seen_after_from: bool) -> None:
    assert "*" in tables_in(sql, POSTGRES).words
    assert ("*" in tables_in(sql, POSTGRES).words_from) is seen_after_from


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT t.a FROM t",
        'SELECT "x"."a" "t" FROM t AS x',
        "SELECT x.a FROM t x JOIN u y ON x.a = y.b",
        "SELECT a FROM s.t",
    ],
)
def test_other_names_of_a_table_read_no_further_columns(sql: str) -> None:
    assert "*" not in tables_in(sql, POSTGRES).words


def test_the_words_after_from_leave_out_the_columns_that_are_returned() -> None:
    named = tables_in('SELECT "seen" "seen", MAX("top") FROM "t" WHERE "level" = 1 ORDER BY "id"', POSTGRES)
    assert {"seen", "top", "level", "id"} <= named.words
    assert {"level", "id", "t"} <= named.words_from
    assert named.words_from.isdisjoint({"seen", "top"})
