"""The table of pages, and the figures of its plot."""

import statistics
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from benchmarks.asgi.pages import PAGES
from benchmarks.contestants import TortoiseAlone
from benchmarks.results import PlaceResults
from benchmarks.samples import ratios

Records = Sequence[dict[str, Any]]


def figures_of(records: Records, page: str, contestant: str, name: str) -> list[float]:
    """Returns one figure of all rounds."""
    return [record[name] for record in records if (record["page"], record["contestant"]) == (page, contestant)]


def rows(records: Records) -> Iterator[list[str]]:
    """Yields the rows of a table. A ratio is the median of the ratios of all rounds."""
    names = list(dict.fromkeys(record["contestant"] for record in records))
    base = TortoiseAlone.name if TortoiseAlone.name in names else names[0]
    yield ["page", "", "requests/s", f"to {base}", "p50 ms", "p99 ms", "CPU µs each", f"to {base}", "load's core"]
    for page in PAGES:
        of_base = {key: figures_of(records, page, base, key) for key in ("per second", "cpu")}
        for name in names:
            figures = {key: figures_of(records, page, name, key) for key in ("per second", "p50", "p99", "cpu", "load")}
            rate, p50, p99, cpu, load = map(statistics.median, figures.values())
            times, of_cpu = [f"{ratios(figures[key], samples).median:.2f}" for key, samples in of_base.items()]
            late = f"{p50 * 1e3:.1f}", f"{p99 * 1e3:.1f}"
            yield [page, name, f"{rate:,.0f}", times, *late, f"{cpu * 1e6:.0f}", of_cpu, f"{load:.0%}"]


def median_of(place: PlaceResults, page: str, contestant: str, name: str) -> float:
    """Returns the median of one figure. Raises ``StatisticsError`` if it was not measured."""
    return statistics.median(figures_of(place.pages, page, contestant, name))


def rows_by_loop(
    places: Sequence[PlaceResults], pages: Iterable[str], contestants: Sequence[str]
) -> Iterator[list[str]]:
    """Yields the rows of a table that has the figures of all event loops side by side."""
    heads = ("requests/s", "p50 ms", "p99 ms", "CPU µs each")
    yield ["page", "", *[f"{place.loop}: {head}" for place in places for head in heads]]
    for page in pages:
        for contestant in contestants:
            cells: list[str] = []
            for place in places:
                names = ("per second", "p50", "p99", "cpu")
                rate, p50, p99, cpu = [median_of(place, page, contestant, name) for name in names]
                cells += [f"{rate:,.0f}", f"{p50 * 1e3:.1f}", f"{p99 * 1e3:.1f}", f"{cpu * 1e6:,.0f}"]
            yield [page, contestant, *cells]
