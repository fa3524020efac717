"""``make soak``, or ``python -m soak``: the library for as long as you like, then what it is compared with."""

import argparse
import asyncio
import sys
from pathlib import Path

from soak.report import Report, report
from soak.run import FAULTS, Plan, soak
from soak.subjects import LIBRARY, NEAR
from soak.worker import SUBJECTS
from soak.world import SMALL, World
from tests.support.servers import PostgresServer, RedisServer


def main() -> int:
    """Returns 1 if the library was caught, or if something that is broken was not."""
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--subject", default="all", help=f"one of {', '.join(SUBJECTS)}, or all")
    parser.add_argument("--duration", type=float, default=3_600, help="seconds for the library")
    parser.add_argument("--control-duration", type=float, default=60, help="seconds for each of the others")
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", default=",".join(FAULTS), help="which faults, by commas; empty for none")
    parser.add_argument("--pace", type=float, default=1.0, help="below one, faults come faster")
    parser.add_argument("--on-write-error", default="mixed", choices=("mixed", "retry", "raise"))
    parser.add_argument("--allowtime", type=float, default=0, help="seconds by which answers may be old, by DYNAMIC")
    parser.add_argument("--near-lag", type=float, default=1.0, help="near_lag of near and deaf, in seconds")
    parser.add_argument("--read-pause", type=float, default=0.05, help="seconds between the reads of a task")
    parser.add_argument("--write-pause", type=float, default=0.1, help="seconds between the writes of a task")
    parser.add_argument("--folder", type=Path, help="where to keep the logs; else they are deleted")
    parser.add_argument("--check", type=Path, help="only check the logs in this folder again")
    given = parser.parse_args()
    if given.check:
        print(report(given.check))
        return 0
    good = True
    with PostgresServer() as postgres:
        for subject in SUBJECTS if given.subject == "all" else given.subject.split(","):
            library = subject in LIBRARY
            plan = Plan(
                subject=subject,
                duration=given.duration if library or given.subject != "all" else given.control_duration,
                processes=given.processes,
                seed=given.seed,
                faults=tuple(filter(None, given.faults.split(","))),
                pace=given.pace,
                allowtime=given.allowtime,
                near_lag=given.near_lag,
                on_write_error=given.on_write_error,
                world=SMALL if subject in NEAR else World(),
                read_pause=given.read_pause,
                write_pause=given.write_pause,
            )
            result = _run(plan, postgres, given.folder and given.folder / subject)
            print(result, flush=True)
            good &= result.violations == 0 if library else result.violations > 0
    print("as it should be" if good else "NOT as it should be")
    return 0 if good else 1


def _run(plan: Plan, postgres: PostgresServer, folder: Path | None) -> Report:
    with postgres.database() as database, RedisServer() as redis:
        return asyncio.run(soak(plan, database, redis, folder))


if __name__ == "__main__":
    sys.exit(main())
