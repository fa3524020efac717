"""``python -m benchmarks``: measures, prints tables and budgets, writes JSON."""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.asgi.run import CONCURRENCY, run_asgi
from benchmarks.cases import CASES
from benchmarks.compare import compare
from benchmarks.contention import RATES, SHORTEST, run_contention
from benchmarks.contestants import ALL, Contestant, Own
from benchmarks.growth import measured_growth
from benchmarks.loads import CONCURRENCIES, run_loads
from benchmarks.memory import measured_memory
from benchmarks.places import DATABASES, LOOPS, Place, open_place
from benchmarks.results import PlaceResults, Results
from benchmarks.rounds import run_rounds
from benchmarks.sizes import measured_sizes
from benchmarks.stampede import run_stampede
from benchmarks.tables import tables
from tests.support.servers import ServerMissing


@dataclass(frozen=True, slots=True)
class Mode:
    """Numbers of rounds, loads and stampedes, and the seconds for each."""

    rounds: int
    sample: float
    """Seconds for one sample of one case of one contestant."""
    load_rounds: int
    load: float
    """Seconds for one load."""
    concurrencies: tuple[int, ...]
    stampedes: int
    page_rounds: int
    page: float
    """Seconds for one load of a kind of page."""
    write_rates: tuple[float, ...] = RATES
    """Writes per second of the simulated contention."""
    contention: float = SHORTEST
    """The least number of simulated seconds at each rate."""
    largest: int = 1_000
    """Maximum ``count`` of a case. Cases beyond it are skipped."""


MODES: Final = {
    "smoke": Mode(
        rounds=1,
        sample=0.0,
        load_rounds=1,
        load=0.0,
        concurrencies=(1, 10),
        stampedes=1,
        page_rounds=1,
        page=0.0,
        write_rates=(1.0, 1_000.0),
        contention=0.5,
        largest=200,
    ),
    "quick": Mode(
        rounds=11,
        sample=0.02,
        load_rounds=2,
        load=0.8,
        concurrencies=CONCURRENCIES,
        stampedes=5,
        page_rounds=3,
        page=0.8,
    ),
    "full": Mode(
        rounds=31,
        sample=0.05,
        load_rounds=5,
        load=3.0,
        concurrencies=CONCURRENCIES,
        stampedes=20,
        page_rounds=11,
        page=2.0,
    ),
}


async def measure(place: Place, mode: Mode, chosen: Sequence[str]) -> PlaceResults:
    """Measures the cases, sizes, loads, stampedes and growth in one place."""
    results = PlaceResults(place.loop, place.database)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(place.catalogue())
        contestants: list[Contestant] = []
        for kind in ALL:
            contestant = kind()
            await contestant.open(place)
            stack.push_async_callback(contestant.close)
            contestants.append(contestant)
        cases = [case for case in CASES if case.count <= mode.largest]
        if chosen:
            cases = [case for case in cases if any(word in case.name for word in chosen)]
        await run_rounds(cases, contestants, mode.rounds, mode.sample, results)
        if not chosen:
            results.sizes = await measured_sizes(place, 1)
            for number in range(mode.load_rounds):
                print(f"concurrent requests, round {number + 1} of {mode.load_rounds}", file=sys.stderr)
                await run_loads(contestants, mode.concurrencies, number, mode.load, results)
            own = next(contestant for contestant in contestants if isinstance(contestant, Own))
            results.stampede = await run_stampede(place, own, mode.stampedes)
            results.growth = await measured_growth(place, own, mode.rounds)
    return results


def run(arguments: argparse.Namespace) -> Results:
    """Measures in all selected places. Skips a place whose server or loop is missing on this machine."""
    results, mode = Results(arguments.mode), MODES[arguments.mode]

    def save() -> None:
        if arguments.json:
            results.save(arguments.json)

    if not arguments.case:
        print("simulating: contention", file=sys.stderr)
        results.contention = run_contention(mode.write_rates, mode.contention)
        save()
    for database in arguments.database:
        for loop in arguments.loop:
            try:
                with open_place(loop, database) as place, asyncio.Runner(loop_factory=place.new_loop) as runner:
                    print(f"measuring: {place}", file=sys.stderr)
                    results.places.append(runner.run(measure(place, mode, arguments.case)))
                    save()  # else these are lost if what follows fails
                    if not arguments.case:
                        results.places[-1].memory = asyncio.run(measured_memory(place))
                        if database == "postgres":
                            pages = run_asgi(place, CONCURRENCY, mode.page_rounds, mode.page)
                            results.places[-1].pages = asyncio.run(pages)
                save()
            except (ServerMissing, ImportError) as error:
                print(f"skipped: {loop}, {database}: {error}", file=sys.stderr)
    return results


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("mode", nargs="?", choices=MODES, default="quick", help="smoke only checks that all cases run")
    parser.add_argument("--loop", action="append", choices=LOOPS, help="may be repeated; default: all")
    parser.add_argument("--database", action="append", choices=DATABASES, help="may be repeated; default: all")
    parser.add_argument("--case", action="append", default=[], help="only cases whose name contains this")
    parser.add_argument("--json", type=Path, help="write the run to this file")
    parser.add_argument("--compare", type=Path, help="print the differences to an earlier run's file")
    parser.add_argument("--plots", type=Path, help="draw plots of the first place into this folder")
    options = parser.parse_args(arguments)
    options.loop = options.loop or list(LOOPS)
    options.database = options.database or list(DATABASES)
    return options


def main(arguments: Sequence[str] | None = None) -> Results:
    options = parse(arguments)
    old = Results.load(options.compare) if options.compare else None
    results = run(options)
    print(tables(results))
    if options.plots:
        from benchmarks.plots import draw  # only this needs matplotlib

        draw(results, options.plots)
    if old is not None:
        print("", compare(old, results), sep="\n")
    return results


if __name__ == "__main__":
    main()
