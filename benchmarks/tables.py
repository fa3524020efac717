"""Tables of a run as text: cases by contestant, concurrent requests, budgets."""

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from benchmarks.asgi import table as pages
from benchmarks.budgets import BUDGETS
from benchmarks.contention import half
from benchmarks.contestants import ALL, Own
from benchmarks.results import PlaceResults, Results
from benchmarks.samples import Summary, ratios


def tables(results: Results) -> str:
    """Returns all figures of a run, as Markdown that is also readable in a terminal."""
    lines = [f"{results.mode}: " + ", ".join(f"{name} {value}" for name, value in _machine(results))]
    if results.contention:
        lines += [
            "",
            "Share of reads that the store alone answers, by writes per second (simulated, see `contention`):",
            "",
        ]
        lines += aligned(_contention(results.contention))
    for place in results.places:
        lines += ["", f"## {place.loop} loop, {place.database}", ""]
        lines += [
            "Microseconds per operation, median ± half of the middle half; in brackets: times aiomodelcache's.",
            "",
        ]
        lines += aligned(case_rows(place))
        if place.loads:
            lines += ["", "Concurrent requests, 5 % of them writes:", "", *aligned(load_rows(place))]
        if place.pages:
            lines += ["", f"Pages of a server process, {place.pages[0]['concurrency']} requests at a time:", ""]
            lines += aligned(pages.rows(place.pages))
        if place.memory:
            lines += ["", *aligned(memory_rows(place.memory))]
        others = {"Bytes of one row": place.sizes, "Stampede": place.stampede, "Growth": place.growth}
        for title, figures in others.items():
            if figures:
                lines += ["", f"{title}: " + ", ".join(f"{name} {value:.4g}" for name, value in figures.items())]
        lines += ["", *aligned(_budgets(place))]
    return "\n".join(lines)


def _machine(results: Results) -> Iterator[tuple[str, object]]:
    for name, value in results.machine.items():
        yield from value.items() if isinstance(value, dict) else [(name, value)]


def case_rows(place: PlaceResults) -> Iterator[list[str]]:
    """Yields the rows of the table of cases by contestant."""
    names = [contestant.name for contestant in ALL if any(contestant.name in case for case in place.seconds.values())]
    yield ["", *names]
    for case, measured in place.seconds.items():
        yield [case, *[_cell(measured.get(name), measured.get(Own.name)) for name in names]]


def _cell(samples: Sequence[float] | None, own: Sequence[float] | None) -> str:
    if samples is None:
        return ""
    median, p25, p75 = Summary.of(samples)
    ratio = f" ({ratios(samples, own).median:.2f})" if own is not None and samples is not own else ""
    return f"{median * 1e6:.1f} ± {(p75 - p25) / 2 / median:.0%}{ratio}"


def memory_rows(memory: Mapping[str, Mapping[str, float]]) -> Iterator[list[str]]:
    """Yields the rows of a table of the module ``memory``."""
    names = list(dict.fromkeys(name for sizes in memory.values() for name in sizes))
    yield ["bytes for each row", *names]
    for place, sizes in memory.items():
        yield [place, *[f"{sizes[name]:,.0f}" if name in sizes else "" for name in names]]


def _contention(lines: dict[str, list[tuple[float, float]]]) -> Iterator[list[str]]:
    yield ["", *[f"{rate:g}" for rate, _ in next(iter(lines.values()))], "one half at"]
    for name, points in lines.items():
        falls = half(points)
        yield [name, *[f"{ratio:.1%}" for _, ratio in points], "" if falls is None else f"{falls:.0f}"]


def load_rows(place: PlaceResults) -> Iterator[list[str]]:
    """Yields the rows of the table of concurrent requests."""
    yield ["", "concurrent", "requests/s", "p50 ms", "p99 ms", "CPU µs each"]
    seen = {(load["contestant"], load["concurrency"]): None for load in place.loads}
    names = [contestant.name for contestant in ALL]
    for who, concurrency in sorted(seen, key=lambda pair: (names.index(pair[0]), pair[1])):
        rounds = [load for load in place.loads if (load["contestant"], load["concurrency"]) == (who, concurrency)]

        def median(name: str, rounds: list[dict[str, float]] = rounds) -> float:
            return statistics.median(load[name] for load in rounds)

        latencies = [f"{median(name) * 1e3:.2f}" for name in ("p50", "p99")]
        yield [who, str(concurrency), f"{median('per second'):.0f}", *latencies, f"{median('cpu') * 1e6:.0f}"]


def _budgets(place: PlaceResults) -> Iterator[list[str]]:
    """Yields the budgets, also with ratios of this process's CPU time, which other processes disturb less."""
    yield ["budget", "", "measured", "p25 to p75", "", "CPU time"]
    cpu = replace(place, seconds=place.cpu)
    for budget in BUDGETS:
        ratio, worked = budget.measure(place), budget.measure(cpu)
        if ratio is not None and worked is not None:
            limit = f"{'>=' if budget.at_least else '<='} {budget.limit:.3g}"
            verdict = "met" if budget.met(ratio) else "NOT MET"
            also = f"{worked.median:.3g}" if worked != ratio else ""
            yield [budget.text, limit, f"{ratio.median:.3g}", f"{ratio.p25:.3g} to {ratio.p75:.3g}", verdict, also]


def aligned(rows: Iterable[Sequence[str]]) -> list[str]:
    """Returns the lines of a Markdown table whose columns are aligned as plain text."""
    header, *body = [list(row) for row in rows]
    widths = [max(len(row[at]) for row in (header, *body)) for at in range(len(header))]

    def line(row: Sequence[str]) -> str:
        cells = [
            cell.rjust(width) if at else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return f"| {' | '.join(cells)} |"

    rule = [("-" * width) if not at else "-" * (width - 1) + ":" for at, width in enumerate(widths)]
    return [line(header), line(rule), *map(line, body)]
