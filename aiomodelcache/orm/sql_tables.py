"""The tables that an SQL statement names.

Reads the text of any dialect, without a grammar. It may name too many tables, never too few: what it cannot be sure of
is a table of the name ``?``. It does not see tables that a view, a function or a trigger reads.
"""

import re
from functools import lru_cache
from typing import Final, NamedTuple

UNKNOWN: Final = "?"
"""Stands for a table whose name cannot be read."""

_TOKEN: Final = re.compile(
    r"""
      (?P<text>'(?:[^']|'')*')
    | \$(?P<tag>\w*)\$.*?\$(?P=tag)\$            # text, on PostgreSQL
    | --(?=\s)[^\n]*|/\*(?!!).*?\*/              # comments
    | \#(?:>>?|-)                                # operators of PostgreSQL
    | (?P<unsure>\#|--|/\*|')                    # comments of MySQL, or an end that is missing
    | (?P<name>"(?:[^"]|"")*"|`(?:[^`]|``)*`|[^\W\d][\w$]*)
    | (?P<mark>[(),.;])
    """,
    re.VERBOSE | re.DOTALL,
)
_BEFORE_TABLE: Final = frozenset({"FROM", "JOIN", "STRAIGHT_JOIN"})
_MODIFIERS: Final = frozenset({"LATERAL", "ONLY"})
_READS: Final = frozenset({"SELECT", "WITH"})
_WRITES: Final = frozenset({"INSERT", "UPDATE", "DELETE", "REPLACE", "MERGE", "INTO"})
_AFTER_TABLES: Final = frozenset(
    {"WHERE", "GROUP", "ORDER", "HAVING", "LIMIT", "UNION", "INTERSECT", "EXCEPT", "WINDOW", "FETCH", "FOR", "SELECT"}
)
"""Words after which a comma does not separate tables."""
_BEFORE_OTHER_FROM: Final = frozenset({"EXTRACT", "SUBSTRING", "TRIM", "OVERLAY"})
"""Functions inside whose parentheses FROM does not name a table."""
_MAX_CACHED_LENGTH: Final = 4_000


class NamedTables(NamedTuple):
    """The tables of one statement."""

    names: tuple[str, ...]
    """Names as ``table`` or ``schema.table``, unquoted, or ``function()``."""
    repeated: frozenset[str]
    """Those names that occur several times."""
    common: frozenset[str]
    """Those names that may be of common table expressions."""
    only_reads: bool
    """False if the statement may write."""


def tables_in(sql: str) -> NamedTables:
    """Returns the tables that a statement names after FROM and JOIN, and whether it only reads."""
    return _remembered(sql) if len(sql) <= _MAX_CACHED_LENGTH else _Statement(sql).tables()


class _Statement:
    """One statement, split into names, parentheses, commas and periods."""

    def __init__(self, sql: str) -> None:
        self._texts: list[str] = []
        self._words: list[str] = []
        """The same, in upper case where they are no quoted names."""
        self._names: dict[str, int] = {}
        for match in _TOKEN.finditer(sql):
            text = match["name"] or match["mark"]
            if text is not None:
                self._texts.append(text)
                self._words.append(text if text[0] in '"`' else text.upper())
            elif match["unsure"] or ("\\" in (match["text"] or "") and not self._is_escape(match["text"])):
                self._names[UNKNOWN] = 1  # dialects differ in where this ends

    def _is_escape(self, text: str) -> bool:
        return self._words[-1:] == ["ESCAPE"] and text in (r"'\'", r"'\\'")

    def tables(self) -> NamedTables:
        words = self._words
        lists, callers = [False], [""]  # for each open parenthesis: do commas separate tables, the word before it
        at = 0
        while at < len(words):
            word = words[at]
            at += 1
            if word == "(":
                callers.append(words[at - 2] if at > 1 else "")
                lists.append(False)
            elif word == ")" and len(lists) > 1:
                callers.pop()
                lists.pop()
            elif word in _BEFORE_TABLE and not self._is_other_from(at, callers[-1]):
                lists[-1] = True
                at = self._add_table(at)
            elif word == "," and lists[-1]:
                at = self._add_table(at)
            elif word in _AFTER_TABLES:
                lists[-1] = False
            elif word == "TABLE":
                self._names[UNKNOWN] = 1
        only_reads = next((word for word in words if word != "("), "") in _READS and ";" not in words[:-1]
        writes = any(word in _WRITES and words[at + 1 : at + 2] != ["("] for at, word in enumerate(words))
        repeated = frozenset(name for name, number in self._names.items() if number > 1)
        return NamedTables(tuple(self._names), repeated, self._common(), only_reads and not writes)

    def _is_other_from(self, at: int, caller: str) -> bool:
        before = self._words[max(0, at - 4) : at - 1]
        return caller in _BEFORE_OTHER_FROM or before[-2:] == ["IS", "DISTINCT"] or before == ["IS", "NOT", "DISTINCT"]

    def _common(self) -> frozenset[str]:
        """Returns the names before ``AS (``, perhaps with a list of columns in between."""
        words, found = self._words, set[str]()
        for at in range(1, len(words) - 1):
            if words[at : at + 2] == ["AS", "("]:
                named = at - 1
                if words[named] == ")":
                    named = max((each for each in range(named) if words[each] == "("), default=0) - 1
                found.add(_unquoted(self._texts[named]))
        return frozenset(found)

    def _add_table(self, at: int) -> int:
        """Adds the table that is named at a place. Returns the place after it."""
        words = self._words
        while at < len(words) and words[at] in _MODIFIERS:
            at += 1
        start = at
        while at < len(words) and words[at] == "(":
            at += 1
        if at > start and at < len(words) and words[at] in _READS:  # a subquery
            return start
        if at >= len(words) or words[at] in ("(", ")", ",", ".", ";"):
            self._names[UNKNOWN] = 1
            return at
        if at > start:  # tables in parentheses
            self._names[UNKNOWN] = 1
        parts = [_unquoted(self._texts[at])]
        at += 1
        while words[at : at + 1] == ["."] and at + 1 < len(words):
            parts.append(_unquoted(self._texts[at + 1]))
            at += 2
        name = ".".join(parts) + ("()" if words[at : at + 1] == ["("] else "")
        self._names[name] = self._names.get(name, 0) + 1
        return at


def _unquoted(name: str) -> str:
    return name[1:-1].replace(name[0] * 2, name[0]) if name[0] in '"`' else name


@lru_cache(1_024)
def _remembered(sql: str) -> NamedTables:
    return _Statement(sql).tables()
