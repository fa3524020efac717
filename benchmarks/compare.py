"""``compare``: the differences in speed between two runs."""

from collections.abc import Iterator

from benchmarks.contestants import Near, Own, RawRedis
from benchmarks.results import Results
from benchmarks.samples import Summary


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
