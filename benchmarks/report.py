"""``python -m benchmarks.report .bench/last.json``: the tables of the documentation, from the file of one run.

Without options, it prints them as Markdown. With ``--update``, it writes them into the documentation's pages, between
``<!-- bench: NAME -->`` and ``<!-- /bench -->``. Figures are those of PostgreSQL on asyncio's own loop, if the run has
measured them.
"""

import argparse
import re
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from benchmarks import cases
from benchmarks.asgi.pages import LOOKUPS
from benchmarks.asgi.pages import PAGES as KINDS
from benchmarks.asgi.table import median_of, rows_by_loop
from benchmarks.budgets import BUDGETS, Budget
from benchmarks.contestants import ByHand, Near, Own, TortoiseAlone
from benchmarks.results import PlaceResults, Results
from benchmarks.samples import Summary, ratios
from benchmarks.tables import aligned, case_rows, load_rows

ROOT: Final = Path(__file__).parents[1]
PAGES: Final = ("README.md", "docs/index.md", "docs/why.md", "docs/performance.md")
_BLOCK: Final = re.compile(r"(<!-- bench: (\w+) -->\n\n)(.*?)(\n\n<!-- /bench -->)", re.DOTALL)
_CONCURRENCY: Final = 100
"""Number of requests in flight, of the figures that stand for all. A short run may have measured fewer only."""


_LOSES: Final = {
    cases.SINGLE.name: "One round trip for both. The library also reads an epoch, and checks what it has read.",
    cases.SLUG.name: "An index entry leads to the row, and both are read. By hand, each key has a copy of the row.",
    cases.QUERY.name: "Redis looks up the answer and the versions that it depends on. A pickle is one value.",
    cases.PAGE.name: "Redis also looks up 41 dependencies, and each is compared. By hand, a timeout ends the page.",
    cases.PAGES_GATHERED.name: "The same for each page.",
    cases.MISS.name: "A lease comes before the statement, so no late reader stores an old row: one round trip more.",
    cases.SAVE.name: "A mark comes before the COMMIT and a clear after it, in place of a `DEL`: one round trip more.",
}
"""The cases in which a cache by hand may be faster, and the reason."""


def main_place(results: Results) -> PlaceResults:
    """Returns the place whose figures stand for the run."""
    return _in_order(results)[0]


def _in_order(results: Results) -> list[PlaceResults]:
    return sorted(results.places, key=lambda place: (place.database != "postgres", place.loop != "default"))


def _served(results: Results) -> list[PlaceResults]:
    """Returns the places where pages of a server were measured. Raises ``LookupError`` if there are none."""
    places = [place for place in _in_order(results) if place.pages]
    if not places:
        raise LookupError("no pages of a server")
    return places


def _loaded(place: PlaceResults, who: str, name: str) -> float:
    most = max(load["concurrency"] for load in place.loads if load["concurrency"] <= _CONCURRENCY)
    found = [load[name] for load in place.loads if (load["contestant"], load["concurrency"]) == (who, most)]
    return statistics.median(found)


def _micros(place: PlaceResults, case: cases.Case, who: str = Own.name) -> str:
    median = Summary.of(place.seconds[case.name][who]).median * 1e6
    return f"{median:,.0f} µs" if median >= 20 else f"{median:.1f} µs"


def _times(place: PlaceResults, case: cases.Case) -> str:
    measured = place.seconds[case.name]
    return f"{ratios(measured[TortoiseAlone.name], measured[Own.name]).median:.1f} times"


def _rates(results: Results) -> list[str]:
    place = main_place(results)
    return [f"{_loaded(place, who.name, 'per second'):,.0f}" for who in (Own, TortoiseAlone, ByHand)]


def _served_rates(place: PlaceResults) -> list[str]:
    names = (Own.name, TortoiseAlone.name, ByHand.name)
    return [f"{median_of(place, LOOKUPS, name, 'per second'):,.0f}" for name in names]


def gain(results: Results) -> Iterator[str]:
    place, *others = _served(results)
    own, alone, by_hand = _served_rates(place)
    yield f"**What it gains:** {own} requests/s, against {alone} with plain Tortoise"
    yield f"and {by_hand} with a cache written by hand (redis-py, pickle, `DEL` after a write)."
    for other in others:
        own, alone, by_hand = _served_rates(other)
        yield f"On {other.loop}, these are {own}, {alone} and {by_hand}."


def summary(results: Results) -> Iterator[str]:
    own, alone, by_hand = _served_rates(_served(results)[0])
    yield f"Under uvicorn, a page of four lookups is answered {own} times a second with aiomodelcache,"
    yield f"{alone} times with plain Tortoise and {by_hand} times with a cache written by hand: see"
    yield "[Performance](performance.md)."


def served(results: Results) -> Iterator[str]:
    """Yields the figures of a page of four lookups, on each event loop."""
    names = (Own.name, ByHand.name, TortoiseAlone.name)
    yield from aligned(rows_by_loop(_served(results), [LOOKUPS], names))


def pages(results: Results) -> Iterator[str]:
    """Yields the figures of all pages of a server, on each event loop."""
    places = _served(results)
    names = list(dict.fromkeys(record["contestant"] for record in places[0].pages))
    yield from aligned(rows_by_loop(places, KINDS, names))


def why(results: Results) -> Iterator[str]:
    place = main_place(results)
    yield from ("| PostgreSQL on the same machine | aiomodelcache | plain Tortoise | by hand |", "|---|---:|---:|---:|")
    yield f"| requests/s without a server, 100 concurrent, 5 % of them writes | {' | '.join(_rates(results))} |"
    for text, case in (
        ("one row, 100 lookups in a `gather`", cases.GATHER_100),
        ("one row, nothing else in flight", cases.SINGLE),
        ("a miss", cases.MISS),
    ):
        yield f"| {text} | {' | '.join(_micros(place, case, who.name) for who in (Own, TortoiseAlone, ByHand))} |"


def rates(results: Results) -> Iterator[str]:
    place = main_place(results)
    yield "| 100 requests at a time | requests/s | p50, ms | p99, ms | CPU each, µs |"
    yield "|---|---:|---:|---:|---:|"
    names = {
        Own: "aiomodelcache",
        ByHand: "a cache written by hand: redis-py, pickle, `DEL` after a write",
        TortoiseAlone: "plain Tortoise",
    }
    for who, text in names.items():
        rate, p50, p99, cpu = (_loaded(place, who.name, name) for name in ("per second", "p50", "p99", "cpu"))
        shown = f"**{rate:,.0f}**" if who is Own else f"{rate:,.0f}"
        yield f"| {text} | {shown} | {p50 * 1e3:,.0f} | {p99 * 1e3:,.0f} | {cpu * 1e6:,.0f} |"


def rows(results: Results) -> Iterator[str]:
    place = main_place(results)
    yield from ("| lookups | aiomodelcache | plain Tortoise |", "|---|---:|---:|")
    for text, case, each in (
        ("one by primary key, nothing else in flight", cases.SINGLE, ""),
        ("10 in a `gather`", cases.GATHERS[1], " each"),
        ("100 in a `gather`", cases.GATHER_100, " each"),
        ("100 in a `BatchCacheQuery`; Tortoise: one `SELECT … IN`", cases.TOGETHER, " each"),
        ("a list of 50 rows", cases.LIST, ""),
        ("50 rows with two levels of relations", cases.TWO_LEVELS, ""),
    ):
        yield f"| {text} | {_micros(place, case)}{each} | {_times(place, case)} |"
    yield f"| again, inside `local_cache()` | {_micros(place, cases.SCOPE)} | |"
    yield f"| again, with `near` | {_micros(place, cases.NEAR, Near.name)} | |"


def pays(results: Results) -> Iterator[str]:
    place = main_place(results)
    yield from ("| | aiomodelcache | plain Tortoise | by hand |", "|---|---:|---:|---:|")
    for text, case in (("a miss by primary key", cases.MISS), ("`save()`", cases.SAVE)):
        yield f"| {text} | {' | '.join(_micros(place, case, who.name) for who in (Own, TortoiseAlone, ByHand))} |"


def losses(results: Results) -> Iterator[str]:
    """Yields the cases in which the cache by hand is faster."""
    place = main_place(results)
    yield from ("| case | by hand / aiomodelcache | why |", "|---|---:|---|")
    for case, why in _LOSES.items():
        seconds = place.seconds[case]
        ratio = f"{ratios(seconds[ByHand.name], seconds[Own.name]).median:.2f}"
        if float(ratio) < 1:
            yield f"| {case} | {ratio} | {why} |"


def measured(results: Results) -> Iterator[str]:
    machine = results.machine
    libraries = ", ".join(f"{name} {version}" for name, version in machine["libraries"].items())
    yield f"`make bench` ({results.mode}) on {machine['system']} {machine['architecture']}, {machine['cores']} cores,"
    yield f"load average {machine['load']} at its start, Python {machine['python']}: {libraries}."


def budgets(results: Results) -> Iterator[str]:
    """Yields the budgets by place, those that are not met in bold, and the ratios of CPU time of the main place."""
    main, own = main_place(results), sorted(results.places, key=lambda place: place is not main_place(results))
    names = [f"{place.loop}, {place.database}" for place in own]
    table = [["budget", "", *names, "CPU time, first"]]
    for budget in BUDGETS:
        found = [_verdict(budget, place) for place in own]
        if any(found):
            worked = budget.measure(replace(main, seconds=main.cpu))
            limit = f"{'>=' if budget.at_least else '<='} {budget.limit:.3g}"
            of_cpu = f"{worked.median:.3g}" if worked is not None and worked != budget.measure(main) else ""
            table.append([budget.text, limit, *found, of_cpu])
    yield from aligned(table)


def _verdict(budget: Budget, place: PlaceResults) -> str:
    ratio = budget.measure(place)
    if ratio is None:
        return ""
    return f"{ratio.median:.3g}" if budget.met(ratio) else f"**{ratio.median:.3g}**"


TABLES: Final[dict[str, Callable[[Results], Iterator[str]]]] = {
    "gain": gain,
    "summary": summary,
    "why": why,
    "served": served,
    "rates": rates,
    "rows": rows,
    "pays": pays,
    "measured": measured,
    "budgets": budgets,
    "losses": losses,
    "cases": lambda results: iter(aligned(case_rows(main_place(results)))),
    "loads": lambda results: iter(aligned(load_rows(main_place(results)))),
    "pages": pages,
}
"""The blocks of the documentation by name, and what makes their lines of a run."""


def block(name: str, results: Results) -> str | None:
    """Returns the lines of a block, or None if the run has not measured all of its figures."""
    try:
        return "\n".join(TABLES[name](results)) or None
    except (LookupError, ValueError):  # a case or a contestant is missing
        print(f"{name}: the run has no figures for it", file=sys.stderr)
        return None


def updated(text: str, results: Results) -> str:
    """Returns a page with the blocks of a run. Others stay as they are."""
    return _BLOCK.sub(lambda found: found[1] + (block(found[2], results) or found[3]) + found[4], text)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("run", type=Path, help="the file that `make bench` has written")
    parser.add_argument("--update", action="store_true", help="write the tables into the pages of the documentation")
    parser.add_argument("--plots", type=Path, help="draw plots of the run into this folder")
    options = parser.parse_args(arguments)
    results = Results.load(options.run)
    if options.plots:
        from benchmarks.plots import draw  # only this needs matplotlib

        draw(replace(results, places=[main_place(results)]), options.plots)
    if not options.update:
        print("\n\n".join(f"### {name}\n\n{block(name, results)}" for name in TABLES))
    for page in map(ROOT.joinpath, PAGES if options.update else ()):
        page.write_text(updated(page.read_text("utf-8"), results), "utf-8")


if __name__ == "__main__":
    main()
