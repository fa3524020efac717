"""Interleaved rounds: each round runs every case of every contestant once, so that noise affects all alike."""

import asyncio
import gc
import random
import sys
import time
from collections.abc import Sequence

from benchmarks.cases import Case
from benchmarks.contestants import Contestant
from benchmarks.results import PlaceResults

ComparedCase = tuple[Case, Contestant]


async def run_rounds(
    cases: Sequence[Case], contestants: Sequence[Contestant], rounds: int, seconds: float, into: PlaceResults
) -> None:
    """Measures all pairs of a case and a contestant that can do it. One sample takes about ``seconds``, or one run.

    Before anything is timed, the answers of each pair are compared with the catalogue.
    """
    pairs = [(case, contestant) for case in cases for contestant in contestants if case.fits(contestant)]
    repeats = {(case.name, contestant.name): await _rehearse(case, contestant, seconds) for case, contestant in pairs}
    gc.collect()
    gc.freeze()  # so that garbage of one contestant is cheap to collect and does not slow the others down
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


def _order(pairs: list[ComparedCase], number: int) -> list[ComparedCase]:
    """Returns the pairs in the order of the cases. The contestants of a case have another order each round."""
    chance = random.Random(number)
    shuffled = chance.sample(pairs, len(pairs))
    places = {case.name: at for at, (case, _) in enumerate(pairs)}
    return sorted(shuffled, key=lambda pair: places[pair[0].name])


async def _rehearse(case: Case, contestant: Contestant, seconds: float) -> int:
    """Checks the answers, warms up, and returns the number of repetitions for one sample."""
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
    """Returns seconds, and seconds of CPU time, for one of the operations that the case counts."""
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
