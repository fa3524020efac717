"""Writes in the source of an application that the cache does not notice: SQL in texts, querysets made by hand.

Reads source files and parses them; imports none. A table or a model whose name is made at run time is not found.
"""

import ast
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

MAX_FILES: Final = 20_000
"""Maximum number of files that are read. Beyond it, the others are left out, and the command says so."""
MAX_FILE_SIZE: Final = 1_000_000
"""Maximum size of a file in bytes. A larger one is data, and is left out."""
_LEFT_OUT: Final = frozenset(
    {"__pycache__", "node_modules", "site-packages", "build", "dist", "venv", "env", "migrations", "tests", "test"}
)
"""Folders without code that runs beside the cache. So are hidden ones, and virtual environments of any name."""
_WRITES: Final = re.compile(
    r"""(?:^|[;(])\s*(?:--[^\n]*\s+)*(?:EXPLAIN\s+)?
    (?:INSERT\s+(?:OR\s+\w+\s+|IGNORE\s+)?INTO|REPLACE\s+INTO|MERGE\s+INTO|DELETE\s+FROM|TRUNCATE(?:\s+TABLE)?
      |COPY|LOCK\s+TABLE|UPDATE)\s+
    (?:ONLY\s+)?(?P<table>[^\s(;]+)(?P<rest>[^;]*)""",
    re.VERBOSE | re.IGNORECASE,
)
_AFTER_CTE: Final = re.compile(r"\)\s*(?=(?:INSERT|UPDATE|DELETE|MERGE)\b)", re.IGNORECASE)
_UPDATES: Final = re.compile(r"\bSET\b", re.IGNORECASE)
_COPIES: Final = frozenset({"copy_records_to_table", "copy_to_table"})
"""Methods of asyncpg that write the table that their first argument names."""
_BY_HAND: Final = frozenset({"QuerySet", "Manager"})
"""Classes of Tortoise whose instances write unnoticed if they are made by hand."""
_INVALIDATES: Final = frozenset({"invalidate", "invalidate_cache", "clear_all", "invalidate_tags"})


class Unnoticed(NamedTuple):
    """A place in the source that may write rows of a cached model unnoticed."""

    file: Path
    line: int
    table: str
    by: str
    """The means: ``SQL`` or the call of a class."""


class SearchResult(NamedTuple):
    """The result of reading the source of an application."""

    found: list[Unnoticed]
    files: int
    complete: bool
    """False if there were too many files."""


def search(folders: Iterable[Path], tables: Mapping[str, str]) -> SearchResult:
    """Searches folders for unnoticed writes of tables. ``tables``: the cached model of each table, by its name."""
    found: list[Unnoticed] = []
    number = 0
    for file in files_in(folders):
        if number == MAX_FILES:
            return SearchResult(found, number, complete=False)
        number += 1
        found += unnoticed_in(file, tables)
    return SearchResult(found, number, complete=True)


def files_in(folders: Iterable[Path]) -> Iterator[Path]:
    """Yields the source files of folders, without tests, migrations and installed packages."""
    for start in folders:
        if start.is_file():
            yield start
        for name, below, files in os.walk(start):
            folder = Path(name)
            below[:] = sorted(
                each
                for each in below
                if each not in _LEFT_OUT and not each.startswith(".") and not (folder / each / "pyvenv.cfg").exists()
            )
            for file in sorted(files):
                if file.endswith(".py") and not file.startswith("test_") and file != "conftest.py":
                    yield folder / file


def unnoticed_in(file: Path, tables: Mapping[str, str]) -> list[Unnoticed]:
    """Returns the unnoticed writes in one file. A file that cannot be read or parsed has none."""
    try:
        if file.stat().st_size > MAX_FILE_SIZE:
            return []
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return []
    return [Unnoticed(file, line, table, by) for line, table, by in _Scope(tables).visit(tree)]


class _Scope:
    """The search of one module. A function that invalidates by itself is left out."""

    def __init__(self, tables: Mapping[str, str]) -> None:
        self._tables = {name.rpartition(".")[2].lower(): name for name in tables}
        self._models: dict[str, str] = {}
        for table, model in tables.items():  # that of a model itself comes before those of its relations
            self._models.setdefault(model, table)

    def visit(self, node: ast.AST) -> Iterator[tuple[int, str, str]]:
        """Yields the line, the table and the means of each write."""
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):  # a docstring
            return
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and _invalidates(node):
            return
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Call):
            yield from self._call(node)
        text = self._text(node)
        if text is not None:
            for table in written_tables(text, self._tables):
                yield line, self._tables[table], "SQL"
            return
        for child in ast.iter_child_nodes(node):
            yield from self.visit(child)

    def _call(self, node: ast.Call) -> Iterator[tuple[int, str, str]]:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        first = node.args[0] if node.args else None
        if name in _COPIES and isinstance(first, ast.Constant) and str(first.value).lower() in self._tables:
            yield node.lineno, self._tables[str(first.value).lower()], f"{name}()"
        if name in _BY_HAND and isinstance(first, ast.Name) and first.id in self._models:
            yield node.lineno, self._models[first.id], f"{name}({first.id})"

    def _text(self, node: ast.AST) -> str | None:
        """Returns the text that an expression makes, with ``?`` for unknown parts; None for other expressions."""
        if isinstance(node, ast.Constant):
            return node.value if isinstance(node.value, str) else None
        if isinstance(node, ast.JoinedStr):
            return "".join([self._text(part) or self._inserted(part) for part in node.values])
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            left, right = self._text(node.left), self._text(node.right)
            return None if left is None and right is None else (left or "?") + (right or "?")
        return None

    def _inserted(self, node: ast.AST) -> str:
        """Returns the table of ``Event._meta.db_table``, or ``?``."""
        value = node.value if isinstance(node, ast.FormattedValue) else node
        model, _, end = ast.unparse(value).partition("._meta.")
        return self._models.get(model.rpartition(".")[2], "?") if end == "db_table" else "?"


def written_tables(text: str, tables: Collection[str]) -> list[str]:
    """Returns the tables that a text with SQL statements writes, of those in ``tables``, in lower case."""
    found: dict[str, None] = {}
    for match in _WRITES.finditer(_AFTER_CTE.sub(");", text)):
        table = re.sub(r'["`\[\]]', "", match["table"]).rpartition(".")[2].lower()
        is_update = match[0].lstrip("(; \t\r\n")[:6].upper() == "UPDATE"
        if table in tables and (not is_update or _UPDATES.search(match["rest"])):
            found[table] = None
    return list(found)


def _invalidates(function: ast.AST) -> bool:
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in _INVALIDATES:
                return True
            if node.func.attr == "clear" and "cache" in ast.unparse(node.func.value).lower():
                return True
    return False
