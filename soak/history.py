"""``History``: the committed states of each row and each slug, in order.

It comes from a table that a trigger writes with every change, in the same transaction, while the row is locked. So the
table holds only committed changes. For one row, its order is the order of the commits, and so for one slug, because
slugs are unique. States are numbered by *position*, from 0, "not there yet".
"""

from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Final, NamedTuple

NEVER: Final = 1 << 62
"""Position of a state that never comes."""
OUTSIDE: Final = 1 << 52
"""Lowest nonce of a write by another program, which the library does not notice."""


class Change(NamedTuple):
    """One change of one row, as the trigger saw it.

    ``version`` is 0 if the row was deleted. ``nonce`` is 0 then, unless another program has deleted it.
    """

    transaction: int
    pk: int
    version: int
    nonce: int
    slug: int
    team: int


class Place(NamedTuple):
    """Positions of a version of a row, in the timelines of the row and of its slug."""

    pk: int
    position: int
    nonce: int
    slug: int
    slug_position: int
    team: int


@dataclass(slots=True)
class Timeline:
    """States of one row (``values`` are teams) or of one slug (``values`` are primary keys). -1 means none."""

    values: list[int] = field(default_factory=lambda: [-1])
    writers: list[int] = field(default_factory=lambda: [0])
    """Nonces of the writes that made the states, or minus the row's primary key for a delete by the library."""
    changes: list[int] = field(default_factory=list)
    """Next position with another value."""
    gaps: list[int] = field(default_factory=list)
    """First position with no value, from this one on."""
    begun: list[int] = field(default_factory=list)
    """Earliest time at which each state may have been committed, as far as it is known."""
    numbers: list[int] = field(default_factory=lambda: [0])
    """Number of the change that made each state, counted over all rows."""
    inside: list[int] = field(default_factory=list)
    """Last position, up to this one, that is not of a write by another program."""
    transaction: int = 0

    def put(self, transaction: int, value: int, writer: int, number: int) -> int:
        """Adds a state and returns its position. Only the last state of a transaction was ever visible."""
        if transaction == self.transaction:
            self.values.pop()
            self.writers.pop()
            self.numbers.pop()
        self.transaction = transaction
        self.values.append(value)
        self.writers.append(writer)
        self.numbers.append(number)
        return len(self.values) - 1

    def finish(self, commits: Mapping[int, int]) -> None:
        """Computes the earliest begin of each state, and the next changes and gaps."""
        self.begun = list(accumulate([commits.get(writer, 0) for writer in self.writers], max))
        size = len(self.values)
        self.inside = list(accumulate([at * (writer < OUTSIDE) for at, writer in enumerate(self.writers)], max))
        self.changes, self.gaps = [NEVER] * size, [NEVER] * size
        for position in range(size - 1, -1, -1):
            if position + 1 < size:
                same = self.values[position] == self.values[position + 1]
                self.changes[position] = self.changes[position + 1] if same else position + 1
                self.gaps[position] = self.gaps[position + 1]
            if self.values[position] == -1:
                self.gaps[position] = position

    @property
    def last(self) -> int:
        """The position of the final state."""
        return len(self.values) - 1

    def without(self, value: int, position: int) -> int:
        """Returns the first position from this one on that has another value than ``value``."""
        return self.changes[position] if self.values[position] == value else position

    def before(self, value: int, position: int) -> int:
        """Returns the last position before this one that has another value or, if ``value`` is -1, no value."""
        position -= 1
        while position and (self.values[position] != -1 if value == -1 else self.values[position] == value):
            position -= 1
        return position


class Together(NamedTuple):
    """A transaction that wrote several rows, with the number of its last change."""

    positions: Mapping[int, int]
    """Positions that it wrote, by primary key."""
    number: int


class History:
    """All committed states. ``commits`` is the earliest time of each write's COMMIT, by nonce."""

    def __init__(self, changes: Iterable[Change], commits: Mapping[int, int] | None = None) -> None:
        self.rows: dict[int, Timeline] = {}
        self.slugs: dict[int, Timeline] = {}
        self.places: dict[int, Place] = {}
        """Committed states by version."""
        self.rows_of: dict[int, list[tuple[int, int]]] = {}
        """Rows that a write changed, each with its new position, by nonce."""
        self.slugs_of: dict[int, list[tuple[int, int]]] = {}
        """Slugs that a write changed, each with its new position, by nonce."""
        self.teams: dict[int, set[int]] = {}
        """Rows that were ever in a team, by team."""
        self.together: dict[int, tuple[list[int], list[Together]]] = {}
        """Positions of a row that were written together with other rows, in order, and the transactions that wrote
        them, by primary key."""
        self.nonces: set[int] = set()
        """Writes that changed a row, by nonce."""
        current: dict[int, Change] = {}
        written: dict[int, dict[int, int]] = {}
        numbers: dict[int, int] = {}
        for number, change in enumerate(changes, 1):
            self._add(change, current.get(change.pk), number)
            current[change.pk] = change
            written.setdefault(change.transaction, {})[change.pk] = self.rows[change.pk].last
            numbers[change.transaction] = number
        for transaction, positions in sorted(written.items(), key=lambda item: numbers[item[0]]):
            if len(positions) > 1:
                each = Together(positions, numbers[transaction])
                for pk, position in positions.items():
                    known, transactions = self.together.setdefault(pk, ([], []))
                    known.append(position)
                    transactions.append(each)
        for timeline in (*self.rows.values(), *self.slugs.values()):
            timeline.finish(commits or {})
        for place in self.places.values():
            self.rows_of.setdefault(place.nonce, []).append((place.pk, place.position))

    def _add(self, change: Change, last: Change | None, number: int) -> None:
        transaction, pk, version, nonce, slug, team = change
        self.nonces.add(nonce)
        row = self.rows.setdefault(pk, Timeline())
        if last is not None and last.transaction == transaction:
            self.places.pop(last.version, None)  # no other transaction could ever see it
        if last is not None and last.version and (not version or last.slug != slug):
            self._hold(last.slug, transaction, -1, nonce or -pk, number)
        if not version:
            position = row.put(transaction, -1, nonce or -pk, number)
            if nonce:
                self.rows_of.setdefault(nonce, []).append((pk, position))
            return
        holding = self.slugs.setdefault(slug, Timeline())
        if last is None or not last.version or last.slug != slug:
            self._hold(slug, transaction, pk, nonce, number)
        position = row.put(transaction, team, nonce, number)
        self.teams.setdefault(team, set()).add(pk)
        self.places[version] = Place(pk, position, nonce, slug, holding.last, team)

    def _hold(self, slug: int, transaction: int, holder: int, writer: int, number: int) -> None:
        position = self.slugs.setdefault(slug, Timeline()).put(transaction, holder, writer, number)
        if writer > 0:
            self.slugs_of.setdefault(writer, []).append((slug, position))


def save_changes(path: Path, changes: Iterable[Change]) -> None:
    """Saves the changes in a file, so that a run can be checked again."""
    path.write_bytes(array("Q", [word for change in changes for word in change]).tobytes())


def load_changes(path: Path) -> list[Change]:
    """Loads the changes from a file of ``save_changes``."""
    words = array("Q")
    words.frombytes(path.read_bytes())
    size = len(Change._fields)
    return [Change(*words[at : at + size]) for at in range(0, len(words), size)]
