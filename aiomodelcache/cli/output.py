"""The output of commands: tables and lines for people, or one JSON document for programs.

Colours and lines are for terminals; a pipe gets plain text. Must not know caches.
"""

import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

PIPED_WIDTH: Final = 10_000
"""Number of columns of text that is not for a terminal, so that no line of it is wrapped or cut."""
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")

STYLES: Final = {
    "hit": "green",
    "negative": "green",
    "cache": "green",
    "ok": "green",
    "unchanged": "green",
    "missing": "yellow",
    "database": "yellow",
    "stale": "yellow",
    "leased": "yellow",
    "warning": "yellow",
    "cleared": "yellow",
    "written": "magenta",
    "changed": "red",
    "damaged": "red",
    "error": "red",
    "other version": "red",
}
"""The colours of words on a terminal."""


class _Console(Console):
    """A console that leaves it to the command what happens if nothing reads it any more. Rich ends it with status 1."""

    def on_broken_pipe(self) -> None:
        raise  # called where the error is handled; click ends other commands


class Output:
    """The output of one command. ``as_json``: print the data itself, and nothing for people."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        is_terminal = sys.stdout.isatty()
        self.console = _Console(highlight=False, width=None if is_terminal else PIPED_WIDTH)
        self.is_terminal = is_terminal and not as_json

    def emit(self, data: Any, show: Callable[[], None]) -> None:
        """Prints ``data`` as JSON, or calls ``show``, which prints it for people."""
        if self.as_json:
            print(json.dumps(data, indent=2, ensure_ascii=False, default=str))
        else:
            show()

    def line(self, *parts: object) -> None:
        """Prints a line of text, with the words of ``STYLES`` in colour."""
        self.console.print(Text(" ").join([styled(part) for part in parts]), soft_wrap=True)

    def pairs(self, values: Iterable[tuple[str, object]]) -> None:
        """Prints names and values, one a line. Leaves out values that are None."""
        shown = [(name, value) for name, value in values if value is not None]
        width = max((len(name) for name, _ in shown), default=0)
        for name, value in shown:
            self.console.print(Text.assemble((f"{name:<{width}}  ", "bold"), styled(value)), soft_wrap=True)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Prints a table. Columns of numbers are aligned to the right."""
        cells = [list(row) for row in rows]
        if not self.is_terminal:
            self._plain_table([list(columns), *cells])
        else:
            self.console.print(self.made_table(columns, cells))

    @staticmethod
    def made_table(columns: Sequence[str], cells: Sequence[Sequence[object]]) -> Table:
        """Returns a table for a terminal."""
        table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
        for at, name in enumerate(columns):
            numbers = bool(cells) and all(isinstance(row[at], int | float) or row[at] is None for row in cells)
            table.add_column(name, justify="right" if numbers else "left", overflow="fold")
        for row in cells:
            table.add_row(*["" if value is None else styled(value) for value in row])
        return table

    @staticmethod
    def _plain_table(rows: Sequence[Sequence[object]]) -> None:
        texts = [["" if value is None else printable(value) for value in row] for row in rows]
        widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
        for line in texts:
            print("  ".join([text.ljust(width) for text, width in zip(line, widths, strict=True)]).rstrip())


def styled(value: object) -> Text:
    """Returns a value as text, in the colour of its word."""
    text = printable(value)
    return Text(text, STYLES.get(text, ""))


def printable(value: object) -> str:
    """Returns a value's text without control characters, which could change what a terminal shows."""
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", str(value))


def counted(number: int, one: str, several: str | None = None) -> str:
    """Returns a number with its noun, such as ``1 row`` or ``3 rows``."""
    return f"{number} {one if number == 1 else several or f'{one}s'}"


def duration(seconds: float | None) -> str | None:
    """Returns a duration for people, such as ``4m 10s``; None for None."""
    if seconds is None:
        return None
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if minutes < 60:
        return f"{minutes}m {int(seconds % 60)}s"
    return f"{hours}h {minutes % 60}m" if hours < 48 else f"{days}d {hours % 24}h"


def size(number: int | None) -> str | None:
    """Returns a number of bytes for people; None for None."""
    if number is None:
        return None
    for unit, bound in (("B", 1), ("kB", 1024), ("MB", 1024**2)):
        if number < bound * 1024:
            return f"{number / bound:.0f} {unit}" if bound == 1 else f"{number / bound:.1f} {unit}"
    return f"{number / 1024**3:.1f} GB"
