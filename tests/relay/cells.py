"""The table of writes that are seen: kinds of writes, and how each is seen on each database.

``python -m tests.relay.cells`` writes the table into the page about outside writes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

PAGE: Final = Path(__file__).parents[2] / "docs" / "guide" / "outside-writes.md"
BEGIN: Final = "<!-- from tests/relay/cells.py -->\n"
END: Final = "<!-- end -->\n"

ROWS = "each row"
TABLE = "the whole table"
CHECK = "the whole table¹"
STOPS = "not used²"
NONE = "-"
NO_LINE = "no line"

STREAM: Final = "pgoutput"
"""The name of logical decoding, which is no other database than PostgreSQL."""
DIALECTS: Final = {
    "postgres": "PostgreSQL",
    "mariadb": "MariaDB, MySQL",
    "sqlite": "SQLite",
    STREAM: "PostgreSQL by `pgoutput`",
}
ALL: Final = tuple(DIALECTS)

RESET: Final = [
    *(f"DELETE FROM {table}" for table in ("seat_label", "seat", "venue", "estate", "patron", "label", "reading")),
    *(f"DELETE FROM branch WHERE id = {number}" for number in (3, 2, 1)),
    "INSERT INTO estate (id) VALUES (1)",
    "INSERT INTO venue (id, name, estate_id) VALUES (1, '', 1), (2, '', NULL)",
    "INSERT INTO patron (id) VALUES (1)",
    "INSERT INTO seat (id, code, venue_id, patron_id, price) "
    "VALUES (1, 'a', 1, 1, 0), (2, 'b', 1, NULL, 0), (3, 'c', 2, NULL, 0)",
    "INSERT INTO label (id, text) VALUES (1, '')",
    "INSERT INTO seat_label (seat_id, label_id) VALUES (1, 1)",
    "INSERT INTO branch (id, parent_id) VALUES (1, NULL), (2, 1), (3, 2)",
    "INSERT INTO reading (id, region) VALUES (1, 1)",
]
"""The statements that make the rows which each cell begins with."""

Seen = set[tuple[Any, ...]]
A, B, C = (1, "a"), (2, "b"), (3, "c")
LINK = ("seat_label", (1, 1), None)
Per = Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """A kind of write: statements by database, and how they are seen."""

    what: str
    statements: Mapping[str, Sequence[str]]
    how: Mapping[str, str]
    seen: Mapping[str, Seen] = field(default_factory=dict[str, Seen])
    undo: Sequence[str] = ()

    def on(self, dialect: str) -> Sequence[str]:
        """The statements of a database; none if it has no such write."""
        return self.statements.get(dialect) or self.statements.get("postgres" if dialect == STREAM else "", ())

    def cell(self, dialect: str) -> str:
        """The text in the table."""
        return self.how.get(dialect, NONE)


def same(what: str, how: str, seen: Seen, *statements: str, on: Sequence[str] = ALL) -> Cell:
    """Returns a row of the table that is the same on all databases."""
    return Cell(what, dict.fromkeys(on, statements), dict.fromkeys(on, how), dict.fromkeys(on, seen))


def seat(old: Any, new: Any) -> tuple[Any, ...]:
    """A changed seat: id and code before and after."""
    return "seat", old, new


_UPSERT = "INSERT INTO seat (id, code, price) VALUES (1, 'y', 0)"
_REPLACE = "INTO seat (id, code, price) VALUES (9, 'a', 0)"
_REPLACED = {seat(A, None), seat(None, (9, "a")), LINK}
_FILE = "{folder}/rows.txt"

CELLS: Final = [
    same("`INSERT`", ROWS, {seat(None, (9, "z"))}, "INSERT INTO seat (id, code, price) VALUES (9, 'z', 0)"),
    same("`UPDATE` of a key", ROWS, {seat(A, (1, "x"))}, "UPDATE seat SET code = 'x' WHERE id = 1"),
    same("`UPDATE` of another column", ROWS, {seat(A, A)}, "UPDATE seat SET price = 7 WHERE id = 1"),
    Cell(
        "`UPDATE` of the primary key",
        dict.fromkeys(ALL, ("UPDATE seat SET id = 8 WHERE id = 3",)),
        dict.fromkeys(ALL, ROWS),
        {
            "postgres": {seat(C, None), seat(None, (8, "c"))},
            "mariadb": {seat(C, (8, "c"))},
            "sqlite": {seat(C, (8, "c"))},
            STREAM: {seat(C, (8, "c"))},
        },
    ),
    same("`DELETE`", ROWS, {seat(C, None)}, "DELETE FROM seat WHERE id = 3"),
    Cell(
        "`ON CONFLICT DO UPDATE`, `ON DUPLICATE KEY UPDATE`",
        {
            "postgres": [f"{_UPSERT} ON CONFLICT (id) DO UPDATE SET code = 'y'"],
            "mariadb": [f"{_UPSERT} ON DUPLICATE KEY UPDATE code = 'y'"],
            "sqlite": [f"{_UPSERT} ON CONFLICT (id) DO UPDATE SET code = 'y'"],
        },
        dict.fromkeys(ALL, ROWS),
        {
            "postgres": {seat(A, (1, "y"))},
            "mariadb": {seat(A, (1, "y"))},
            "sqlite": {seat(A, (1, "y")), seat(A, None)},
            STREAM: {seat(A, (1, "y"))},
        },
    ),
    Cell(
        "`REPLACE`, `INSERT OR REPLACE`: rows that it deletes",
        {"mariadb": [f"REPLACE {_REPLACE}"], "sqlite": [f"INSERT OR REPLACE {_REPLACE}"]},
        {"mariadb": ROWS, "sqlite": ROWS},
        {"mariadb": _REPLACED, "sqlite": _REPLACED},
    ),
    Cell(
        "`UPDATE OR REPLACE`: rows that it deletes",
        {"sqlite": ["UPDATE OR REPLACE seat SET code = 'a' WHERE id = 2"]},
        {"sqlite": ROWS},
        {"sqlite": {seat(A, None), seat(B, (2, "a")), LINK}},
    ),
    same(
        "`MERGE`, a writing `WITH`, a view that can be updated",
        ROWS,
        {seat(A, (1, "m")), seat(B, (2, "w")), seat(C, (3, "v"))},
        "MERGE INTO seat USING (VALUES (1)) AS v (id) ON seat.id = v.id WHEN MATCHED THEN UPDATE SET code = 'm'",
        "WITH moved AS (UPDATE seat SET code = 'w' WHERE id = 2 RETURNING id) SELECT * FROM moved",
        "CREATE TEMP VIEW seats AS SELECT id, code FROM seat",
        "UPDATE seats SET code = 'v' WHERE id = 3",
        "DROP VIEW seats",
        on=["postgres", STREAM],
    ),
    Cell(
        "`COPY`, `LOAD DATA`",
        {
            "postgres": [r"""COPY seat (id, code, price) FROM PROGRAM 'printf "9\tz\t0\n"'"""],
            "mariadb": [
                f"SELECT 9, 'z', 0 INTO OUTFILE '{_FILE}'",
                f"LOAD DATA INFILE '{_FILE}' INTO TABLE seat (id, code, price)",
            ],
        },
        dict.fromkeys(["postgres", "mariadb", STREAM], ROWS),
        {name: {seat(None, (9, "z"))} for name in ("postgres", "mariadb", STREAM)},
    ),
    same(
        "a link of a many-to-many relation",
        ROWS,
        {("seat_label", None, (2, 1))},
        "INSERT INTO seat_label (seat_id, label_id) VALUES (2, 1)",
    ),
    same(
        "`ON DELETE CASCADE`, from a parent of any model",
        ROWS,
        {("venue", (1,), None), seat(A, None), seat(B, None), LINK},
        "DELETE FROM estate WHERE id = 1",
    ),
    same("`ON DELETE SET NULL`", ROWS, {seat(A, A)}, "DELETE FROM patron WHERE id = 1"),
    Cell(
        "`ON DELETE CASCADE` within one table",
        dict.fromkeys(ALL, ("DELETE FROM branch WHERE id = 1",)),
        {"postgres": ROWS, "mariadb": TABLE, "sqlite": ROWS, STREAM: ROWS},
        {
            STREAM: {("branch", (1,), None), ("branch", (2,), None), ("branch", (3,), None)},
            "postgres": {("branch", (1,), None), ("branch", (2,), None), ("branch", (3,), None)},
            "mariadb": {("branch", (1,), None), ("branch", "*")},
            "sqlite": {("branch", (1,), None), ("branch", (2,), None), ("branch", (3,), None)},
        },
    ),
    Cell(
        "more than 10,000 rows in one statement",
        {"postgres": ["INSERT INTO reading SELECT 100 + i, 1 FROM generate_series(1, 10001) i"]},
        {"postgres": TABLE, "mariadb": ROWS, "sqlite": ROWS, STREAM: ROWS},
        {"postgres": {("reading", "*")}, STREAM: {("reading", None, (100 + i, 1)) for i in range(1, 10_002)}},
    ),
    same(
        "a rollback, a statement that changes no row",
        NO_LINE,
        set(),
        "BEGIN",
        "UPDATE seat SET code = 'x' WHERE id = 1",
        "ROLLBACK",
        "UPDATE seat SET price = 1 WHERE id = 77",
        "DELETE FROM seat WHERE id = 77",
    ),
    Cell(
        "`TRUNCATE`",
        {"postgres": ["TRUNCATE reading"], "mariadb": ["TRUNCATE reading"]},
        {"postgres": TABLE, "mariadb": CHECK, STREAM: TABLE},
        {"postgres": {("reading", "*")}, STREAM: {("reading", "*")}},
    ),
    Cell(
        "workers of logical replication, `session_replication_role = replica`",
        {
            "postgres": [
                "SET session_replication_role = replica",
                "UPDATE seat SET code = 'x' WHERE id = 1",
                "INSERT INTO seat (id, code, price) VALUES (9, 'z', 0)",
                "DELETE FROM seat WHERE id = 3",
                "TRUNCATE reading",
                "RESET session_replication_role",
            ]
        },
        dict.fromkeys(["postgres", STREAM], ROWS),
        {
            name: {seat(A, (1, "x")), seat(None, (9, "z")), seat(C, None), ("reading", "*")}
            for name in ("postgres", STREAM)
        },
    ),
]
"""Writes that leave the schema as it is."""

_RENAME = ["ALTER TABLE seat RENAME COLUMN code TO word", "UPDATE seat SET price = 5 WHERE id = 1"]
_RENAME_BACK = ["ALTER TABLE seat RENAME COLUMN word TO code"]

SCHEMA_CELLS: Final = [
    Cell(
        "a write after `RENAME COLUMN` of a key",
        dict.fromkeys(ALL, _RENAME),
        {"postgres": TABLE, "mariadb": STOPS, "sqlite": STOPS, STREAM: TABLE},
        {"postgres": {("seat", "*")}, "mariadb": {("seat", "*")}, "sqlite": {seat(A, A)}, STREAM: {("seat", "*")}},
        undo=_RENAME_BACK,
    ),
    Cell(
        "a rewriting `ALTER TABLE`",
        {
            "postgres": ["ALTER TABLE seat ALTER COLUMN price TYPE bigint USING price + 1"],
            "mariadb": ["ALTER TABLE seat MODIFY COLUMN price BIGINT NOT NULL"],
        },
        {"postgres": CHECK, "mariadb": CHECK, STREAM: CHECK},
    ),
    Cell(
        "a key that is a generated column",
        {
            "postgres": [
                "ALTER TABLE reading DROP COLUMN region",
                "ALTER TABLE reading ADD COLUMN region int GENERATED ALWAYS AS (id % 2) STORED",
                "INSERT INTO reading (id) VALUES (5)",
            ],
            "mariadb": [
                "ALTER TABLE reading DROP COLUMN region, ADD COLUMN region INT GENERATED ALWAYS AS (id % 2) VIRTUAL",
                "INSERT INTO reading (id) VALUES (5)",
            ],
        },
        {"postgres": ROWS, "mariadb": ROWS, "sqlite": ROWS, STREAM: TABLE},
        {
            "postgres": {("reading", None, (5, 1))},
            "mariadb": {("reading", None, (5, 1))},
            STREAM: {("reading", "*")},
        },
        undo=["ALTER TABLE reading DROP COLUMN region", "ALTER TABLE reading ADD COLUMN region int NOT NULL DEFAULT 0"],
    ),
    Cell(
        "`UPDATE` and `DELETE`, with a replica identity that lacks a key",
        {STREAM: ["ALTER TABLE seat REPLICA IDENTITY DEFAULT", "UPDATE seat SET price = 7 WHERE id = 1"]},
        {STREAM: TABLE},
        {STREAM: {("seat", "*")}},
        undo=["ALTER TABLE seat REPLICA IDENTITY FULL"],
    ),
    Cell(
        "`UPDATE` and `DELETE`, without any replica identity",
        {STREAM: ["ALTER TABLE seat REPLICA IDENTITY NOTHING"]},
        {STREAM: STOPS},
        undo=["ALTER TABLE seat REPLICA IDENTITY FULL"],
    ),
    Cell(
        "a table that is taken out of the publication, or filtered there",
        {STREAM: ["ALTER PUBLICATION {publication} DROP TABLE seat"]},
        {STREAM: STOPS},
    ),
    Cell(
        "a slot that is dropped, or dropped and created again",
        {STREAM: ["{drop slot}", "UPDATE seat SET code = 'x' WHERE id = 1"]},
        {STREAM: CHECK},
    ),
    Cell(
        "any write after a new unique index or cascade, until the triggers are installed again",
        {
            "mariadb": [
                "CREATE TABLE region (id INT PRIMARY KEY) AS SELECT 1 AS id",
                "SET foreign_key_checks = 0",  # without it, the table would be copied, and get another number
                "ALTER TABLE reading ADD CONSTRAINT made FOREIGN KEY (region) REFERENCES region (id) "
                "ON DELETE CASCADE, ALGORITHM = INPLACE",
                "SET foreign_key_checks = 1",
            ],
            "sqlite": ["CREATE UNIQUE INDEX made ON reading (region)"],
        },
        {"mariadb": STOPS, "sqlite": STOPS},
        undo=[],
    ),
    Cell(
        "a trigger that is disabled or dropped",
        {
            "postgres": ["ALTER TABLE seat DISABLE TRIGGER ALL"],
            "mariadb": ["SELECT trigger_name FROM information_schema.triggers"],
            "sqlite": [],
        },
        dict.fromkeys(["postgres", "mariadb", "sqlite"], STOPS),
    ),
]
"""Changes of the schema, after each of which the triggers are installed again."""


def table() -> str:
    """Returns the table of the page."""
    lines = [f"| write | {' | '.join(DIALECTS.values())} |", f"|---{'|---' * len(DIALECTS)}|"]
    lines += [
        f"| {cell.what} | {' | '.join(map(cell.cell, DIALECTS))} |" for cell in [*CELLS, *PARTITIONS, *SCHEMA_CELLS]
    ]
    return "\n".join([*lines, ""])


PARTITION_TABLES: Final = [
    "DROP TABLE reading",
    "CREATE TABLE reading (id int, region int, PRIMARY KEY (id, region)) PARTITION BY LIST (region)",
    "CREATE TABLE reading_1 PARTITION OF reading FOR VALUES IN (1)",
    "CREATE TABLE reading_2 PARTITION OF reading FOR VALUES IN (2)",
    "CREATE TABLE venue_old () INHERITS (venue)",
    "INSERT INTO reading VALUES (1, 1)",
    "INSERT INTO venue_old (id, name) VALUES (77, '')",
]
PARTITIONS: Final = [
    Cell(
        "rows of partitions, by the table's name",
        {"postgres": ["UPDATE reading SET region = 2 WHERE id = 1"]},
        {"postgres": ROWS, STREAM: ROWS},
        {"postgres": {("reading", (1, 1), (1, 2))}, STREAM: {("reading", (1, 1), None), ("reading", None, (1, 2))}},
    ),
    Cell(
        "rows of partitions and of `INHERITS`, by the partition's own name",
        {"postgres": ["INSERT INTO reading_1 VALUES (5, 1)", "UPDATE venue_old SET name = 'x'"]},
        dict.fromkeys(["postgres", STREAM], ROWS),
        {name: {("reading", None, (5, 1)), ("venue", (77,), (77,))} for name in ("postgres", STREAM)},
    ),
    Cell(
        "`DETACH PARTITION`",
        {"postgres": ["ALTER TABLE reading DETACH PARTITION reading_2"]},
        {"postgres": CHECK, STREAM: CHECK},
        undo=["DROP TABLE reading_2"],
    ),
    Cell(
        "`ATTACH PARTITION`, a new partition, until the triggers are installed again",
        {
            "postgres": ["CREATE TABLE reading_3 PARTITION OF reading FOR VALUES IN (3)"],
            STREAM: [
                "CREATE TABLE reading_3 PARTITION OF reading FOR VALUES IN (3)",
                "INSERT INTO reading VALUES (9, 3)",
            ],
        },
        {"postgres": STOPS, STREAM: CHECK},
        {STREAM: {("reading", None, (9, 3))}},
        undo=["DROP TABLE reading_3"],
    ),
    Cell(
        "a new child by `INHERITS`, until the triggers or the publication are installed again",
        {"postgres": ["CREATE TABLE venue_new (LIKE venue INCLUDING ALL) INHERITS (venue)"]},
        {"postgres": STOPS, STREAM: STOPS},
    ),
]
"""Writes of partitioned tables, with ``PARTITION_TABLES``."""


def main() -> None:
    """Writes the table into the page."""
    page = PAGE.read_text("utf-8")
    before, _, rest = page.partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}{table()}{END}{rest.partition(END)[2]}", "utf-8")


if __name__ == "__main__":
    main()
