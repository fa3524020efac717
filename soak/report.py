"""``report``: checks the logs of a soak and describes the result. A folder of logs can be checked again at any time."""

import json
from bisect import bisect
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from soak.checker import Checker, Finding, Violation, missed
from soak.history import OUTSIDE, History, load_changes
from soak.log import Kind, Outcome, beginnings, merged
from soak.predicted import NONCE_SHIFT, Circumstances, Life, Predictions
from soak.subjects import CLUSTERED, LIBRARY, WRITE_THROUGH

CLOCKS: Final = 0.02
"""Seconds by which the store's clock and that of the logs may differ over ``relay_lag``."""


@dataclass(slots=True)
class Run:
    """Facts about a run beside its logs. They are saved in the folder of the logs."""

    subject: str
    processes: int
    seed: int
    allowtime: float
    near_lag: float
    seconds: float
    rest_from: int
    circumstances: Circumstances
    faults: dict[str, int]
    tallies: list[dict[str, Any]] = field(default_factory=list)
    """Counts of the processes that were not killed."""
    relay_lag: float = 0.0
    """The bound for writes of other programs. Zero if none write."""
    relays: list[dict[str, int]] = field(default_factory=list)
    """Counts of the relays that were not killed."""

    def save(self, folder: Path) -> None:
        """Saves the facts in a folder."""
        (folder / "run.json").write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, folder: Path) -> "Run":
        """Loads the facts from a folder."""
        facts = json.loads((folder / "run.json").read_text())
        circumstances = facts.pop("circumstances")
        lives = {int(number): Life(**life) for number, life in circumstances.pop("lives").items()}
        losses = [(begin, end) for begin, end in circumstances.pop("losses")]
        facts.setdefault("near_lag", 0.0)  # absent from logs older than this setting
        return cls(circumstances=Circumstances(losses=losses, lives=lives, **circumstances), **facts)


@dataclass
class Report:
    """A run, and the findings of the checker in its logs."""

    run: Run
    checker: Checker
    changes: int
    unexplained: list[Finding]
    predicted: Counter[tuple[Violation, str]]

    @property
    def reads(self) -> int:
        """The number of checked answers. A list is one answer."""
        return self.checker.reads.total()

    @property
    def violations(self) -> int:
        """The number of violations that were not predicted, with false alarms, stuck tasks and leaked connections."""
        unpredicted = self.checker.violations.total() - self.predicted.total()
        return unpredicted + self.false_alarms + self.total("stuck") + self.total("leaked")

    @property
    def true_alarms(self) -> int:
        """The number of alarms of ``verify`` whose entry the checker found to be stale, too."""
        return sum((alarm.source, alarm.start) in self._stale for alarm in self.checker.alarms)

    @property
    def replaced_alarms(self) -> int:
        """The number of alarms of ``verify`` whose entry was replaced before it could be judged, or is no item's."""
        stale = self._stale
        return sum((alarm.source, alarm.start) not in stale and not alarm.words[1] for alarm in self.checker.alarms)

    @cached_property
    def _stale(self) -> set[tuple[int, int]]:
        """The process and the beginning of each stale read.

        An absence is one, too, if a later read shows that the row was not deleted in the meantime.
        """
        findings = self.checker.findings
        later = {(finding.key, finding.by_slug, finding.floor) for finding in findings if finding.instead is not None}
        absences = {read for read, absence in self.checker.alarmed_absences.items() if absence in later}
        return absences | {(finding.source, finding.start) for finding in findings}

    @property
    def false_alarms(self) -> int:
        """The number of alarms of ``verify`` whose entry was not stale by the database's history."""
        return len(self.checker.alarms) - self.true_alarms - self.replaced_alarms

    def total(self, name: str) -> int:
        """Returns the sum of one count over the processes that were not killed."""
        return sum(tally.get(name, 0) for tally in self.run.tallies)

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def report(folder: Path) -> Report:
    """Checks the logs in a folder."""
    run = Run.load(folder)
    paths = [(number, folder / f"{number}.log") for number in run.circumstances.lives]
    changes = load_changes(folder / "history")
    allowances = dict.fromkeys((Kind.BY_PK, Kind.BY_SLUG, Kind.BY_TEAM), int(run.allowtime * 1e9))
    begun = beginnings(path for _, path in paths)
    earliest = earliest_beginnings({change.nonce for change in changes if change.version} - begun.keys(), begun)
    history = History(changes, earliest | {nonce: commit for nonce, (_, commit) in begun.items()})
    lag, bound = int(run.near_lag * 1e9), int((run.relay_lag + CLOCKS) * 1e9) if run.relay_lag else 0
    checker = Checker(history, rest_from=run.rest_from, allowances=allowances, lag=lag, bound=bound)
    for record in merged(paths):
        checker.feed(record)
    unexplained: list[Finding] = []
    predicted: Counter[tuple[Violation, str]] = Counter()
    predictions = Predictions(checker, run.circumstances, earliest)
    for finding in checker.findings:
        # Only the library makes promises, so only the library has exceptions to them.
        reason = predictions.explain(finding) if run.subject in LIBRARY else None
        if reason is None:
            unexplained.append(finding)
        else:
            predicted[finding.what, reason] += 1
    return Report(run, checker, len(changes), unexplained, predicted)


def earliest_beginnings(unlogged: Iterable[int], begun: Mapping[int, tuple[int, int]]) -> dict[int, int]:
    """Returns the earliest begin of writes that a killed process could not log, by nonce.

    It is the begin of the process's last logged write before, because nonces are given in order when a write begins.
    """
    known = sorted(begun)
    earlier = {nonce: known[at - 1] for nonce in unlogged if (at := bisect(known, nonce))}
    return {nonce: begun[last][0] for nonce, last in earlier.items() if last >> NONCE_SHIFT == nonce >> NONCE_SHIFT}


def _lines(report: Report) -> Iterator[str]:
    run, checker, reads = report.run, report.checker, report.reads
    allowed = f", allowtime {run.allowtime:g} s" if run.allowtime else ""
    yield f"{run.subject}{allowed}: {run.seconds:.0f} s, {run.processes} processes, seed {run.seed}"
    kinds = Kind.BY_PK, Kind.BY_SLUG, Kind.BY_TEAM, Kind.TOGETHER
    pk, slug, team, together = (checker.reads[kind] for kind in kinds)
    yield f"  reads        {reads:,}: {pk:,} by pk, {slug:,} by slug, {team:,} lists of {checker.rows_listed:,} rows"
    yield f"               {together:,} of rows that must be of one moment"
    if checker.pages:
        yield f"               {checker.rows_on_pages:,} of rows on {checker.pages:,} pages"
    yield f"               {checker.absences:,} found nothing; {checker.at_rest:,} of all at rest"
    outcomes = checker.outcomes
    acknowledged = outcomes[Outcome.ACKNOWLEDGED] + outcomes[Outcome.CHANGED]
    yield (
        f"  writes       {outcomes.total():,}: {acknowledged:,} acknowledged, {outcomes[Outcome.REFUSED]:,} refused, "
        f"{outcomes[Outcome.UNKNOWN]:,} unknown; {report.changes:,} row changes committed"
    )
    if run.near_lag:
        late = "" if run.relay_lag else f"; {_lateness(report)}"
        yield f"  near         {report.total('near_hits'):,} rounds of reading without a request{late}"
    if run.relay_lag:
        yield from _relayed(report)
    if not_modified := report.total("not_modified"):
        yield f"  responses    {not_modified:,} answers were a 304, in processes that lived to the end"
    if run.subject in CLUSTERED:
        yield f"  hits         {report.total('hits'):,} in the processes that are left"
    if run.subject in WRITE_THROUGH:
        yield f"  stored       {report.total('rows_stored'):,} rows by the writers that are left"
    if report.total("compared"):
        yield (
            f"  verified     {report.total('compared'):,} entries, {report.total('uncompared'):,} not comparable; "
            f"{report.true_alarms:,} found stale, {report.replaced_alarms:,} replaced before they were judged"
        )
    yield f"  cancelled    {report.total('cancelled_reads'):,} reads, {report.total('cancelled_writes'):,} writes"
    example = next((f", e.g. {tally['last_error']}" for tally in run.tallies if tally.get("last_error")), "")
    yield f"  raised       {report.total('failed_reads'):,} reads, {report.total('failed_writes'):,} writes{example}"
    for name, count in sorted(run.faults.items()):
        yield f"  fault        {count:>6,}  {name}"
    if checker.snapshots:
        yield f"  fault        {checker.snapshots:>6,}  repeated reads in long REPEATABLE READ snapshots"
    unpredicted = Counter(checker.violations)
    for (what, reason), count in sorted(report.predicted.items()):
        unpredicted[what] -= count
        yield f"  predicted    {count:>6,}  {what}: {reason}"
    stuck, leaked = report.total("stuck"), report.total("leaked")
    remaining = {
        "tasks that waited for ever": stuck,
        "connections in use at the end": leaked,
        "entries that verify called stale, and were not": report.false_alarms,
    }
    for kind, count in [*sorted(unpredicted.items()), *remaining.items()]:
        if count:
            yield f"  VIOLATION    {count:>6,}  {kind}"
    for finding in report.unexplained[:3]:
        yield f"    {finding} missed {missed(checker, finding)[:5]}"
    if reads and not report.violations:
        yield f"  violations   0 in {reads:,} reads: at 95 %, fewer than {3 / reads:.1e} of reads"
    else:
        yield f"  violations   {report.violations:,} in {reads:,} reads"


def _lateness(report: Report) -> str:
    """Returns the distribution of the lags of late answers that have no other reason, as text."""
    predictions = Predictions(report.checker, report.run.circumstances)
    return _distribution(lag for late, lag in report.checker.late if predictions.explain(late) is None)


def _relayed(report: Report) -> Iterator[str]:
    """Yields what other programs wrote, how late that was seen, and what the relays did."""
    run, checker = report.run, report.checker
    written = [write.outcome for nonce, write in checker.written.items() if nonce >= OUTSIDE]
    acknowledged = len(written) - written.count(Outcome.REFUSED) - written.count(Outcome.UNKNOWN)
    yield f"  outside      {len(written):,} writes by other programs, {acknowledged:,} acknowledged"
    yield f"               relay_lag {run.relay_lag:g} s; {_distribution(checker.lateness)}"
    hits, bypassed = report.total("hits"), report.total("relay_bypassed")
    yield f"               {hits:,} lookups were hits, {bypassed:,} read the database as no relay lived"
    counts = Counter[str]()
    for relay in run.relays:
        counts.update(relay)
    shown = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    yield f"  relays       {shown}, of the {len(run.relays)} that are left"


def _distribution(lags: Iterable[int]) -> str:
    """Returns the distribution of lags in nanoseconds as text."""
    sorted_lags = sorted(lags)
    if not sorted_lags:
        return "no answer was late"
    median, late, latest = (sorted_lags[int(len(sorted_lags) * share)] / 1e6 for share in (0.5, 0.99, 1 - 1e-9))
    return (
        f"{len(sorted_lags):,} answers older than what others had acknowledged: "
        f"by {median:.1f} ms (median), {late:.1f} ms (99 %), {latest:.1f} ms (most)"
    )
