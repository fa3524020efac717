"""The tables that an SQL statement names.

Reads the text of any dialect, without a grammar. It may name too many tables, never too few: what it cannot be sure of
is a table of the name ``?``. It does not see tables that a view, a function or a trigger reads. Dialects differ in
where a text or a comment ends. A text that could hide a table from this module is one that it cannot be sure of.
"""

import re
from functools import lru_cache
from typing import Final, NamedTuple

UNKNOWN: Final = "?"
"""Stands for a table whose name cannot be read."""

_TOKEN: Final = r"""(?xs)
      (?P<text>'(?:[^']|'')*')
    | --(?=\s)[^\n]*|/\*(?!M?!)(?:(?!/\*).)*?\*/    # comments, but not those that MySQL executes, or nested ones
    | (?P<hash>\#)(?:>>?|-)?                       # operators of PostgreSQL; a comment on MySQL
    | (?P<name>"(?:[^"\\]|"")*"|`(?:[^`\\]|``)*`|[^\W\d][\w$]*)
    | 0[xX][0-9a-fA-F]+(?![\w$])|\d+(?:\.\d+)?(?:[eE][+-]?\d+)?(?![\w$])
    | (?P<mark>[(),.;*\[\]])
    | (?P<unsure>--|/\*|['"`]|\d|\$(?:[^\W\d]\w*)?\$)  # ends that are missing, names like 1st, texts of PostgreSQL
    """
"""A token of SQL. ``re`` compiles it at the first use, because that takes long."""
_TEXT: Final = "''"
"""Stands for any text."""
_BEFORE_TABLE: Final = frozenset({"FROM", "JOIN", "STRAIGHT_JOIN"})
_MODIFIERS: Final = frozenset({"LATERAL", "ONLY"})
_READS: Final = frozenset({"SELECT", "WITH"})
_ROWS: Final = frozenset({"(", "ROW"})
"""Words after VALUES, where it is no name of a table."""
_WRITES: Final = frozenset({"INSERT", "UPDATE", "DELETE", "REPLACE", "MERGE", "INTO"})
_AFTER_TABLES: Final = frozenset(
    {"WHERE", "GROUP", "ORDER", "HAVING", "LIMIT", "UNION", "INTERSECT", "EXCEPT", "SELECT", "WINDOW"}
)
"""Words after which a comma does not separate tables."""
_NO_KEYWORD_AFTER: Final = frozenset({".", "AS", "FOR"})
"""Words after which one of these is a name, or part of an index hint."""
_AFTER_TABLE: Final = _AFTER_TABLES | {
    "JOIN", "LEFT", "RIGHT", "FULL", "INNER", "CROSS", "NATURAL", "ON", "USING", "OFFSET", "FETCH", "FOR",
    "TABLESAMPLE",
}  # fmt: skip
"""Words after a table that are no alias of it."""
_BEFORE_OTHER_FROM: Final = frozenset({"EXTRACT", "SUBSTRING", "TRIM", "OVERLAY"})
"""Functions inside whose parentheses FROM does not name a table."""
_MAX_CACHED_LENGTH: Final = 4_000


class NamedTables(NamedTuple):
    """The tables of one statement."""

    names: tuple[str, ...]
    """Names as ``table`` or ``schema.table``, unquoted, or ``function()``. Common table expressions are left out."""
    repeated: frozenset[str]
    """Those names that occur several times."""
    words: frozenset[str]
    """All words of the statement, unquoted and in lower case, and ``*`` if it may read columns without naming them."""
    words_from: frozenset[str]
    """The words from the first FROM on: all but the columns that a SELECT without subqueries returns."""
    only_reads: bool
    """False if the statement may write."""


def tables_in(sql: str, dialect: str) -> NamedTables:
    """Returns the tables that a statement names after FROM and JOIN, and whether it only reads."""
    return _remembered(sql, dialect) if len(sql) <= _MAX_CACHED_LENGTH else _TokenizedStatement(sql, dialect).tables()


class _TokenizedStatement:
    """One statement, split into names, texts and punctuation."""

    def __init__(self, sql: str, dialect: str) -> None:
        self._dialect = dialect
        self._texts: list[str] = []
        self._words: list[str] = []
        """The same, in upper case where they are no quoted names."""
        self._names: dict[str, int] = {}
        self._rows: dict[int, str] = {}
        """The names that stand for a row of a table, by the place where each is given (PostgreSQL)."""
        self._unnamed: list[int] = []
        """The places at which columns are read that are not named."""
        for match in re.finditer(_TOKEN, sql):
            text = match["name"] or match["mark"] or (_TEXT if match["text"] else None)
            is_comment = match["hash"] and (dialect == "mysql" or len(match[0]) == 1)
            is_escaped = "\\" in (match["text"] or "") and not self._is_escape(match["text"])
            if match["unsure"] or is_comment or is_escaped:
                self._names[UNKNOWN] = 1
            if text is not None:
                self._texts.append(text)
                self._words.append(text if text[0] in '"`' else text.upper())
        self._common = self._find_common()

    def _is_escape(self, text: str) -> bool:
        return self._words[-1:] == ["ESCAPE"] and text == (r"'\\'" if self._dialect == "mysql" else r"'\'")

    def tables(self) -> NamedTables:
        words = self._words
        lists, callers = [False], [""]  # for each open parenthesis: do commas separate tables, the word before it
        at, expected = 0, -1  # the place where a table is expected in parentheses
        while at < len(words):
            word = words[at]
            at += 1
            if word in ("(", "["):
                callers.append(words[at - 2] if at > 1 else "")
                lists.append(at == expected + 1 and words[at : at + 1] == ["("])
                expected = at if lists[-1] else -1
            elif word in (")", "]") and len(lists) > 1:
                callers.pop()
                lists.pop()
            elif word in _BEFORE_TABLE and not self._is_other_from(at, callers[-1]):
                lists[-1] = True
                at = expected = self._add_table(at)
            elif word == "," and lists[-1]:
                at = expected = self._add_table(at)
            elif word == "IN" and self._dialect == "sqlite" and words[at : at + 1] != ["("]:
                self._unnamed.append(at)
                at = self._add_table(at)
            elif word in _AFTER_TABLES and self._is_keyword(at - 1):
                lists[-1] = False
            elif word == "TABLE":
                self._names[UNKNOWN] = 1
        only_reads = next((word for word in words if word != "("), "") in _READS and ";" not in words[:-1]
        writes = any(word in _WRITES and words[at + 1 : at + 2] != ["("] for at, word in enumerate(words))
        repeated = frozenset(name for name, number in self._names.items() if number > 1)
        start = words.index("FROM") if "FROM" in words else 0
        self._find_unnamed()
        all_words, words_from = self._lower_words(0), self._lower_words(start)
        return NamedTables(tuple(self._names), repeated, all_words, words_from, only_reads and not writes)

    def _is_keyword(self, at: int) -> bool:
        if at and self._words[at - 1] in _NO_KEYWORD_AFTER:
            return False
        return self._words[at] != "WINDOW" or self._words[at + 2 : at + 4] == ["AS", "("]

    def _is_other_from(self, at: int, caller: str) -> bool:
        before = self._words[max(0, at - 4) : at - 1]
        return caller in _BEFORE_OTHER_FROM or before[-2:] == ["IS", "DISTINCT"] or before == ["IS", "NOT", "DISTINCT"]

    def _lower_words(self, start: int) -> frozenset[str]:
        names = {_unquoted(text).lower() for text in self._texts[start:]} - {"*"}
        return frozenset([*names, "*"] if max(self._unnamed, default=-1) >= start else names)

    def _find_unnamed(self) -> None:
        """Finds the places of stars, natural joins, and of names of tables that stand for a row (PostgreSQL)."""
        words, rows = self._words, frozenset(self._rows.values())
        for at, word in enumerate(words):
            is_star = word == "*" and words[at - 1 : at] != ["("]
            is_row = at not in self._rows and self._folded(at) in rows and "." not in words[max(0, at - 1) : at + 2]
            if is_star or is_row or word == "NATURAL":
                self._unnamed.append(at)

    def _find_common(self) -> dict[str, int]:
        """Returns the common table expressions before a statement, and the place after which each can be named.

        Before it, and everywhere for those inside of a subquery, the name may be that of a table.
        """
        words, found = self._words, dict[str, int]()
        if words[:1] != ["WITH"]:
            return found
        recursive = words[1:2] == ["RECURSIVE"]
        at = 1 + recursive
        while at < len(words):
            name = self._folded(at)
            at = self._after_parentheses(at + 1)
            while words[at : at + 1] in (["AS"], ["NOT"], ["MATERIALIZED"]):
                at += 1
            end = self._after_parentheses(at)
            if end == at:
                break
            found.setdefault(name, at if recursive else end)
            at = end + 1
            if words[end : end + 1] != [","]:
                break
        return found

    def _after_parentheses(self, at: int) -> int:
        """Returns the place after the parentheses that open at a place, if any do."""
        depth = 0
        for end in range(at, len(self._words)):
            depth += (self._words[end] == "(") - (self._words[end] == ")")
            if not depth:
                return end + (self._words[end] == ")")
        return at

    def _folded(self, at: int) -> str:
        """Returns the name at a place, unquoted, as the database reads it."""
        text = self._texts[at]
        return text.lower() if self._dialect == "postgres" and text[0] not in '"`' else _unquoted(text)

    def _add_table(self, at: int) -> int:
        """Adds the table that is named at a place. Returns the place after it."""
        words = self._words
        while at < len(words) and words[at] in _MODIFIERS:
            at += 1
        start = at
        while at < len(words) and words[at] == "(":
            at += 1
        if at > start and at < len(words) and (words[at] in _READS or self._is_rows(at)):  # a subquery
            return start
        if at >= len(words) or words[at] in ("(", ")", ",", ".", ";", "*", "[", "]", _TEXT):
            self._names[UNKNOWN] = 1
            return at
        if at > start:  # tables in parentheses
            self._names[UNKNOWN] = 1
        parts, place = [self._folded(at)], at
        at += 1
        while words[at : at + 1] == ["."] and at + 1 < len(words):
            parts.append(self._folded(at + 1))
            at += 2
        is_function = words[at : at + 1] == ["("]
        if len(parts) > 1 or is_function or place < self._common.get(parts[0], len(words)):
            name = ".".join(parts) + ("()" if is_function else "")
            self._names[name] = self._names.get(name, 0) + 1
        if self._dialect == "postgres" and not is_function:
            self._add_row(at)
        return at

    def _is_rows(self, at: int) -> bool:
        return self._words[at] == "VALUES" and at + 1 < len(self._words) and self._words[at + 1] in _ROWS

    def _add_row(self, at: int) -> None:
        """Adds the name of a row of the table that is named before a place: its alias, or its own name."""
        words = self._words
        alias = at + (words[at : at + 1] == ["AS"])
        is_alias = alias < len(words) and words[alias] not in _AFTER_TABLE and words[alias][0] not in "(),.;*[]'"
        place = alias if is_alias else at - 1
        self._rows[place] = self._folded(place)
        if is_alias and words[alias + 1 : alias + 2] == ["("]:  # other names for the columns
            self._unnamed.append(alias)


def _unquoted(name: str) -> str:
    return name[1:-1].replace(name[0] * 2, name[0]) if name[0] in '"`' else name


@lru_cache(1_024)
def _remembered(sql: str, dialect: str) -> NamedTables:
    return _TokenizedStatement(sql, dialect).tables()
