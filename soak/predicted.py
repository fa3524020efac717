"""Which violations were predicted: those that ``docs/consistency.md`` lists under "What remains".

An old value can only come back if *each* write that the reader missed was kept from invalidating it. So a
finding is explained only if each of these writes met what the document names, at the time when it
ran: the log of the faults says when Redis lost data and which process could not deliver.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from types import MappingProxyType
from typing import Final

from soak.checker import Checker, Finding, Violation, Written, missed
from soak.history import NEVER
from soak.log import Outcome

NONCE_SHIFT: Final = 32
"""A nonce is the number of the process that wrote, and below this many bits a number of its own."""

OUTLIVES: Final = 1_000_000_000
"""Nanoseconds after a process's death in which a COMMIT that it has sent may still be done: some are slow."""

LOST: Final = "an intent was lost between mark and clear (What remains, 2)"
SLOW: Final = "the write took longer than intent_ttl (What remains, 3)"
RETRY: Final = 'on_write_error="retry" while Redis was away for the writer (What remains, 4)'

Window = tuple[int, int]


@dataclass(slots=True)
class Life:
    """One process: when it began, when it ended, and whether it was killed."""

    started: int
    ended: int = NEVER
    killed: bool = False
    on_write_error: str = "retry"


@dataclass(slots=True)
class Circumstances:
    """What happened during a run, in nanoseconds of CLOCK_MONOTONIC."""

    losses: list[Window] = field(default_factory=list)
    """When Redis lost what it held, or some of it."""
    lives: dict[int, Life] = field(default_factory=dict)
    intent_ttl: int = 30_000_000_000


class Predictions:
    """Why findings of one run were to be expected."""

    def __init__(
        self, checker: Checker, circumstances: Circumstances, earliest: Mapping[int, int] = MappingProxyType({})
    ) -> None:
        self._checker = checker
        self._circumstances = circumstances
        self._earliest = earliest
        """When writes may have begun that nobody logged, by nonce."""
        killed = [source for source, life in circumstances.lives.items() if life.killed]
        self._unlogged = {source: self._last_of(source) for source in killed}
        """What killed processes did not live to log."""
        self._held: dict[Written, list[int]] = {}

    def explain(self, finding: Finding) -> str | None:
        """Why this was to be expected; None if it was not."""
        if finding.what in (Violation.UNCOMMITTED, Violation.OLD_KEY, Violation.UNREPEATABLE):
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
        if writer > 0:
            candidates = [self._checker.written.get(writer) or self._unlogged_as(writer)]
        else:
            candidates = chain(self._checker.deleted.get(-writer, ()), self._unlogged.values())
        return next((reason for each in candidates if each and (reason := self._excuse(finding, each))), None)

    def _excuse(self, finding: Finding, write: Written) -> str | None:
        """Why one missed write did not invalidate what the reader saw, as it should have."""
        held = self._held_back(write)
        # While it was under way; for as long as it was held back; and for good if nobody lived to clear.
        excused = write.outcome == Outcome.UNKNOWN or finding.start <= max([write.end, *held])
        life = self._circumstances.lives.get(write.source)
        if held and excused and life is not None and life.on_write_error == "retry":
            return RETRY
        if excused and any(begin <= write.end and end >= write.start for begin, end in self._circumstances.losses):
            return LOST
        return SLOW if write.end - write.start > self._circumstances.intent_ttl else None

    def _held_back(self, write: Written) -> list[int]:
        """When the times ended in which its process could not deliver, of those during the write."""
        if write not in self._held:
            windows = self._checker.held.get(write.source, {})
            self._held[write] = [end for begin, end in windows.items() if begin <= write.end and end >= write.start]
        return self._held[write]
