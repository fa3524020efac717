"""Draws the plots of ``docs/scale.md``. Needs matplotlib, as ``benchmarks.plots`` does."""

from dataclasses import replace
from pathlib import Path

from benchmarks.fleet import cold, nodes, writes
from benchmarks.fleet.costs import FLEET
from benchmarks.plots import figure, save

SMALL = replace(FLEET, processes=20, lookups=20_000.0, entries=1_000_000)
"""The fleet of the cold start."""
CAPACITY = 2_000.0
"""Rows per second of its database."""


def draw(folder: Path) -> list[Path]:
    """Draws all plots. Returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    return [
        _clusters(folder / "scale-nodes.svg"),
        _hot_rows(folder / "scale-hot-rows.svg"),
        _cold(folder / "scale-cold.svg"),
    ]


def _clusters(path: Path) -> Path:
    """Draws the lookups per second that a fleet of nodes carries, ten at a time."""
    drawing, axes = figure("nodes", "lookups/s until the first node is saturated")
    counts = [1, 2, 3, 5, 10, 20, 50, 100]
    for batch in (1, 10, 100):
        loads = [nodes.load(FLEET, count, batch).epoch_node for count in counts]
        points = [FLEET.lookups / load for load in loads]
        [line] = axes.plot(counts, points, marker="o", markersize=3, label=f"{batch} at a time, as today")
        apart = [FLEET.lookups / nodes.partitioned(FLEET, count, batch) for count in counts[2:]]
        axes.plot(counts[2:], apart, linestyle="--", color=line.get_color(), label=f"{batch} at a time, partitioned")
    return save(drawing, axes, path)


def _hot_rows(path: Path) -> Path:
    """Draws the share of a row's reads that go to the database."""
    drawing, axes = figure("writes to the row per second", "share of its reads that go to the database")
    axes.set(yscale="linear", ylim=(0, 1.02))
    rates = [10 ** (step / 10) for step in range(31)]
    for span in (0.001, 0.003, 0.010):
        axes.plot(rates, [writes.marked(rate, span) for rate in rates], label=f"{span * 1e3:.0f} ms from mark to clear")
    return save(drawing, axes, path)


def _cold(path: Path) -> Path:
    """Draws the hits of a fleet that begins with an empty cache."""
    drawing, axes = figure("seconds since the start", "share of lookups that are hits")
    axes.set(xscale="linear", yscale="linear", ylim=(0, 1.02))
    for name, lease, limit in (
        ("leases of 5 s", 5.0, None),
        ("leases extended to 60 s", 60.0, None),
        ("the same, loads limited to 90 % of the capacity", 60.0, 0.9 * CAPACITY),
    ):
        points = cold.hit_shares(SMALL, CAPACITY, lease=lease, limit=limit)
        axes.plot([moment for moment, _ in points], [share for _, share in points], label=name)
    return save(drawing, axes, path)
