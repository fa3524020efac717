"""``Log``: the operations of one process and the versions that they saw, in a file of 64-bit words.

A record is appended when its operation ends. It is a header of four words (kind and number of words that follow,
start, end, subject) and the words that follow. Times are nanoseconds of CLOCK_MONOTONIC, which all processes of a
machine share. The file of a killed process may end in the middle of a record.

=========  ================  ==================================================================
kind       subject           words
=========  ================  ==================================================================
BY_PK      0, rows of page   for each lookup: primary key and version in one word, then nonce
BY_SLUG    0                 for each lookup: slug and version in one word, then nonce
BY_TEAM    team              for each row of the list: version, nonce
SNAPSHOT   0                 as BY_PK, of the first read of a transaction and of a later one
TOGETHER   0, rows of page   as BY_PK, for rows that must have been in the database at one moment
WRITE      nonce             outcome, earliest begin of its COMMIT, rows whose lists it affects
DELETE     0                 outcome, earliest begin of its COMMIT, primary keys
ALARM      its key           kind of the read that judges an alarm of ``verify``, 1 if the entry stayed the same
HELD       0, or UNENDED     none: no invalidation was delivered from start to end (or on)
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
"""Maximum age of unwritten records, in nanoseconds. Older ones are written with the next record. A killed process
loses its unwritten records."""


UNENDED: Final = 1
"""Subject of a record that is logged when a state begins, because the end of the state may never be logged."""


class Kind(IntEnum):
    """Kinds of records."""

    BY_PK = 1
    BY_SLUG = 2
    BY_TEAM = 3
    WRITE = 4
    DELETE = 5
    HELD = 6
    SNAPSHOT = 7
    TOGETHER = 8
    ALARM = 9


class Outcome(IntEnum):
    """Outcome of a write, as its caller saw it."""

    ACKNOWLEDGED = 1
    """The write returned. It may have found no row to change."""
    REFUSED = 2
    UNKNOWN = 3
    """The write failed or was cancelled. It may have been committed, or may yet be."""
    CHANGED = 4
    """The write returned, and it has certainly changed a row."""


class Record(NamedTuple):
    """One operation. ``source`` is the number of the process."""

    kind: int
    start: int
    end: int
    subject: int
    words: Sequence[int]
    source: int = 0


class Log:
    """Writes records to a file. Opening it deletes the old content."""

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
        """Writes all records to the operating system."""
        self._flushed = time.monotonic_ns()
        data = memoryview(self._buffer).cast("B")
        while data:
            data = data[os.write(self._file, data) :]
        self._buffer = array("Q")

    def close(self) -> None:
        """Writes the remaining records and closes the file."""
        self.flush()
        os.close(self._file)


def records(path: Path, source: int = 0) -> Iterator[Record]:
    """Reads one file. Yields its records in the order in which they ended."""
    words = array("Q")
    with path.open("rb") as file:
        words.fromfile(file, path.stat().st_size // words.itemsize)
    at, size = 0, len(words)
    while at + HEADER <= size:
        head, start, end, subject = words[at : at + HEADER]
        after = at + HEADER + (head & LOW)
        if after > size:
            return
        yield Record(head >> KEY_SHIFT, start, end, subject, words[at + HEADER : after], source)
        at = after


def beginnings(paths: Iterable[Path]) -> dict[int, tuple[int, int]]:
    """Returns the begin of each write, and the earliest begin of its COMMIT, by nonce."""
    return {
        record.subject: (record.start, record.words[1])
        for path in paths
        for record in records(path)
        if record.kind == Kind.WRITE
    }


def merged(paths: Iterable[tuple[int, Path]]) -> Iterator[Record]:
    """Reads the files of all processes, given by number. Yields all records in the order in which they ended."""
    return merge(*[records(path, number) for number, path in paths], key=itemgetter(2))
