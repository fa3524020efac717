"""``Predictions``: violations that ``docs/consistency.md`` predicts under "What remains".

An old value can come back only if *each* write that the reader missed was kept from invalidating it. So a finding is
explained only if each of these writes met a condition that the document names, while it ran. The log of the faults has
the times in which Redis lost data. The records have the times in which a process could not deliver invalidations.

With a relay, nothing excuses a read that misses a write after the bound, because the relay sees all writes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from types import MappingProxyType
from typing import Final

from soak.checker import Checker, Finding, Violation, Written, missed
from soak.history import NEVER, OUTSIDE
from soak.log import Outcome

NONCE_SHIFT: Final = 32
"""Number of low bits of a nonce that count the writes of a process. The bits above are the number of the process."""

OUTLIVES: Final = 1_000_000_000
"""Maximum nanoseconds after a process's death in which the database may still execute a COMMIT of it."""

LOST: Final = "an intent was lost between mark and clear (What remains, 2)"
SLOW: Final = "the write took longer than intent_ttl (What remains, 3)"
WITHIN: Final = "another program's write, within relay_lag"
RETRY: Final = 'on_write_error="retry" while Redis was away for the writer (What remains, 4)'

Window = tuple[int, int]
_INEXCUSABLE: Final = frozenset(
    [Violation.UNCOMMITTED, Violation.OLD_KEY, Violation.UNREPEATABLE, Violation.LOST, Violation.LATE]
)


@dataclass(slots=True)
class Life:
    """Begin and end of one process. ``killed`` is True if it was killed."""

    started: int
    ended: int = NEVER
    killed: bool = False
    on_write_error: str = "retry"


@dataclass(slots=True)
class Circumstances:
    """Losses of Redis and lives of processes during a run, in nanoseconds of CLOCK_MONOTONIC."""

    losses: list[Window] = field(default_factory=list)
    """Times in which Redis lost entries."""
    lives: dict[int, Life] = field(default_factory=dict)
    intent_ttl: int = 30_000_000_000


class Predictions:
    """Reasons for which findings of one run were to be expected."""

    def __init__(
        self, checker: Checker, circumstances: Circumstances, earliest: Mapping[int, int] = MappingProxyType({})
    ) -> None:
        self._checker = checker
        self._circumstances = circumstances
        self._earliest = earliest
        """Earliest begin of writes without a record, by nonce."""
        killed = [source for source, life in circumstances.lives.items() if life.killed]
        self._unlogged = {source: self._last_of(source) for source in killed}
        """Last write of each killed process, which it could not log."""
        self._held: dict[Written, list[int]] = {}

    def explain(self, finding: Finding) -> str | None:
        """Returns the reason for which a finding was to be expected, or None."""
        if finding.what in _INEXCUSABLE or (self._checker.bound and finding.what is Violation.AT_REST):
            return None
        reasons = [self._reason(finding, writer) for writer in missed(self._checker, finding)]
        if reasons and None not in reasons:
            return reasons[0]
        return self.explain(finding.instead) if finding.instead is not None else None

    def _last_of(self, source: int) -> Written:
        life = self._circumstances.lives[source]
        return Written(source, self._checker.last.get(source, life.started), life.ended + OUTLIVES, Outcome.UNKNOWN)

    def _unlogged_as(self, nonce: int) -> Written | None:
        last = self._unlogged.get(nonce >> NONCE_SHIFT)
        return None if last is None else last._replace(start=self._earliest.get(nonce, last.start))

    def _reason(self, finding: Finding, writer: int) -> str | None:
        candidates: Iterable[Written | None]
        if writer >= OUTSIDE:
            return WITHIN  # the checker has compared the time
        if writer > 0:
            candidates = [self._checker.written.get(writer) or self._unlogged_as(writer)]
        else:
            candidates = chain(self._checker.deleted.get(-writer, ()), self._unlogged.values())
        excuses = (self._excuse(finding, writer, write) for write in candidates if write)
        return next(filter(None, excuses), None)

    def _excuse(self, finding: Finding, writer: int, write: Written) -> str | None:
        """Returns the reason for which one missed write did not invalidate the value that the reader saw, or None."""
        held = self._held_back(write)
        # A write is excused while it ran and while its invalidation was held back. It is excused for ever if its
        # process was killed before the clear.
        unknown = write.outcome == Outcome.UNKNOWN
        excused = unknown or finding.start <= max([write.end, *held])
        life = self._circumstances.lives.get(write.source)
        if held and excused and life is not None and life.on_write_error == "retry":
            return RETRY
        # A writer that is cancelled gives up while the database still executes its COMMIT.
        committed = max(write.end, self._checker.seen.get(writer, 0)) if unknown else write.end
        if excused and any(begin <= committed and end >= write.start for begin, end in self._circumstances.losses):
            return LOST
        return SLOW if write.end - write.start > self._circumstances.intent_ttl else None

    def _held_back(self, write: Written) -> list[int]:
        """Returns the ends of the times, overlapping the write, in which its process could not deliver."""
        if write not in self._held:
            windows = self._checker.held.get(write.source, {})
            self._held[write] = [end for begin, end in windows.items() if begin <= write.end and end >= write.start]
        return self._held[write]
