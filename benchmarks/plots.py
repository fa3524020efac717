"""Plots of a run, small enough for the documentation. Only this module needs matplotlib."""

import statistics
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from benchmarks.asgi.pages import PAGES
from benchmarks.asgi.table import figures_of
from benchmarks.cases import GATHERS
from benchmarks.contestants import ALL, Own
from benchmarks.results import PlaceResults, Results
from benchmarks.samples import Summary

NAMES = [contestant.name for contestant in ALL]


def draw(results: Results, folder: Path) -> list[Path]:
    """Draws the first place of a run. Returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    place = results.places[0]
    drawn = [_gathers(place, folder / "gather.svg")]
    if place.loads:
        drawn.append(_loads(place, folder / "concurrency.svg"))
    if place.pages:
        drawn.append(draw_pages(place, folder / "pages.svg"))
    if results.contention:
        drawn.append(draw_contention(results.contention, folder / "contention.svg"))
    return drawn


def draw_contention(lines: dict[str, list[tuple[float, float]]], path: Path) -> Path:
    """Draws hit ratios by the number of writes per second."""
    drawing, axes = figure("writes to the table per second", "share of reads that are hits")
    axes.set(yscale="linear", ylim=(0, 1.02))
    axes.axhline(0.5, color="grey", linewidth=0.5)
    for name, points in lines.items():
        axes.plot([rate for rate, _ in points], [ratio for _, ratio in points], **_style(name))
    return save(drawing, axes, path)


def draw_pages(place: PlaceResults, path: Path) -> Path:
    """Draws requests per second of CPU time, of each kind of page.

    That is what a process answers that has a core to itself. Other load disturbs it less than the real rate.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    names = [name for name in NAMES if any(record["contestant"] == name for record in place.pages)]
    drawing, axes = figure("", "requests per second of CPU time")
    axes.set(xscale="linear", yscale="linear", xticks=range(len(PAGES)), xticklabels=list(PAGES))
    axes.grid(visible=False, axis="x")
    width = 0.8 / len(names)
    for at, name in enumerate(names):
        heights = [1 / statistics.median(figures_of(place.pages, page, name, "cpu")) for page in PAGES]
        positions = [kind + (at - (len(names) - 1) / 2) * width for kind in range(len(PAGES))]
        axes.bar(positions, heights, width * 0.9, label=name)
    return save(drawing, axes, path)


def _gathers(place: PlaceResults, path: Path) -> Path:
    """Draws the cost of a hit by the number of lookups awaited together."""
    drawing, axes = figure("hits awaited together", "µs per hit")
    for name in NAMES:
        points = [
            (case.count, Summary.of(place.seconds[case.name][name]))
            for case in GATHERS
            if name in place.seconds.get(case.name, {})
        ]
        if points:
            axes.plot([count for count, _ in points], [summary.median * 1e6 for _, summary in points], **_style(name))
    return save(drawing, axes, path)


def _loads(place: PlaceResults, path: Path) -> Path:
    """Draws requests per second by the number of concurrent requests."""
    drawing, axes = figure("concurrent requests", "requests per second")
    for name in NAMES:
        by_concurrency: dict[int, list[float]] = {}
        for load in place.loads:
            if load["contestant"] == name:
                by_concurrency.setdefault(load["concurrency"], []).append(load["per second"])
        if by_concurrency:
            axes.plot(
                list(by_concurrency), [statistics.median(rates) for rates in by_concurrency.values()], **_style(name)
            )
    return save(drawing, axes, path)


def figure(x: str, y: str) -> tuple[Any, Any]:
    figure: Any = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.set(xscale="log", yscale="log", xlabel=x, ylabel=y)
    axes.grid(visible=True, which="major", alpha=0.3)
    return figure, axes


def _style(name: str) -> dict[str, Any]:
    return {"label": name, "marker": "o", "markersize": 3, "linewidth": 2.5 if name.startswith(Own.name) else 1}


def save(figure: Any, axes: Any, path: Path) -> Path:
    axes.legend(fontsize="small", framealpha=0.85, edgecolor="none")
    with rc_context({"svg.hashsalt": "aiomodelcache", "svg.fonttype": "none"}):  # the same figures make the same file
        figure.savefig(path, metadata={"Date": None})
    return path
