"""``Checker``: finds reads that the database's history does not allow, in one pass over the logs of all processes.

Records come in the order in which operations ended. Each row and each slug has two floors, which rise. The end of a
write raises the *acknowledged* floor to the position that it wrote. The end of a read raises the *seen* floor to the
position that it saw. A read must be at or above both floors, as they were when the read began. The checker finds those
by going back from the ends of the floors, past the changes during the read. So the time is linear in the records, and
the memory in the writes.

The checker does not know caches or faults: ``predicted`` decides which findings were to be expected.
"""

from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Final, NamedTuple

from soak.history import NEVER, History, Place, Timeline, Together
from soak.log import KEY_SHIFT, LOW, UNENDED, Kind, Outcome, Record

MAX_FINDINGS: Final = 1_000_000
"""Maximum number of violations that are kept. Beyond it, they are only counted."""

MAX_ABSENCES: Final = 1_000
"""Maximum number of absences that are remembered for each process, until its next alarm."""

_NONE_TOGETHER: Final[tuple[list[int], list[Together]]] = ([], [])


class Violation(StrEnum):
    """Kinds of violations: by a read and, the last one, by a write."""

    UNCOMMITTED = "uncommitted"
    """The read saw a version that was never committed, or not yet."""
    OLD_KEY = "found under its old key"
    """The read found a row under a slug or in a team that this version of the row does not have."""
    STALE = "older than an acknowledged write"
    BACKWARDS = "older than what was read before"
    LATE = "older than the bound for writes by other programs allows"
    AT_REST = "not the database's at rest"
    UNREPEATABLE = "changed within a snapshot"
    TORN = "of two moments"
    """The read should have seen rows as they were together, and saw one before and one after a transaction of both."""
    LOST = "acknowledged, but never committed"
    """The key is the nonce of the write, or the primary key of a row that it deleted."""


class Finding(NamedTuple):
    """One violation: a read that saw ``position`` of a timeline, but should have seen ``floor`` or later."""

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
    """True if a list did not have the row. The writes that matter are those that invalidate lists, first the one that
    brought the row into the team."""
    instead: "Finding | None" = None
    """Other explanation, if only a read that found nothing proves that ``floor`` was seen. It is the finding that the
    absence itself would be, if it was a late read of the state before."""


class Absence(NamedTuple):
    """The state of a row or a slug that a read must have seen if it rightly found nothing."""

    key: int
    by_slug: bool
    position: int


class Written(NamedTuple):
    """One write, as its process logged it."""

    source: int
    start: int
    end: int
    outcome: int


class Floor:
    """Minimum position of a timeline that a read must see, over time."""

    __slots__ = ("positions", "times")

    def __init__(self) -> None:
        self.times = [-NEVER]
        self.positions = [0]

    def at(self, time: int) -> int:
        """Returns the floor right before ``time``."""
        index = -1
        times = self.times
        while times[index] >= time:
            index -= 1
        return self.positions[index]

    def rise(self, time: int, position: int) -> None:
        """Raises the floor to at least ``position`` from ``time`` on. Times must not go back."""
        if position > self.positions[-1]:
            self.times.append(time)
            self.positions.append(position)

    def passed(self, position: int) -> int:
        """Returns the time at which the floor rose above ``position``, which must be below the floor."""
        return self.times[bisect_right(self.positions, position)]


class Floors(NamedTuple):
    """Floors of some writes, and of the reads that matter beside them."""

    acknowledged: Floor
    seen: Floor


class Level(NamedTuple):
    """Floors that a read must not be below, as they were at a time."""

    floors: Floors
    time: int
    violation: Violation | None = None
    """The violation of a read below them. None: ``STALE`` or ``BACKWARDS``."""


class Track:
    """Timeline of one row or one slug, with its floors."""

    __slots__ = ("absences", "acknowledged", "all", "inside", "own", "seen", "timeline")

    def __init__(self, timeline: Timeline | None) -> None:
        if timeline is None:
            timeline = Timeline()
            timeline.finish({})
        self.timeline = timeline
        self.acknowledged = Floor()
        self.seen = Floor()
        self.all = Floors(self.acknowledged, self.seen)
        self.inside = Floors(Floor(), Floor())
        """Floors of the writes by the library, only if reads may lag behind those by other programs."""
        self.absences: dict[int, Finding] = {}
        """Findings by position, for positions that only reads which found nothing have seen. Each is the finding that
        such a read would be if it was a late read of the state before."""
        self.own: dict[int, Floors] = {}
        """Floors by process, only if reads may lag behind the writes of other processes."""

    def of(self, source: int) -> Floors:
        """Returns the floors of the writes and reads of one process."""
        return self.own.setdefault(source, Floors(Floor(), Floor()))

    def is_below(self, position: int) -> bool:
        """Returns True if a position is below any floor, whenever this rose."""
        return position < self.acknowledged.positions[-1] or position < self.seen.positions[-1]

    def below(self, position: int, levels: Iterable[Level]) -> tuple[Violation, int] | None:
        """Returns the violation and the floor if a read must not see ``position``, else None."""
        for floors, time, violation in levels:
            if position < (floor := floors.acknowledged.at(time)):
                return violation or Violation.STALE, floor
            if position < (floor := floors.seen.at(time)):
                return violation or Violation.BACKWARDS, floor
        return None

    def without(self, end: int, value: int, levels: Iterable[Level]) -> tuple[int, Violation | None, int]:
        """Returns the earliest position that a read may have seen if it did not find ``value`` (-1: any value).

        If there is no such position, returns the last one before, the violation, and a floor. From this floor on, the
        value was always there until the end of the read.
        """
        position = 0
        for floors, time, violation in levels:
            for floor, what in ((floors.acknowledged, Violation.STALE), (floors.seen, Violation.BACKWARDS)):
                at = max(position, floor.at(time))
                position = self.timeline.gaps[at] if value == -1 else self.timeline.without(value, at)
                if position == NEVER or self.timeline.begun[position] > end:
                    return self.timeline.before(value, at), violation or what, at
        return position, None, position


class Checker:
    """Checks records against a history.

    ``allowances`` (nanoseconds, by kind of read) is the age that a read may have, for caches with an ``allowtime``.
    ``lag`` (nanoseconds) is the time by which a read may lag behind the operations of other processes, as with
    ``near``. It must not lag behind those of its own process. ``late`` lists the reads that lagged, each with its lag.
    ``bound`` (nanoseconds) is the time by which a read may lag behind writes of other programs. It must not lag behind
    those of the library. ``lateness`` has the lags. After ``bound`` and ``lag`` together, no write may be missed.
    Reads that begin at ``rest_from`` or later must see the final states.
    """

    def __init__(
        self,
        history: History,
        *,
        rest_from: int = NEVER,
        allowances: Mapping[Kind, int] | None = None,
        lag: int = 0,
        bound: int = 0,
    ) -> None:
        self.history = history
        self.findings: list[Finding] = []
        self.violations: Counter[Violation] = Counter()
        self.reads: Counter[Kind] = Counter()
        """Number of answers by kind of lookup. A list is one answer."""
        self.rows_listed = 0
        self.pages = 0
        self.rows_on_pages = 0
        self.absences = 0
        self.snapshots = 0
        """Number of repeated reads inside snapshots."""
        self.at_rest = 0
        self.outcomes: Counter[Outcome] = Counter()
        self.written: dict[int, Written] = {}
        """Writes by nonce."""
        self.listed: dict[int, Sequence[int]] = {}
        """Rows whose lists a write has invalidated, by nonce."""
        self.seen: dict[int, int] = {}
        """End of the first read that saw a write or a later state, by nonce. The write was committed before it."""
        self.deleted: dict[int, list[Written]] = {}
        """Deletes by primary key."""
        self.held: dict[int, dict[int, int]] = {}
        """Start and end of the times in which a process could not deliver invalidations, by process."""
        self.last: dict[int, int] = {}
        """End of the last record, by process."""
        self.late: list[tuple[Finding, int]] = []
        """Reads that lagged behind writes of other processes, each with its lag in nanoseconds."""
        self.lateness = array("q")
        """Nanoseconds from the acknowledgement of another program's write to the begin of each answer without it."""
        self.bound = bound
        self.alarms: list[Record] = []
        """Entries that ``verify`` called stale, each with the beginning of the read that judges it."""
        self.alarmed_absences: dict[tuple[int, int], Absence] = {}
        """Absences that such reads found, by process and beginning of the read."""
        self._absences: dict[int, dict[int, Absence]] = {}
        """The latest absences that a process found, by the beginning of the read."""
        self._lag = lag
        self._rest_from = rest_from
        self._allowances = {int(kind): allowance for kind, allowance in (allowances or {}).items()}
        self._rows = _Tracks(history.rows)
        self._slugs = _Tracks(history.slugs)
        self._members = {team: sorted(pks) for team, pks in history.teams.items()}

    def feed(self, record: Record) -> None:
        """Checks the next record. It must not have ended before an earlier one."""
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
        elif kind == Kind.TOGETHER:
            self._by_pk(record)
            self._together(record)
        elif kind == Kind.WRITE:
            self._write(record)
        elif kind == Kind.DELETE:
            self._delete(record)
        elif kind == Kind.ALARM:
            self.alarms.append(record)
            absence = self._absences.get(record.source, {}).get(record.start)
            if absence is not None:
                self.alarmed_absences[record.source, record.start] = absence
        else:
            windows = self.held.setdefault(record.source, {})
            windows[record.start] = NEVER if record.subject == UNENDED else record.end

    # Reads ------------------------------------------------------------------------------------------

    def _by_pk(self, read: Record) -> None:
        words = read.words
        start = read.start - self._allowances.get(read.kind, 0)
        self.reads[Kind(read.kind)] += len(words) // 2
        if read.subject:
            self.pages += 1
            self.rows_on_pages += read.subject
        self.at_rest += len(words) // 2 if read.start >= self._rest_from else 0
        places, rows = self.history.places, self._rows
        for index in range(0, len(words), 2):
            word = words[index]
            pk, version = word >> KEY_SHIFT, word & LOW
            if not version:
                self._judge_absence(read, start, rows[pk], pk, by_slug=False)
                continue
            place = places.get(version)
            if place is None or place.pk != pk or place.nonce != words[index + 1]:
                self._violate(Violation.UNCOMMITTED, read, pk, 0, 0)
            else:
                self._judge(read, start, rows[pk], pk, place.position, by_slug=False)

    def _by_slug(self, read: Record) -> None:
        words = read.words
        start = read.start - self._allowances.get(read.kind, 0)
        self.reads[Kind.BY_SLUG] += len(words) // 2
        self.at_rest += len(words) // 2 if read.start >= self._rest_from else 0
        for index in range(0, len(words), 2):
            word = words[index]
            slug, version = word >> KEY_SHIFT, word & LOW
            if not version:
                self._judge_absence(read, start, self._slugs[slug], slug, by_slug=True)
                continue
            place = self._place(read, slug, version, words[index + 1])
            if place is None:
                continue
            if place.slug != slug:
                self._violate(Violation.OLD_KEY, read, slug, 0, 0, by_slug=True)
            elif self._judge(read, start, self._rows[place.pk], place.pk, place.position, by_slug=False):
                self._judge(read, start, self._slugs[slug], slug, place.slug_position, by_slug=True)

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
                self._judge(read, start, self._rows[place.pk], place.pk, place.position, by_slug=False)
        for pk in self._members.get(team, ()):
            if pk not in listed:
                track = self._rows[pk]
                position, violation, floor = track.without(read.end, team, self._levels(track, read, start))
                if violation is not None:
                    self._violate(violation, read, pk, position, floor, unlisted=True)
                elif read.start >= self._rest_from and track.timeline.values[-1] == team:
                    self._violate(Violation.AT_REST, read, pk, position, track.timeline.last)
                else:
                    self._saw_absence(track, read, start, pk, team, position, unlisted=True)

    def _together(self, read: Record) -> None:
        """Checks that a read saw all or nothing of each transaction that wrote several of its rows.

        A finding is about a row that lags behind others.
        """
        places = [self.history.places.get(word & LOW) for word in read.words[::2]]
        seen = {place.pk: place.position for place in places if place is not None}
        unseen = [self.history.rows[pk].numbers[position + 1 : position + 2] for pk, position in seen.items()]
        earliest = min((number for [number] in filter(None, unseen)), default=NEVER)
        behind: dict[int, int] = {}
        for pk, position in seen.items():
            positions, transactions = self.history.together.get(pk, _NONE_TOGETHER)
            at = bisect_right(positions, position)
            # Transactions that made their last change before ``earliest`` are seen in all rows.
            while at and transactions[at - 1].number >= earliest:
                at -= 1
                for other, written in transactions[at].positions.items():
                    if seen.get(other, NEVER) < written:
                        behind[other] = max(behind.get(other, 0), written)
        for pk, position in behind.items():
            self._violate(Violation.TORN, read, pk, seen[pk], position)

    def _snapshot(self, read: Record) -> None:
        """Checks that both reads of a snapshot saw the same. The first read has a record of its own, too."""
        self.snapshots += 1
        first: dict[int, tuple[int, int]] = {}
        for word, nonce in zip(read.words[::2], read.words[1::2], strict=True):
            pk = word >> KEY_SHIFT
            if first.setdefault(pk, (word, nonce)) != (word, nonce):
                self._violate(Violation.UNREPEATABLE, read, pk, 0, 0)

    def _levels(self, track: Track, read: Record, start: int) -> list[Level]:
        """Returns the floors for a read that began at ``start``, less what its kind is allowed."""
        whole = Level(track.all, start - self._lag - self.bound)
        own = [Level(track.own[read.source], read.start)] if self._lag and read.source in track.own else []
        if not self.bound:
            return [*own, whole]
        return [whole._replace(violation=Violation.LATE), *own, Level(track.inside, start - self._lag)]

    def _saw(self, track: Track, read: Record, position: int) -> None:
        for writer in track.timeline.writers[track.seen.positions[-1] + 1 : position + 1]:
            self.seen.setdefault(writer, read.end)
        track.seen.rise(read.end, position)
        if self.bound:
            position = track.timeline.inside[position]
            track.inside.seen.rise(read.end, position)
        if self._lag:
            track.of(read.source).seen.rise(read.end, position)

    def _note_lateness(self, track: Track, read: Record, position: int) -> None:
        """Notes how long ago the first write was acknowledged that a rightly late read did not see."""
        if position < track.acknowledged.at(read.start):
            self.lateness.append(read.start - track.acknowledged.passed(position))

    def _saw_absence(
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
        """Records the first position that a read may have seen if it did not find ``value``.

        If no other read has seen this position, the read may instead have been a late read of the state before.
        """
        if self.bound and position < track.acknowledged.at(read.start):
            newest, violation, _ = track.without(
                read.end, value, [Level(Floors(track.acknowledged, Floor()), read.start)]
            )
            if violation is not None:
                self._note_lateness(track, read, newest)
        floor = max(track.acknowledged.at(start), track.seen.at(start))
        if position > max(floor, track.seen.positions[-1]):
            before = track.timeline.before(value, floor)
            track.absences[position] = Finding(
                Violation.STALE, read.kind, key, read.start, read.end, before, floor, by_slug, read.source, unlisted
            )
        latest = self._absences.setdefault(read.source, {})
        latest[read.start] = Absence(key, by_slug, position)
        if len(latest) > MAX_ABSENCES:
            del latest[next(iter(latest))]
        self._saw(track, read, position)

    def _acknowledge(self, track: Track, write: Record, position: int) -> None:
        track.absences.pop(position, None)
        track.acknowledged.rise(write.end, position)
        if self.bound:
            position = track.timeline.inside[position]
            track.inside.acknowledged.rise(write.end, position)
        if self._lag:
            track.of(write.source).acknowledged.rise(write.end, position)

    def _place(self, read: Record, key: int, version: int, nonce: int) -> Place | None:
        """Returns the committed state that a read saw. If there is none, records a violation and returns None."""
        place = self.history.places.get(version)
        if place is None or place.nonce != nonce:
            self._violate(Violation.UNCOMMITTED, read, key, 0, 0)
            return None
        return place

    def _judge(self, read: Record, start: int, track: Track, key: int, position: int, *, by_slug: bool) -> bool:
        """Judges a read that saw ``position``. Returns True if the history allows the read."""
        below = track.below(position, self._levels(track, read, start)) if track.is_below(position) else None
        if track.timeline.begun[position] > read.end:
            self._violate(Violation.UNCOMMITTED, read, key, position, position, by_slug=by_slug)
        elif below is not None:
            self._violate(below[0], read, key, position, below[1], by_slug=by_slug)
        elif read.start >= self._rest_from and position != track.timeline.last:
            self._violate(Violation.AT_REST, read, key, position, track.timeline.last, by_slug=by_slug)
        else:
            if self.bound:
                if not by_slug:  # the row of a slug is judged, too
                    self._note_lateness(track, read, position)
            elif self._lag and position < (floor := track.acknowledged.at(read.start)):
                late = Finding(
                    Violation.STALE, read.kind, key, read.start, read.end, position, floor, by_slug, read.source
                )
                self.late.append((late, read.start - track.acknowledged.passed(position)))
            self._saw(track, read, position)
            return True
        return False

    def _judge_absence(self, read: Record, start: int, track: Track, key: int, *, by_slug: bool) -> None:
        """Judges a read that found nothing."""
        self.absences += 1
        position, violation, floor = track.without(read.end, -1, self._levels(track, read, start))
        if violation is not None:
            self._violate(violation, read, key, position, floor, by_slug=by_slug)
        elif read.start >= self._rest_from and track.timeline.values[-1] != -1:
            self._violate(Violation.AT_REST, read, key, position, track.timeline.last, by_slug=by_slug)
        else:
            self._saw_absence(track, read, start, key, -1, position, by_slug=by_slug)

    # Writes -----------------------------------------------------------------------------------------

    def _write(self, write: Record) -> None:
        nonce, (outcome, _, *listed) = write.subject, write.words
        self.outcomes[Outcome(outcome)] += 1
        if listed:
            self.listed[nonce] = listed
        self.written[nonce] = Written(write.source, write.start, write.end, outcome)
        if outcome == Outcome.CHANGED and nonce not in self.history.nonces:
            self._violate(Violation.LOST, write, nonce, 0, 0)
        if outcome in (Outcome.ACKNOWLEDGED, Outcome.CHANGED):
            for pk, position in self.history.rows_of.get(nonce, ()):
                self._acknowledge(self._rows[pk], write, position)
            for slug, position in self.history.slugs_of.get(nonce, ()):
                self._acknowledge(self._slugs[slug], write, position)

    def _delete(self, write: Record) -> None:
        """Records a delete. If it was acknowledged, the row was absent at a moment between its start and its end."""
        outcome, _, *pks = write.words
        self.outcomes[Outcome(outcome)] += 1
        for pk in pks:
            self.deleted.setdefault(pk, []).append(Written(write.source, write.start, write.end, outcome))
            track = self._rows[pk]
            position = track.timeline.gaps[track.acknowledged.at(write.start)]
            if outcome != Outcome.ACKNOWLEDGED:
                continue
            if position == NEVER or track.timeline.begun[position] > write.end:
                self._violate(Violation.LOST, write, pk, 0, 0)
            else:
                self._acknowledge(track, write, position)

    def _violate(
        self,
        violation: Violation,
        record: Record,
        key: int,
        position: int,
        floor: int,
        *,
        by_slug: bool = False,
        unlisted: bool = False,
    ) -> None:
        self.violations[violation] += 1
        if len(self.findings) < MAX_FINDINGS:
            instead = None
            if violation is Violation.BACKWARDS:
                instead = (self._slugs if by_slug else self._rows)[key].absences.get(floor)
            start, end, source = record.start, record.end, record.source
            self.findings.append(
                Finding(violation, record.kind, key, start, end, position, floor, by_slug, source, unlisted, instead)
            )


class _Tracks(dict[int, Track]):
    """Tracks by key. A key that never existed has an empty track."""

    def __init__(self, timelines: Mapping[int, Timeline]) -> None:
        super().__init__({key: Track(timeline) for key, timeline in timelines.items()})

    def __missing__(self, key: int) -> Track:
        track = self[key] = Track(None)
        return track


def missed(checker: Checker, finding: Finding) -> list[int]:
    """Returns the writes that a read should have seen and did not: nonces, or minus the primary key for a delete.

    For a list without the row, they are the write that brought the row there, and the later ones that invalidate lists.
    """
    history = checker.history
    timeline = (history.slugs if finding.by_slug else history.rows).get(finding.key)
    writers = timeline.writers[finding.position + 1 : finding.floor + 1] if timeline else []
    if not finding.unlisted:
        return writers
    return writers[:1] + [writer for writer in writers[1:] if finding.key in checker.listed.get(writer, ())]
