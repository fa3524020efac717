"""Differences in speed: ``compare`` of two runs, ``paired`` of two versions that were measured in the same run."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from benchmarks.contestants import Near, Own, RawRedis
from benchmarks.results import Results
from benchmarks.samples import Summary, ratios
from benchmarks.tables import aligned


@dataclass
class Pair:
    """Samples of one case of two versions, taken in turn."""

    case: str
    base: list[float] = field(default_factory=list[float])
    head: list[float] = field(default_factory=list[float])
    """Seconds of CPU time of one operation, one sample per round."""
    instructions: tuple[float, float] | None = None
    """Instructions of Python of one operation, of both versions."""

    @property
    def of_minima(self) -> float:
        """The ratio of the two minima. Other load only ever adds to a sample."""
        return min(self.head) / min(self.base)

    @property
    def of_rounds(self) -> float:
        """The median of the ratios of all rounds."""
        return ratios(self.head, self.base).median

    @property
    def of_instructions(self) -> float | None:
        """The ratio of the instructions, or None if they were not counted."""
        return self.instructions[1] / self.instructions[0] if self.instructions else None

    def slower(self, percent: float) -> bool:
        """Returns True if the rounds say so, and the minima or the instructions as well.

        Noise seldom moves two of them the same way. A slower version always does.
        """
        return min(self.of_rounds, max(self.of_minima, self.of_instructions or 0.0)) > 1 + percent / 100


def paired(pairs: Iterable[Pair], percent: float) -> tuple[str, list[str]]:
    """Returns a table and the names of the cases that are slower by more than ``percent``."""
    found = [pair for pair in pairs if pair.base]
    slower = [pair.case for pair in found if pair.slower(percent)]
    rows = [["case", "base µs", "head µs", "of minima", "of rounds", "instructions", ""]]
    for pair in found:
        before, after = min(pair.base), min(pair.head)
        counted = "" if pair.of_instructions is None else f"{pair.of_instructions:.3f}"
        verdict = "SLOWER" if pair.case in slower else ""
        figures = [f"{before * 1e6:.1f}", f"{after * 1e6:.1f}", f"{pair.of_minima:.3f}", f"{pair.of_rounds:.3f}"]
        rows.append([pair.case, *figures, counted, verdict])
    end = f"Slower by more than {percent:g} %: {', '.join(slower) or 'none'}."
    return "\n".join([*aligned(rows), "", end]), slower


def compare(old: Results, new: Results) -> str:
    """Returns a table of this library's medians in both runs.

    The machine may have been faster in one run, and then redis-py was faster, too. So the last column divides the ratio
    by that of redis-py.
    """
    lines = [f"{'':<60} {'old µs':>10} {'new µs':>10} {'new/old':>8} {'of floor':>9}"]
    for title, before, after, floor in _pairs(old, new):
        ratio = after / before
        lines.append(f"{title:<60} {before * 1e6:>10.1f} {after * 1e6:>10.1f} {ratio:>8.2f} {ratio / floor:>9.2f}")
    return "\n".join(lines)


def _pairs(old: Results, new: Results) -> Iterator[tuple[str, float, float, float]]:
    for after in new.places:
        same = [place for place in old.places if (place.loop, place.database) == (after.loop, after.database)]
        for before in same:
            floor = _floor(after.seconds) / _floor(before.seconds)
            for case, measured in after.seconds.items():
                both = measured.keys() & before.seconds.get(case, {}).keys()
                who = next((name for name in (Own.name, Near.name) if name in both), None)
                if who is not None:
                    title = f"{after.loop}, {after.database}: {case}"
                    was = Summary.of(before.seconds[case][who]).median
                    yield title, was, Summary.of(measured[who]).median, floor


def _floor(seconds: dict[str, dict[str, list[float]]]) -> float:
    """Returns the median of raw redis-py for its first case, in seconds."""
    for measured in seconds.values():
        if RawRedis.name in measured:
            return Summary.of(measured[RawRedis.name]).median
    return 1.0
