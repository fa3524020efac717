"""``python -m benchmarks.asgi``: requests per second, latencies and CPU time of pages."""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.asgi import table
from benchmarks.asgi.run import CONCURRENCY, run_asgi
from benchmarks.places import DATABASES, LOOPS, Place, open_place
from benchmarks.results import PlaceResults, Results
from benchmarks.tables import aligned
from tests.support.servers import ServerMissing


async def measure(place: Place, options: argparse.Namespace) -> PlaceResults:
    """Fills the catalogue and measures the pages in one place."""
    async with place.catalogue():
        pass
    pages = await run_asgi(place, options.concurrency, options.rounds, options.seconds, frozen=options.frozen)
    return PlaceResults(place.loop, place.database, pages=pages)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.asgi", description=__doc__)
    parser.add_argument("--loop", action="append", choices=LOOPS, help="of the servers; default: all")
    parser.add_argument("--database", choices=DATABASES, default="postgres")
    parser.add_argument("--concurrency", type=int, default=CONCURRENCY, help="requests at a time")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each sample")
    parser.add_argument("--frozen", action="store_true", help="this library and by hand, with and without gc.freeze()")
    parser.add_argument("--json", type=Path, help="write the run to this file")
    parser.add_argument("--plots", type=Path, help="draw the plot into this folder")
    options = parser.parse_args(arguments)
    results = Results("pages")
    for loop in options.loop or LOOPS:
        try:
            with open_place(loop, options.database) as place:
                results.places.append(asyncio.run(measure(place, options)))
        except (ServerMissing, ImportError) as error:
            print(f"skipped: {loop}, {options.database}: {error}", file=sys.stderr)
            continue
        print(f"\n{options.concurrency} requests at a time, {place}:\n")
        print("\n".join(aligned(table.rows(results.places[-1].pages))))
    if options.json:
        results.save(options.json)
    if options.plots and results.places:
        from benchmarks.plots import draw_pages  # only this needs matplotlib

        draw_pages(results.places[0], options.plots / "pages.svg")


if __name__ == "__main__":
    main()
