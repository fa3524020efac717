"""Runs the code blocks of the documentation.

A Python block is a module if its first line is a comment with a file's name. The other blocks of a page form one
program, so a block can use names that the blocks above it define. ``await`` may be used anywhere. A comment after a
statement, such as ``# 1 round trip, no SQL``, is a claim that is checked. A block of another library's code has
``<!-- not run: why -->`` above it.
"""

import ast
import gc
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from aiomodelcache.testing import assert_ops

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

_FENCE = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]+) -->\n+)?^```(?P<language>[^\n]*)\n(?P<code>.*?)^```$", re.M | re.S
)
_FILE = re.compile(r"# (\w+)\.py\n")
_CLAIM = re.compile(r"(\d+|no) (I/O|round trip|SQL|statement)")
_COUNTED = {"I/O": ("redis", "sql"), "round trip": ("redis",), "SQL": ("sql",), "statement": ("sql",)}


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    code: str
    line: int
    """The line of the page on which the code begins, from 1."""
    reason: str | None
    """The reason for which the block is not run, or None."""

    @property
    def module(self) -> str | None:
        """The module's name, or None if the block is part of the page's program."""
        found = _FILE.match(self.code)
        return found[1] if found else None


def blocks(page: Path) -> list[Block]:
    """Returns the fenced blocks of a page."""
    text = page.read_text("utf-8")
    return [
        Block(found["language"], found["code"], text.count("\n", 0, found.start("code")) + 1, found["reason"])
        for found in _FENCE.finditer(text)
    ]


def program(page: Path) -> list[Block]:
    """Returns the Python blocks of a page that are run."""
    return [block for block in blocks(page) if block.language == "python" and block.reason is None]


class Program:
    """The running program of a page."""

    def __init__(self, page: Path, replace: dict[str, str]) -> None:
        self.page = page
        self.names: dict[str, Any] = {"__name__": page.stem, "assert_ops": assert_ops}
        self._replace = replace

    def load(self, block: Block) -> ModuleType:
        """Runs a block that is a module. The caller removes it from ``sys.modules`` afterwards."""
        assert block.module is not None
        module = sys.modules[block.module] = ModuleType(block.module)
        exec(compile(self._source(block), str(self.page), "exec"), vars(module))
        return module

    async def run(self) -> None:
        """Runs all blocks that are not modules, and checks the claim of each statement."""
        for block in program(self.page):
            if block.module is None:
                await self._run(self._source(block))

    async def run_call(self, code: str) -> None:
        """Runs a line of code in a table of the page."""
        text = self.page.read_text("utf-8")
        await self._run("\n" * text.count("\n", 0, text.find(code)) + code)

    async def _run(self, source: str) -> None:
        checked = _Checked(source)
        tree = ast.fix_missing_locations(checked.visit(ast.parse(source, str(self.page))))
        assert not checked.claims, f"{self.page.name}: claims on lines where no statement begins: {checked.claims}"
        coroutine = eval(compile(tree, str(self.page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), self.names)
        if coroutine is not None:
            await coroutine

    def _source(self, block: Block) -> str:
        """Returns the code shifted to its lines of the page, so tracebacks name those lines."""
        source = "\n" * (block.line - 1) + block.code
        for old, new in self._replace.items():
            source = source.replace(old, new)
        return source

    def forget(self) -> None:
        """Releases the declared classes, since a cache that opens binds all classes that exist."""
        self.names.clear()
        gc.collect()


class _Checked(ast.NodeTransformer):
    """Wraps each statement that has a claim in an ``assert_ops``. Claims without a statement stay in ``claims``."""

    def __init__(self, source: str) -> None:
        comments = enumerate((line.partition("  # ")[2] for line in source.splitlines()), 1)
        self.claims = {number: claims for number, comment in comments if (claims := _claims(comment))}

    def visit(self, node: ast.AST) -> Any:
        claims = self.claims.pop(node.lineno, None) if isinstance(node, ast.stmt) else None
        node = self.generic_visit(node)
        if claims is None:
            return node
        [block] = ast.parse(f"async def block():\n async with assert_ops(**{claims}): pass").body[0].body
        block.body = [node]
        return ast.copy_location(block, node)


def _claims(comment: str) -> dict[str, int]:
    """Returns the claims of a comment as arguments for ``assert_ops``."""
    found: dict[str, int] = {}
    for count, unit in _CLAIM.findall(comment):
        found |= dict.fromkeys(_COUNTED[unit], 0 if count == "no" else int(count))
    return found
