"""Interleaved rounds: every case of every contestant once a round, so that all feel the same noise."""

import asyncio
import gc
import random
import sys
import time
from collections.abc import Sequence

from benchmarks.cases import Case
from benchmarks.contestants import Contestant
from benchmarks.results import PlaceResults

Pair = tuple[Case, Contestant]


async def run_rounds(
    cases: Sequence[Case], contestants: Sequence[Contestant], rounds: int, seconds: float, into: PlaceResults
) -> None:
    """Measures all that contestants can do; one sample takes about ``seconds``, at least one run.

    Each pair's answers are compared with the catalogue before anything is timed.
    """
    pairs = [(case, each) for case in cases for each in contestants if case.fits(each)]
    repeats = {(case.name, each.name): await _rehearse(case, each, seconds) for case, each in pairs}
    gc.collect()
    gc.freeze()  # so that collecting what one contestant left behind is cheap, and nobody else's burden
    try:
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}", file=sys.stderr)
            for case, contestant in _order(pairs, number):
                if seconds:
                    gc.collect()
                elapsed, cpu = await _sample(case, contestant, repeats[case.name, contestant.name])
                into.add(case.name, contestant.name, elapsed, cpu)
    finally:
        gc.unfreeze()


def _order(pairs: list[Pair], number: int) -> list[Pair]:
    """Cases always in their order, contestants of a case in another one each round."""
    chance = random.Random(number)
    shuffled = chance.sample(pairs, len(pairs))
    places = {case.name: at for at, (case, _) in enumerate(pairs)}
    return sorted(shuffled, key=lambda pair: places[pair[0].name])


async def _rehearse(case: Case, contestant: Contestant, seconds: float) -> int:
    """Checks the answers, warms up, and returns how often to repeat the case for one sample."""
    await case.prepare(contestant)
    await case.run(contestant)
    await case.prepare(contestant)
    case.check(contestant, await (case.rehearsal or case.run)(contestant))
    if not seconds:
        return 1
    await case.prepare(contestant)
    started = time.perf_counter()
    await case.run(contestant)
    took = time.perf_counter() - started
    return max(1, min(5_000, round(seconds / took)))


async def _sample(case: Case, contestant: Contestant, repeats: int) -> tuple[float, float]:
    """Seconds, and seconds of CPU, for one of what the case counts."""
    run = case.run
    elapsed = cpu = 0.0
    if case.prepares_each:
        for _ in range(repeats):
            await case.prepare(contestant)
            await asyncio.sleep(0)
            began, worked = time.perf_counter(), time.process_time()
            await run(contestant)
            elapsed += time.perf_counter() - began
            cpu += time.process_time() - worked
    else:
        await case.prepare(contestant)
        await run(contestant)
        began, worked = time.perf_counter(), time.process_time()
        for _ in range(repeats):
            await run(contestant)
        elapsed, cpu = time.perf_counter() - began, time.process_time() - worked
    count = repeats * case.count
    return elapsed / count, cpu / count
