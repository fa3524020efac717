"""What a process did and saw, one file for each process: 64-bit words, appended as each operation ends.

A record is a header of four words (kind and number of words that follow, start, end, subject) and these
words. Times are nanoseconds of CLOCK_MONOTONIC, which all processes of a machine share. A file that ends in
the middle of a record is that of a process that was killed.

=========  ================  ==================================================================
kind       subject           words
=========  ================  ==================================================================
BY_PK      0                 for each lookup: primary key and version in one word, then nonce
BY_SLUG    0                 for each lookup: slug and version in one word, then nonce
BY_TEAM    team              for each row of the list: version, nonce
SNAPSHOT   0                 as BY_PK, of the first look of a transaction and of a later one
WRITE      nonce             outcome, when its COMMIT may have begun
DELETE     0                 outcome, when its COMMIT may have begun, primary keys
HELD       0, or UNENDED     none: from start to end, or from start on, nothing could be delivered
=========  ================  ==================================================================

Version 0 stands for "no such row".
"""

import os
import time
from array import array
from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from heapq import merge
from operator import itemgetter
from pathlib import Path
from typing import Final, NamedTuple

HEADER: Final = 4
KEY_SHIFT: Final = 32
LOW: Final = (1 << 32) - 1
FLUSH_EVERY: Final = 100_000_000
"""Nanoseconds after which what was logged is written out: as much is lost with a process that is killed."""


UNENDED: Final = 1
"""Logged at once when something begins whose end may never be logged."""


class Kind(IntEnum):
    """What a record tells."""

    BY_PK = 1
    BY_SLUG = 2
    BY_TEAM = 3
    WRITE = 4
    DELETE = 5
    HELD = 6
    SNAPSHOT = 7


class Outcome(IntEnum):
    """How a write ended, as its caller was told."""

    ACKNOWLEDGED = 1
    REFUSED = 2
    UNKNOWN = 3


class Record(NamedTuple):
    """One operation. ``source`` is the number of the process."""

    kind: int
    start: int
    end: int
    subject: int
    words: Sequence[int]
    source: int = 0


class Log:
    """Writes records to a file, which is emptied."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        self._buffer = array("Q")
        self._flushed = time.monotonic_ns()

    def add(self, kind: Kind, start: int, subject: int = 0, words: Iterable[int] = ()) -> None:
        """Appends a record that ends now."""
        body = array("Q", words)
        end = time.monotonic_ns()
        self._buffer.extend((kind << KEY_SHIFT | len(body), start, end, subject))
        self._buffer.extend(body)
        if end - self._flushed > FLUSH_EVERY:
            self.flush()

    def flush(self) -> None:
        """Hands everything over to the operating system."""
        self._flushed = time.monotonic_ns()
        data = memoryview(self._buffer).cast("B")
        while data:
            data = data[os.write(self._file, data) :]
        self._buffer = array("Q")

    def close(self) -> None:
        """Writes out the rest."""
        self.flush()
        os.close(self._file)


def records(path: Path, source: int = 0) -> Iterator[Record]:
    """Reads one file: its records in the order in which they ended."""
    words = array("Q")
    with path.open("rb") as file:
        data = file.read()
    words.frombytes(data[: len(data) // 8 * 8])
    at, size = 0, len(words)
    while at + HEADER <= size:
        head, start, end, subject = words[at : at + HEADER]
        after = at + HEADER + (head & LOW)
        if after > size:
            return
        yield Record(head >> KEY_SHIFT, start, end, subject, words[at + HEADER : after], source)
        at = after


def beginnings(paths: Iterable[Path]) -> dict[int, tuple[int, int]]:
    """When each write began, and when its COMMIT may have, by nonce."""
    return {
        record.subject: (record.start, record.words[1])
        for path in paths
        for record in records(path)
        if record.kind == Kind.WRITE
    }


def merged(paths: Iterable[tuple[int, Path]]) -> Iterator[Record]:
    """Reads the files of all processes, by number: all records in the order in which they ended."""
    return merge(*[records(path, number) for number, path in paths], key=itemgetter(2))
