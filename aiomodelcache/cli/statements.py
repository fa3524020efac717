"""The SQL statements that an application has sent: which table each reads by which columns, or writes.

Pure: reads the text of Tortoise's statements, from its log or from ``pg_stat_statements``. A statement in another form
is given a reason instead of columns, never wrong columns.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

_TOKEN: Final = re.compile(
    r"""(?P<name>"[^"]*"|`[^`]*`)|(?P<value>'(?:[^']|'')*'|\?|%s|\$\d+|\d+(?:\.\d+)?)|(?P<word>\w+)|(?P<mark>\S)""",
    re.VERBOSE,
)
_LOGGED: Final = re.compile(
    r"(?<!['\"(])(?P<sql>(?:SELECT|INSERT INTO|INSERT IGNORE INTO|UPDATE|DELETE FROM|REPLACE INTO) .*?)"
    r"(?:: (?P<values>\[.*\]|\(.*\)|None))?$",
    re.DOTALL,
)
"""A statement and its values. One that is quoted is left out: a driver that logs its calls has logged it again."""
_LIMIT_VALUE: Final = re.compile(r"(?:, |(?<=[\[(]))(\d+),?(?=[\])]$)")
"""The last one of the values of a statement, which is that of its LIMIT."""
_WRITES: Final = ("INSERT", "UPDATE", "DELETE", "REPLACE")

OTHER: Final = "another kind of statement"
JOINS: Final = "it joins tables"
COMPUTES: Final = "it computes a value"
COMPARES: Final = "it compares otherwise than by equality"
ALL_ROWS: Final = "it reads all rows"
LOCKS: Final = "it locks rows"


class ParsedStatement(NamedTuple):
    """One statement, read from its text."""

    table: str
    """The table that it reads or writes. Empty if that is not known."""
    writes: bool = False
    columns: frozenset[str] = frozenset()
    """The columns that it compares with values."""
    many: bool = False
    """True if it asks for several values of a column at once."""
    limit: str | None = None
    """Its LIMIT as written, or None if it has none."""
    reason: str | None = None
    """The reason for which no key can answer it, or None if one can."""


@dataclass(frozen=True, slots=True)
class Observed:
    """A statement that was observed, once or several times."""

    statement: ParsedStatement
    calls: int = 1
    seconds: float | None = None
    """The time that the database has spent on it, if known."""
    values: str | None = None
    """The values that it asked for, as text to compare, if known."""
    limit: int | None = None
    """The value of its LIMIT, if known."""


def observed_in_log(lines: Iterable[str]) -> Iterator[Observed]:
    """Yields the statements in the lines of a log of Tortoise's logger ``tortoise.db_client``, in any format.

    A line of JSON is searched for a text that holds a statement.
    """
    for line in lines:
        text = line.rstrip("\n")
        for message in _messages(text) if text.startswith("{") else (text,):
            match = _LOGGED.search(message)
            if match is not None:
                yield _observed(match["sql"], match["values"])


def _messages(line: str) -> list[str]:
    try:
        found: Any = json.loads(line)
    except ValueError:
        return [line]
    return [value for value in found.values() if isinstance(value, str)]


def _observed(sql: str, values: str | None) -> Observed:
    statement = parsed(sql)
    limit: int | None = None
    if statement.limit is not None and statement.limit.isdigit():
        limit = int(statement.limit)
    elif statement.limit is not None and values is not None and (match := _LIMIT_VALUE.search(values)):
        limit, values = int(match[1]), values[: match.start()] + values[match.end() :]
    return Observed(statement, values=values, limit=limit)


def parsed(sql: str) -> ParsedStatement:
    """Returns what a statement reads or writes."""
    tokens = [match[0] if match["name"] else match[0].upper() for match in _TOKEN.finditer(sql)]
    if tokens[:1] and tokens[0] in _WRITES:
        at = next((at for at, token in enumerate(tokens) if token in ("INTO", "UPDATE", "FROM")), None)
        return ParsedStatement("" if at is None else _table(tokens, at + 1)[0], writes=True, reason=OTHER)
    if tokens[:1] != ["SELECT"] or "FROM" not in tokens:
        return ParsedStatement("", reason=OTHER)
    start = tokens.index("FROM")
    table, at = _table(tokens, start + 1)
    if "JOIN" in tokens or tokens[at : at + 1] == [","] or tokens.count("SELECT") > 1:
        return ParsedStatement(table, reason=JOINS)
    selected = tokens[1:start]
    if "DISTINCT" in selected or ("(" in selected and selected != ["COUNT", "(", "*", ")"]):
        return ParsedStatement(table, reason=COMPUTES)
    return _Conditions(table, tokens[at:]).statement()


def _table(tokens: list[str], at: int) -> tuple[str, int]:
    """Returns the table that is named at a place, without its schema, and the place after it."""
    name = tokens[at] if at < len(tokens) else ""
    while tokens[at + 1 : at + 2] == ["."] and at + 2 < len(tokens):
        at += 2
        name = tokens[at]
    return _name(name), at + 1


def _name(token: str) -> str:
    return token[1:-1] if token[:1] in ('"', "`") else token.lower()


class _Conditions:
    """The part of a SELECT after its table."""

    def __init__(self, table: str, tokens: list[str]) -> None:
        self._table = table
        self._tokens = tokens
        self._at = 0

    def statement(self) -> ParsedStatement:
        """Returns the statement with its columns, or with the reason for which it has none."""
        if not self._take("WHERE"):
            return ParsedStatement(self._table, reason=ALL_ROWS)
        columns: set[str] = set()
        many = False
        while True:
            column = self._column()
            if column is None:
                return ParsedStatement(self._table, reason=COMPARES)
            columns.add(column)
            if self._take("="):
                compared = self._value()
            elif self._take("IS"):
                compared = self._take("NULL")
            else:
                compared = many = self._take("IN") and self._values()
            if not compared:
                return ParsedStatement(self._table, reason=COMPARES)
            if not self._take("AND"):
                break
        rest = self._tokens[self._at :]
        if rest and rest[0] not in ("ORDER", "LIMIT", "FOR", ";"):
            return ParsedStatement(self._table, reason=COMPARES if rest[0] in ("OR", ":", "COLLATE") else COMPUTES)
        if "FOR" in rest:
            return ParsedStatement(self._table, reason=LOCKS)
        limit = rest[rest.index("LIMIT") + 1] if "LIMIT" in rest[:-1] else None
        return ParsedStatement(self._table, columns=frozenset(columns), many=many, limit=limit)

    def _take(self, token: str) -> bool:
        found = self._tokens[self._at : self._at + 1] == [token]
        self._at += found
        return found

    def _column(self) -> str | None:
        found: str | None = None
        while self._at < len(self._tokens) and self._tokens[self._at][:1] in ('"', "`"):
            found = _name(self._tokens[self._at])
            self._at += 1
            if not self._take("."):
                return found
        return None

    def _value(self) -> bool:
        token = self._tokens[self._at] if self._at < len(self._tokens) else ""
        found = token[:1] in ("'", "?", "$") or token == "%S" or token[:1].isdigit() or token in ("TRUE", "FALSE")
        self._at += found
        return found

    def _values(self) -> bool:
        if not self._take("("):
            return False
        while self._value():
            if not self._take(","):
                break
        return self._take(")")
