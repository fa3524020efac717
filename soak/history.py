"""What the database committed: for each row and each slug, the states that it was in, in order.

It comes from a table that a trigger writes beside every change, in the same transaction, while the row is
locked: what is in it was committed, and for one row (and for one slug, as it is unique) its order is the
order of the commits. States are numbered by *position*, from 0, "not there yet".
"""

from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Final, NamedTuple

NEVER: Final = 1 << 62
"""The position of what does not come any more."""


class Change(NamedTuple):
    """One change of one row, as the trigger saw it. ``version`` is 0 if the row was deleted."""

    transaction: int
    pk: int
    version: int
    nonce: int
    slug: int
    team: int


class Place(NamedTuple):
    """Where a version of a row is in the timelines of the row and of its slug."""

    pk: int
    position: int
    nonce: int
    slug: int
    slug_position: int
    team: int


@dataclass(slots=True)
class Timeline:
    """The states of one row, or who held one slug. ``values`` are teams or primary keys, -1 for none."""

    values: list[int] = field(default_factory=lambda: [-1])
    writers: list[int] = field(default_factory=lambda: [0])
    """The nonces of the writes that brought the states about; minus the row's primary key for a delete."""
    changes: list[int] = field(default_factory=list)
    """The next position with another value."""
    gaps: list[int] = field(default_factory=list)
    """This position or the next one at which there was none."""
    begun: list[int] = field(default_factory=list)
    """When each state may have been committed at the earliest, as far as that is known."""
    transaction: int = 0

    def put(self, transaction: int, value: int, writer: int) -> int:
        """Adds a state and returns its position. Of one transaction only the last state was ever there."""
        if transaction == self.transaction:
            self.values.pop()
            self.writers.pop()
        self.transaction = transaction
        self.values.append(value)
        self.writers.append(writer)
        return len(self.values) - 1

    def finish(self, commits: Mapping[int, int]) -> None:
        """Computes when each state began, and what lies ahead of it."""
        self.begun = list(accumulate([commits.get(writer, 0) for writer in self.writers], max))
        size = len(self.values)
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
        """The first position from this one on that has another value than ``value``."""
        return self.changes[position] if self.values[position] == value else position

    def before(self, value: int, position: int) -> int:
        """The last position before this one that has another value, or with -1 that has none."""
        position -= 1
        while position and (self.values[position] != -1 if value == -1 else self.values[position] == value):
            position -= 1
        return position


class History:
    """All that was committed; ``commits`` says when, at the earliest, by nonce."""

    def __init__(self, changes: Iterable[Change], commits: Mapping[int, int] | None = None) -> None:
        self.rows: dict[int, Timeline] = {}
        self.slugs: dict[int, Timeline] = {}
        self.places: dict[int, Place] = {}
        """By version: those that were committed as they are."""
        self.rows_of: dict[int, list[tuple[int, int]]] = {}
        """By nonce: the rows that a write changed, and the positions to which it brought them."""
        self.slugs_of: dict[int, list[tuple[int, int]]] = {}
        self.teams: dict[int, set[int]] = {}
        """By team: the rows that ever were in it."""
        current: dict[int, Change] = {}
        for change in changes:
            self._add(change, current.get(change.pk))
            current[change.pk] = change
        for timeline in (*self.rows.values(), *self.slugs.values()):
            timeline.finish(commits or {})
        for place in self.places.values():
            self.rows_of.setdefault(place.nonce, []).append((place.pk, place.position))

    def _add(self, change: Change, last: Change | None) -> None:
        transaction, pk, version, nonce, slug, team = change
        row = self.rows.setdefault(pk, Timeline())
        if last is not None and last.transaction == transaction:
            self.places.pop(last.version, None)  # nobody else could ever see it
        if last is not None and last.version and (not version or last.slug != slug):
            self._hold(last.slug, transaction, -1, nonce if version else -pk)
        if not version:
            row.put(transaction, -1, -pk)
            return
        holding = self.slugs.setdefault(slug, Timeline())
        if last is None or not last.version or last.slug != slug:
            self._hold(slug, transaction, pk, nonce)
        position = row.put(transaction, team, nonce)
        self.teams.setdefault(team, set()).add(pk)
        self.places[version] = Place(pk, position, nonce, slug, holding.last, team)

    def _hold(self, slug: int, transaction: int, holder: int, writer: int) -> None:
        position = self.slugs.setdefault(slug, Timeline()).put(transaction, holder, writer)
        if writer > 0:
            self.slugs_of.setdefault(writer, []).append((slug, position))


def save_changes(path: Path, changes: Iterable[Change]) -> None:
    """Keeps them in a file, so that a run can be checked again."""
    path.write_bytes(array("Q", [word for change in changes for word in change]).tobytes())


def load_changes(path: Path) -> list[Change]:
    """What ``save_changes`` kept."""
    words = array("Q")
    words.frombytes(path.read_bytes())
    size = len(Change._fields)
    return [Change(*words[at : at + size]) for at in range(0, len(words), size)]
