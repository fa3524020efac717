"""``python -m benchmarks.other_orms``: caches of other ORMs and this one, each by ratio to its own ORM alone."""

import argparse
import json
import statistics
import subprocess
import sys
from importlib.util import find_spec

from benchmarks.other_orms.cases import CASES
from benchmarks.tables import aligned
from tests.support.servers import PostgresServer, RedisServer, ServerMissing

ORMS = {
    "Tortoise, aiomodelcache": ("own", []),
    "SQLAlchemy, advanced-alchemy": ("alchemy", ["advanced_alchemy", "dogpile", "sqlalchemy"]),
    "Django, django-cacheops": ("cacheops", ["django", "cacheops", "psycopg2"]),
}
"""Name -> its module, and what must be installed."""


def measured(module: str, rounds: int) -> dict[str, list[list[list[float]]]]:
    """Returns the samples of one ORM, which runs in a process and on servers of its own."""
    with RedisServer() as store, PostgresServer() as server, server.database() as url:
        command = [sys.executable, "-m", f"benchmarks.other_orms.{module}", store.url, url, str(rounds)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
        samples: dict[str, list[list[list[float]]]] = json.loads(done.stdout)
        return samples


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.other_orms", description=__doc__)
    parser.add_argument("--rounds", type=int, default=21)
    options = parser.parse_args()
    rows = [["", "case", "bare µs", "cached µs", "cached / bare", "CPU, cached / bare"]]
    for name, (module, needed) in ORMS.items():
        if missing := [each for each in needed if find_spec(each) is None]:
            print(f"skipped: {name}: pip install --group other-orms, for {', '.join(missing)}", file=sys.stderr)
            continue
        print(f"measuring: {name}", file=sys.stderr)
        try:
            samples = measured(module, options.rounds)
        except ServerMissing as error:
            sys.exit(f"skipped: {error}")
        for case in CASES:
            cached, bare = zip(*samples[case], strict=True)
            medians = [f"{statistics.median(sample[0] for sample in each) * 1e6:,.0f}" for each in (bare, cached)]
            ratios = [
                f"{statistics.median(one[at] / other[at] for one, other in zip(cached, bare, strict=True)):.2f}"
                for at in (0, 1)
            ]
            rows.append([name, case, *medians, *ratios])
    print("\n".join(aligned(rows)))


if __name__ == "__main__":
    main()
