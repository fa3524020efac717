"""``python -m benchmarks.fleet``: prints the tables of ``docs/scale.md``, draws its plots, or measures its costs."""

import argparse
from pathlib import Path

from benchmarks.fleet import measure
from benchmarks.fleet.report import report


def main() -> None:
    """Does what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet", description=__doc__)
    parser.add_argument("--measure", action="store_true", help="measure the costs on a private Redis, and print them")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="draw the plots into a folder")
    arguments = parser.parse_args()
    if arguments.measure:
        print(measure.shown(measure.measured()))
        print("a lone hit {:.0f} µs, on a Cluster {:.0f} µs".format(*(1e6 * hit for hit in measure.lone_hits())))
        print(f"an entry of {len(measure.VALUE)} bytes takes {measure.memory_of_an_entry()}")
        return
    print(report())
    if arguments.plots is not None:
        from benchmarks.fleet import plots

        for path in plots.draw(arguments.plots):
            print(path)


if __name__ == "__main__":
    main()
