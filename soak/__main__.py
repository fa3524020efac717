"""``make soak``, or ``python -m soak``: soaks the library for a given time, then the caches to compare it with."""

import argparse
import asyncio
import shutil
import sys
import tempfile
from argparse import BooleanOptionalAction
from pathlib import Path

from soak.cluster import CLUSTER_FAULTS, SoakCluster
from soak.databases import SERVERS, Databases
from soak.relay_faults import RELAY_FAULTS
from soak.report import Report, report
from soak.run import FAULTS, Plan, soak
from soak.subjects import CLUSTERED, LIBRARY, REPEATING
from soak.worker import HAS_EAGER_TASKS, SUBJECTS
from soak.world import SMALL, World
from tests.support.servers import RedisServer


def main() -> int:
    """Runs the soak. Returns 1 if the library violated freshness, or if a broken cache did not."""
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--subject", default="all", help=f"one of {', '.join(SUBJECTS)}, or all")
    parser.add_argument("--duration", type=float, default=3_600, help="seconds for the library")
    parser.add_argument("--control-duration", type=float, default=60, help="seconds for each of the others")
    parser.add_argument("--database", default="postgres", choices=SERVERS, help="of subjects with relays: which one")
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    known = ", ".join(dict.fromkeys((*FAULTS, *RELAY_FAULTS, *CLUSTER_FAULTS)))
    parser.add_argument("--faults", help=f"names of faults, separated by commas; all by default; may be empty: {known}")
    parser.add_argument("--pace", type=float, default=1.0, help="below one, faults come faster")
    parser.add_argument("--on-write-error", default="mixed", choices=("mixed", "retry", "raise"))
    parser.add_argument("--allowtime", type=float, default=0, help="allowtime in seconds; above zero with DYNAMIC")
    parser.add_argument("--near-lag", type=float, default=1.0, help="near_lag of near and deaf, in seconds")
    parser.add_argument("--relay-lag", type=float, default=Plan().relay_lag, help="relay_lag, in seconds")
    parser.add_argument("--relay-source", default=Plan().relay_source, choices=("triggers", "pgoutput"))
    parser.add_argument("--relays", type=int, default=Plan().relays, help="number of relays")
    parser.add_argument("--writers", type=int, default=Plan().writers, help="tasks of each process that write")
    parser.add_argument("--outside", type=int, default=Plan().outside, help="connections of other programs that write")
    parser.add_argument("--read-pause", type=float, default=0.05, help="seconds between the reads of a task")
    parser.add_argument("--write-pause", type=float, default=0.1, help="seconds between the writes of a task")
    parser.add_argument("--batches", default="", help="numbers of answers of one read, separated by commas")
    parser.add_argument("--pages", type=float, help="fraction of the reads that are of pages, of up to 128 rows")
    parser.add_argument("--verify", type=float, default=Plan().verify, help="fraction of entries compared by verify")
    parser.add_argument("--cancel", action=BooleanOptionalAction, default=True, help="cancel requests at random")
    parser.add_argument(
        "--eager", action=BooleanOptionalAction, default=HAS_EAGER_TASKS, help="eager tasks in half of the processes"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        help="keep the logs in this folder; else only those of an unexpected result",
    )
    parser.add_argument("--check", type=Path, help="only check the logs in this folder again")
    options = parser.parse_args()
    if options.check:
        print(report(options.check))
        return 0
    if not HAS_EAGER_TASKS:
        print("no process has eager tasks, which need Python 3.12", flush=True)
    passed = True
    with SERVERS[options.database]() as server:
        for subject in SUBJECTS if options.subject == "all" else options.subject.split(","):
            library = subject in LIBRARY
            plan = Plan(
                subject=subject,
                duration=options.duration if library or options.subject != "all" else options.control_duration,
                processes=options.processes,
                seed=options.seed,
                faults=None if options.faults is None else tuple(filter(None, options.faults.split(","))),
                pace=options.pace,
                allowtime=options.allowtime,
                near_lag=options.near_lag,
                relay_lag=options.relay_lag,
                relay_source=options.relay_source,
                relays=options.relays,
                outside=options.outside,
                writers=options.writers,
                on_write_error=options.on_write_error,
                cancel=options.cancel,
                verify=options.verify,
                eager=options.eager and HAS_EAGER_TASKS,
                world=SMALL if subject in REPEATING else World(),
                read_pause=options.read_pause,
                write_pause=options.write_pause,
                pages=options.pages,
                batches=tuple(map(int, filter(None, options.batches.split(",")))),
            )
            base = options.folder or Path(tempfile.mkdtemp(prefix="aiomodelcache-soak-"))
            folder = base / subject
            folder.mkdir(parents=True, exist_ok=True)
            result = _run(plan, server, folder)
            print(result, flush=True)
            expected = result.violations == 0 if library else result.violations > 0
            passed &= expected
            if not expected:
                print(f"  logs         {folder}: python -m soak --check {folder}", flush=True)
            elif not options.folder:
                shutil.rmtree(base)
    print("as expected" if passed else "NOT as expected")
    return 0 if passed else 1


def _run(plan: Plan, server: Databases, folder: Path) -> Report:
    store = SoakCluster() if plan.subject in CLUSTERED else RedisServer()
    with server.database() as database, store:
        return asyncio.run(soak(plan, database, store, folder))


if __name__ == "__main__":
    sys.exit(main())
