"""``python -m benchmarks.guard``: fails if a case of this checkout is slower than in a base commit.

A version is a commit or a folder. What appears to be slower is measured again by further processes, so noise seldom
fails, and a real slowdown always does.
"""

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any, Final

from benchmarks.compare import Pair, paired
from benchmarks.guard.versions import ROOT, checkout, default_base
from benchmarks.places import DATABASES
from tests.support.servers import PostgresServer, RedisServer, ServerMissing

SIDE: Final = Path(__file__).with_name("side.py")
SAMPLE: Final = 0.015
"""Seconds of CPU time of one sample, about."""
GENERATIONS: Final = 3
"""Number of pairs of processes. Two processes differ by where their memory lies, and that is no slowdown."""
RETRIES: Final = 2
"""Further pairs of processes, which measure only the cases that appear to be slower."""


class Process:
    """A process of one side."""

    def __init__(self, folder: Path, redis_url: str, database_url: str) -> None:
        self._arguments = [str(SIDE), redis_url, database_url]
        self._environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONHASHSEED": "0"}

    async def start(self) -> dict[str, int]:
        """Starts it. Returns its cases and how many operations one run of each has."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *self._arguments,
            env=self._environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        cases: dict[str, int] = await self._answer()
        return cases

    async def measure(self, case: str, repeats: int) -> float:
        """Returns the seconds of CPU time of one operation or, without ``repeats``, its instructions."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([case, repeats]).encode() + b"\n")
        figure: float = await self._answer()
        return figure

    async def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise SystemExit(f"A process of the comparison ended with {await self._process.wait()}.")
        return json.loads(line)

    async def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()


async def measure(sides: Sequence[Process], pairs: dict[str, Pair], rounds: int, chosen: Sequence[str]) -> None:
    """Measures the cases that both sides have, by a new process of each."""
    base, head = sides
    async with AsyncExitStack() as stack:
        cases = []
        for side in sides:
            cases.append(await side.start())
            stack.push_async_callback(side.end)
        repeats: dict[str, int] = {}
        for case, count in cases[0].items():
            if case in cases[1] and any(word in case for word in chosen):
                pair = pairs.setdefault(case, Pair(case))
                if pair.instructions is None:
                    pair.instructions = (await base.measure(case, 0), await head.measure(case, 0))
                took = max([await side.measure(case, 3) for side in sides])
                repeats[case] = max(1, min(2_000, round(SAMPLE / took / count)))
        for number in range(rounds):
            for case in repeats:
                order = random.Random(f"{number} {case}").sample(sides, 2)
                sample = {side: await side.measure(case, repeats[case]) for side in order}
                pairs[case].base.append(sample[base])
                pairs[case].head.append(sample[head])


def run(options: argparse.Namespace) -> dict[str, Pair]:
    """Measures all chosen cases, and measures again what appears to be slower."""
    pairs: dict[str, Pair] = {}
    chosen: Sequence[str] = options.case
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        versions = [checkout(options.base, folder / "base"), checkout(options.head, folder / "head")]
        store = stack.enter_context(RedisServer())
        server = stack.enter_context(PostgresServer()) if options.database == "postgres" else None
        for number in range(GENERATIONS + RETRIES):
            if number >= GENERATIONS:
                chosen = [pair.case for pair in pairs.values() if pair.slower(options.limit)]
            if not chosen:
                break
            print(f"processes {number + 1}: {', '.join(filter(None, chosen)) or 'all cases'}", file=sys.stderr)
            store.flush()
            with ExitStack() as databases:
                sides = []
                for at, version in enumerate(versions):
                    sqlite = f"sqlite://{folder}/{number}-{at}.sqlite3"
                    url = databases.enter_context(server.database()) if server is not None else sqlite
                    sides.append(Process(version, f"{store.url.rpartition('/')[0]}/{at}", url))
                asyncio.run(measure(sides, pairs, options.rounds, chosen))
            if not pairs:
                raise SystemExit(f"No case of both versions has one of {options.case} in its name.")
    return pairs


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.guard", description=__doc__)
    parser.add_argument("--base", help="default: where this branch left main; on main, the last commit but one")
    parser.add_argument("--head", default=str(ROOT), help="default: this checkout as it is")
    parser.add_argument("--limit", type=float, default=5.0, help="the percentage that is too much; default: 5")
    parser.add_argument("--rounds", type=int, default=20, help="for each pair of processes; default: 20")
    parser.add_argument("--case", action="append", help="only cases whose name contains this")
    parser.add_argument("--database", choices=DATABASES, default="postgres")
    options = parser.parse_args(arguments)
    options.base = options.base or default_base()
    options.case = options.case or [""]
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    try:
        pairs = run(options)
    except ServerMissing as error:
        sys.exit(f"cannot compare: {error}")
    text, slower = paired(pairs.values(), options.limit)
    print(f"CPU time of {options.head} against {options.base}:\n\n{text}")
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
