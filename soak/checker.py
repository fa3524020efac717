"""Finds reads that the database's history does not allow, in one pass over the logs of all processes.

Records come in the order in which operations ended. For each row and slug two floors rise: to what was
*acknowledged* when a write ends, and to what was *seen* when a read ends. A read must be at or above both, as
they were when it began: the checker goes back from their ends, past what happened during the read. So the time
is linear in the records, and the memory in the writes.

Knows nothing of caches, nor of faults: what of its findings was predicted is decided in ``predicted``.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final, NamedTuple

from soak.history import NEVER, History, Place, Timeline
from soak.log import KEY_SHIFT, LOW, UNENDED, Kind, Outcome, Record

KEEP: Final = 1_000_000
"""So many violations are kept one by one; the others are counted."""


class Violation(StrEnum):
    """What a read must not be."""

    UNCOMMITTED = "uncommitted"
    """It saw what was never committed, or not yet."""
    OLD_KEY = "found under its old key"
    """It found a row under a slug or in a team that this version of the row does not have."""
    STALE = "older than an acknowledged write"
    BACKWARDS = "older than what was read before"
    AT_REST = "not the database's at rest"
    UNREPEATABLE = "changed within a snapshot"


class Finding(NamedTuple):
    """One violation: a read that saw ``position`` of a timeline where it should have seen ``floor`` or later."""

    what: Violation
    kind: int
    key: int
    start: int
    end: int
    position: int
    floor: int
    by_slug: bool
    source: int
    unlisted: bool = False
    """A list did not have the row: a matter of the writes that touch lists, first the one that brought it there."""
    instead: "Finding | None" = None
    """That ``floor`` had been seen is known only from a read that found nothing: what it was if it found what was
    there before."""


class Written(NamedTuple):
    """One write, as its process knew it."""

    source: int
    start: int
    end: int
    outcome: int


class Floor:
    """How high the position of a timeline has to be, over time."""

    __slots__ = ("positions", "times")

    def __init__(self) -> None:
        self.times = [-NEVER]
        self.positions = [0]

    def at(self, time: int) -> int:
        """The floor right before ``time``."""
        index = -1
        times = self.times
        while times[index] >= time:
            index -= 1
        return self.positions[index]

    def rise(self, time: int, position: int) -> None:
        """From ``time`` on it is at least ``position``. Times must not go back."""
        if position > self.positions[-1]:
            self.times.append(time)
            self.positions.append(position)

    def passed(self, position: int) -> int:
        """When it rose above ``position``, which is below it."""
        return self.times[bisect_right(self.positions, position)]


class Own(NamedTuple):
    """What one process has written and seen itself."""

    acknowledged: Floor
    seen: Floor


class Track:
    """One row's or one slug's timeline, with its floors."""

    __slots__ = ("acknowledged", "guesses", "own", "seen", "timeline")

    def __init__(self, timeline: Timeline | None) -> None:
        if timeline is None:
            timeline = Timeline()
            timeline.finish({})
        self.timeline = timeline
        self.acknowledged = Floor()
        self.seen = Floor()
        self.guesses: dict[int, Finding] = {}
        """Positions known from reads alone that found nothing: what these were if they saw what was there before."""
        self.own: dict[int, Own] = {}
        """By process; only where others may lag behind."""

    def of(self, source: int) -> Own:
        """What a process has written and seen itself."""
        return self.own.setdefault(source, Own(Floor(), Floor()))

    def below(
        self, start: int, position: int, own: Own | None = None, own_start: int = 0
    ) -> tuple[Violation, int] | None:
        """Whether a read that began at ``start`` must not see ``position``: why not, and the floor.

        ``own_start`` is the same for what its process has written and seen itself.
        """
        if own is not None:
            for floors, violation in ((own.acknowledged, Violation.STALE), (own.seen, Violation.BACKWARDS)):
                if position < floors.positions[-1] and position < (least := floors.at(own_start)):
                    return violation, least
        if position < self.acknowledged.positions[-1] and position < (floor := self.acknowledged.at(start)):
            return Violation.STALE, floor
        if position < self.seen.positions[-1] and position < (floor := self.seen.at(start)):
            return Violation.BACKWARDS, floor
        return None

    def without(
        self, start: int, end: int, value: int, own: Own | None = None, own_start: int = 0
    ) -> tuple[int, Violation | None, int]:
        """The earliest position that a read may have seen which found ``value`` (-1: anything) not there.

        Else why there is none, and the floor from which on there was always some, as long as the read went on.
        """
        position = 0
        floors = [(self.acknowledged, Violation.STALE, start), (self.seen, Violation.BACKWARDS, start)]
        if own is not None:
            floors += (own.acknowledged, Violation.STALE, own_start), (own.seen, Violation.BACKWARDS, own_start)
        for floor, violation, since in floors:
            at = max(position, floor.at(since))
            position = self.timeline.gaps[at] if value == -1 else self.timeline.without(value, at)
            if position == NEVER or self.timeline.begun[position] > end:
                return self.timeline.before(value, at), violation, at
        return position, None, position


class Checker:
    """Checks records against a history.

    ``allowances`` (nanoseconds, by kind of read) is how much older a read may be, by request: reads through
    caches with an ``allowtime``. ``lag`` (nanoseconds) is how much older it may be than what other processes have
    written and seen, but not its own, as with ``near``; ``late`` are those that were, and by how much. Reads that begin
    at ``rest_from`` or later must see the final states.
    """

    def __init__(
        self,
        history: History,
        *,
        rest_from: int = NEVER,
        allowances: Mapping[Kind, int] | None = None,
        lag: int = 0,
    ) -> None:
        self.history = history
        self.findings: list[Finding] = []
        self.violations: Counter[Violation] = Counter()
        self.reads: Counter[Kind] = Counter()
        """Answers by kind of lookup. A list is one."""
        self.rows_listed = 0
        self.absences = 0
        self.snapshots = 0
        """How often one was looked into again."""
        self.at_rest = 0
        self.outcomes: Counter[Outcome] = Counter()
        self.written: dict[int, Written] = {}
        """By nonce."""
        self.listed: dict[int, Sequence[int]] = {}
        """By nonce: the rows of which a write has touched the lists that they are in."""
        self.deleted: dict[int, list[Written]] = {}
        """By primary key."""
        self.held: dict[int, dict[int, int]] = {}
        """By process: when it could not deliver invalidations, from and to."""
        self.last: dict[int, int] = {}
        """By process: when its last record ended."""
        self.late: list[tuple[Finding, int]] = []
        self._lag = lag
        self._rest_from = rest_from
        self._allowances = {int(kind): allowance for kind, allowance in (allowances or {}).items()}
        self._rows = _Tracks(history.rows)
        self._slugs = _Tracks(history.slugs)
        self._members = {team: sorted(pks) for team, pks in history.teams.items()}

    def feed(self, record: Record) -> None:
        """Checks the next record. None may have ended before those that were fed already."""
        kind = record.kind
        self.last[record.source] = record.end
        if kind == Kind.BY_PK:
            self._by_pk(record)
        elif kind == Kind.BY_SLUG:
            self._by_slug(record)
        elif kind == Kind.BY_TEAM:
            self._by_team(record)
        elif kind == Kind.SNAPSHOT:
            self._snapshot(record)
        elif kind == Kind.WRITE:
            self._write(record)
        elif kind == Kind.DELETE:
            self._delete(record)
        else:
            windows = self.held.setdefault(record.source, {})
            windows[record.start] = NEVER if record.subject == UNENDED else record.end

    # Reads ------------------------------------------------------------------------------------------

    def _by_pk(self, read: Record) -> None:
        words = read.words
        start = read.start - self._allowances.get(read.kind, 0)
        self.reads[Kind.BY_PK] += len(words) // 2
        self.at_rest += len(words) // 2 if read.start >= self._rest_from else 0
        places, rows = self.history.places, self._rows
        for index in range(0, len(words), 2):
            word = words[index]
            pk, version = word >> KEY_SHIFT, word & LOW
            if not version:
                self._nothing(read, start, rows[pk], pk, by_slug=False)
                continue
            place = places.get(version)
            if place is None or place.pk != pk or place.nonce != words[index + 1]:
                self._violate(Violation.UNCOMMITTED, read, pk, 0, 0)
            else:
                self._something(read, start, rows[pk], pk, place.position, by_slug=False)

    def _by_slug(self, read: Record) -> None:
        words = read.words
        start = read.start - self._allowances.get(read.kind, 0)
        self.reads[Kind.BY_SLUG] += len(words) // 2
        self.at_rest += len(words) // 2 if read.start >= self._rest_from else 0
        for index in range(0, len(words), 2):
            word = words[index]
            slug, version = word >> KEY_SHIFT, word & LOW
            if not version:
                self._nothing(read, start, self._slugs[slug], slug, by_slug=True)
                continue
            place = self._place(read, slug, version, words[index + 1])
            if place is None:
                continue
            if place.slug != slug:
                self._violate(Violation.OLD_KEY, read, slug, 0, 0, by_slug=True)
            elif self._something(read, start, self._rows[place.pk], place.pk, place.position, by_slug=False):
                self._something(read, start, self._slugs[slug], slug, place.slug_position, by_slug=True)

    def _by_team(self, read: Record) -> None:
        team, words = read.subject, read.words
        start = read.start - self._allowances.get(read.kind, 0)
        self.reads[Kind.BY_TEAM] += 1
        self.at_rest += 1 if read.start >= self._rest_from else 0
        self.rows_listed += len(words) // 2
        listed: set[int] = set()
        for index in range(0, len(words), 2):
            place = self._place(read, team, words[index], words[index + 1])
            if place is None:
                continue
            listed.add(place.pk)
            if place.team != team:
                self._violate(Violation.OLD_KEY, read, team, 0, 0)
            else:
                self._something(read, start, self._rows[place.pk], place.pk, place.position, by_slug=False)
        for pk in self._members.get(team, ()):
            if pk not in listed:
                track = self._rows[pk]
                position, violation, floor = track.without(start - self._lag, read.end, team, *self._own(track, read))
                if violation is not None:
                    self._violate(violation, read, pk, position, floor, unlisted=True)
                elif read.start >= self._rest_from and track.timeline.values[-1] == team:
                    self._violate(Violation.AT_REST, read, pk, position, track.timeline.last)
                else:
                    self._saw_nothing(track, read, start, pk, team, position, unlisted=True)

    def _snapshot(self, read: Record) -> None:
        """Both looks must have seen the same. Whether the first was fresh is checked as of any other read."""
        self.snapshots += 1
        first: dict[int, tuple[int, int]] = {}
        for word, nonce in zip(read.words[::2], read.words[1::2], strict=True):
            pk = word >> KEY_SHIFT
            if first.setdefault(pk, (word, nonce)) != (word, nonce):
                self._violate(Violation.UNREPEATABLE, read, pk, 0, 0)

    def _own(self, track: Track, read: Record) -> tuple[Own | None, int]:
        return (track.own.get(read.source), read.start) if self._lag else (None, 0)

    def _saw(self, track: Track, read: Record, position: int) -> None:
        track.seen.rise(read.end, position)
        if self._lag:
            track.of(read.source).seen.rise(read.end, position)

    def _saw_nothing(
        self,
        track: Track,
        read: Record,
        start: int,
        key: int,
        value: int,
        position: int,
        *,
        by_slug: bool = False,
        unlisted: bool = False,
    ) -> None:
        """Notes the first position that a read may have seen which did not find ``value``.

        If nobody else has seen it, the read may as well have been a late one, of what was there before.
        """
        floor = max(track.acknowledged.at(start), track.seen.at(start))
        if position > max(floor, track.seen.positions[-1]):
            before = track.timeline.before(value, floor)
            track.guesses[position] = Finding(
                Violation.STALE, read.kind, key, read.start, read.end, before, floor, by_slug, read.source, unlisted
            )
        self._saw(track, read, position)

    def _acknowledge(self, track: Track, write: Record, position: int) -> None:
        track.guesses.pop(position, None)
        track.acknowledged.rise(write.end, position)
        if self._lag:
            track.of(write.source).acknowledged.rise(write.end, position)

    def _place(self, read: Record, key: int, version: int, nonce: int) -> Place | None:
        """The committed state that was seen; else a violation and None."""
        place = self.history.places.get(version)
        if place is None or place.nonce != nonce:
            self._violate(Violation.UNCOMMITTED, read, key, 0, 0)
            return None
        return place

    def _something(self, read: Record, start: int, track: Track, key: int, position: int, *, by_slug: bool) -> bool:
        """Judges a read that saw ``position``. Returns whether it may have."""
        below = track.below(start - self._lag, position, *self._own(track, read))
        if track.timeline.begun[position] > read.end:
            self._violate(Violation.UNCOMMITTED, read, key, position, position, by_slug=by_slug)
        elif below is not None:
            self._violate(below[0], read, key, position, below[1], by_slug=by_slug)
        elif read.start >= self._rest_from and position != track.timeline.last:
            self._violate(Violation.AT_REST, read, key, position, track.timeline.last, by_slug=by_slug)
        else:
            if self._lag and position < (floor := track.acknowledged.at(read.start)):
                late = Finding(
                    Violation.STALE, read.kind, key, read.start, read.end, position, floor, by_slug, read.source
                )
                self.late.append((late, read.start - track.acknowledged.passed(position)))
            self._saw(track, read, position)
            return True
        return False

    def _nothing(self, read: Record, start: int, track: Track, key: int, *, by_slug: bool) -> None:
        """Judges a read that found nothing."""
        self.absences += 1
        position, violation, floor = track.without(start - self._lag, read.end, -1, *self._own(track, read))
        if violation is not None:
            self._violate(violation, read, key, position, floor, by_slug=by_slug)
        elif read.start >= self._rest_from and track.timeline.values[-1] != -1:
            self._violate(Violation.AT_REST, read, key, position, track.timeline.last, by_slug=by_slug)
        else:
            self._saw_nothing(track, read, start, key, -1, position, by_slug=by_slug)

    # Writes -----------------------------------------------------------------------------------------

    def _write(self, write: Record) -> None:
        nonce, (outcome, _, *listed) = write.subject, write.words
        self.outcomes[Outcome(outcome)] += 1
        if listed:
            self.listed[nonce] = listed
        self.written[nonce] = Written(write.source, write.start, write.end, outcome)
        if outcome == Outcome.ACKNOWLEDGED:
            for pk, position in self.history.rows_of.get(nonce, ()):
                self._acknowledge(self._rows[pk], write, position)
            for slug, position in self.history.slugs_of.get(nonce, ()):
                self._acknowledge(self._slugs[slug], write, position)

    def _delete(self, write: Record) -> None:
        """An acknowledged delete says that the row was absent at some moment between its start and its end."""
        outcome, _, *pks = write.words
        self.outcomes[Outcome(outcome)] += 1
        for pk in pks:
            self.deleted.setdefault(pk, []).append(Written(write.source, write.start, write.end, outcome))
            track = self._rows[pk]
            position = track.timeline.gaps[track.acknowledged.at(write.start)]
            if outcome == Outcome.ACKNOWLEDGED and position != NEVER:
                self._acknowledge(track, write, position)

    def _violate(
        self,
        what: Violation,
        record: Record,
        key: int,
        position: int,
        floor: int,
        *,
        by_slug: bool = False,
        unlisted: bool = False,
    ) -> None:
        self.violations[what] += 1
        if len(self.findings) < KEEP:
            instead = None
            if what is Violation.BACKWARDS:
                instead = (self._slugs if by_slug else self._rows)[key].guesses.get(floor)
            start, end, source = record.start, record.end, record.source
            self.findings.append(
                Finding(what, record.kind, key, start, end, position, floor, by_slug, source, unlisted, instead)
            )


class _Tracks(dict[int, Track]):
    """Tracks by key; of what was never there, too."""

    def __init__(self, timelines: Mapping[int, Timeline]) -> None:
        super().__init__({key: Track(timeline) for key, timeline in timelines.items()})

    def __missing__(self, key: int) -> Track:
        track = self[key] = Track(None)
        return track


def missed(checker: Checker, finding: Finding) -> list[int]:
    """The writes that a read should have seen and did not: nonces, and minus a primary key for a delete.

    Of a list that did not have a row: what brought it there, and of the later ones those that touch lists.
    """
    history = checker.history
    timeline = (history.slugs if finding.by_slug else history.rows).get(finding.key)
    writers = timeline.writers[finding.position + 1 : finding.floor + 1] if timeline else []
    if not finding.unlisted:
        return writers
    return writers[:1] + [each for each in writers[1:] if finding.key in checker.listed.get(each, ())]
