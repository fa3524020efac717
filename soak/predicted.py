"""Which violations were predicted: those that ``docs/consistency.md`` lists under "What remains".

An old value can only come back if *each* write that the reader missed was kept from invalidating it. So a
finding is explained only if each of these writes met what the document names, at the time when it
ran: the log of the faults says when Redis lost data and which process could not deliver.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from soak.checker import Checker, Finding, Violation, Written, missed
from soak.history import NEVER
from soak.log import Outcome

NONCE_SHIFT: Final = 32
"""A nonce is the number of the process that wrote, and below this many bits a number of its own."""

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


def explain(checker: Checker, circumstances: Circumstances, finding: Finding) -> str | None:
    """Why this was to be expected; None if it was not."""
    if finding.what in (Violation.UNCOMMITTED, Violation.OLD_KEY, Violation.UNREPEATABLE):
        return None
    reasons = [_reason(checker, circumstances, finding, writer) for writer in missed(checker.history, finding)]
    return None if not reasons or None in reasons else reasons[0]


def _reason(checker: Checker, circumstances: Circumstances, finding: Finding, writer: int) -> str | None:
    candidates: Sequence[Written]
    if writer > 0:
        known = checker.written.get(writer)
        candidates = [known] if known else _killed(checker, circumstances, writer >> NONCE_SHIFT)
    else:
        unlogged = [each for source in circumstances.lives for each in _killed(checker, circumstances, source)]
        candidates = [*checker.deleted.get(-writer, ()), *unlogged]
    reasons = [_excuse(checker, circumstances, finding, each) for each in candidates]
    return next((reason for reason in reasons if reason), None)


def _killed(checker: Checker, circumstances: Circumstances, source: int) -> list[Written]:
    """A write that a killed process did not live to log: it ended with the process."""
    life = circumstances.lives.get(source)
    if life is None or not life.killed:
        return []
    return [Written(source, checker.last.get(source, life.started), life.ended, Outcome.UNKNOWN)]


def _excuse(checker: Checker, circumstances: Circumstances, finding: Finding, write: Written) -> str | None:
    """Why one missed write did not invalidate what the reader saw, as it should have."""
    held = [
        end for begin, end in checker.held.get(write.source, {}).items() if begin <= write.end and end >= write.start
    ]
    # While it was under way; for as long as it was held back; and for good if nobody lived to clear.
    excused = write.outcome == Outcome.UNKNOWN or finding.start <= max([write.end, *held])
    life = circumstances.lives.get(write.source)
    if held and excused and life is not None and life.on_write_error == "retry":
        return RETRY
    if excused and any(begin <= write.end and end >= write.start for begin, end in circumstances.losses):
        return LOST
    return SLOW if write.end - write.start > circumstances.intent_ttl else None
