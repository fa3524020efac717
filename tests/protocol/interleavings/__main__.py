"""``python -m tests.protocol.interleavings SCENARIO [--choices 1,0,2 | --seed N] [--cancel STEP ACTOR | --fail STEP]``.

``python -m tests.protocol.interleavings --seconds 600 [--seed N] [--match WORD]`` plays all scenarios, or those with a
word in their names, in random orders. Each order is repeated with a cancelled actor and with a failing store.

The first form plays one scenario and prints its steps: by the choices that a failure has printed, from a seed, or else
in every order with at most two preemptions. Without a scenario it prints the names of all scenarios.
"""

import argparse
import asyncio
import logging
import random
import tempfile
import time
from functools import partial
from pathlib import Path

from tests.protocol.interleavings.scenarios import SCENARIOS
from tests.protocol.interleavings.schedule import Cancel, Choose, Fail, Mishap, Runner, all_within, at_random, following
from tests.protocol.interleavings.stage import stage

SEEDS_AT_ONCE = 20
"""The number of seeds that one scenario is played with before the next scenario."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.protocol.interleavings")
    parser.add_argument("scenario", nargs="?")
    parser.add_argument("--choices", help="the numbers of the choices, separated by commas")
    parser.add_argument(
        "--cancel", nargs=2, metavar=("STEP", "ACTOR"), help="cancel an actor at a step of these choices"
    )
    parser.add_argument("--fail", type=int, metavar="STEP", help="let the store fail at this step")
    parser.add_argument(
        "--done", action="store_true", help="let the operation at that step take effect and lose only its reply"
    )
    parser.add_argument("--seed", type=int)
    parser.add_argument("--seconds", type=float, help="play all scenarios in random orders for this time")
    parser.add_argument("--match", default="", help="play only scenarios with this word in their names")
    parser.add_argument("--preemptions", type=int, default=2)
    options = parser.parse_args()
    if options.seconds:
        names = [name for name in SCENARIOS if options.match in name]
        asyncio.run(_explore(names, options.seconds, options.seed or 0))
        return
    if options.scenario not in SCENARIOS:
        print(*SCENARIOS, sep="\n")
        return
    choose: Choose | None = None
    if options.choices:
        choose = following(tuple(map(int, options.choices.split(","))))
    elif options.seed is not None:
        choose = at_random(options.seed)
    mishap: Mishap = None
    if options.cancel:
        mishap = Cancel(int(options.cancel[0]), options.cancel[1], options.done)
    elif options.fail is not None:
        mishap = Fail(options.fail, options.done)
    asyncio.run(_play(options.scenario, choose, mishap, options.preemptions))


async def _play(name: str, choose: Choose | None, mishap: Mishap, preemptions: int) -> None:
    scenario = SCENARIOS[name]
    with tempfile.TemporaryDirectory() as folder:
        async with stage(Path(folder), scenario.world) as opened:
            run = partial(scenario.play, opened)
            if choose is not None:
                print(await run(choose, mishap))
                return
            number = 0
            async for _ in all_within(run, preemptions):
                number += 1
            print(f"{number} schedules with at most {preemptions} preemptions: no failure")


async def _explore(names: list[str], seconds: float, seed: int) -> None:
    until, runs = time.monotonic() + seconds, 0
    logging.disable()
    while time.monotonic() < until:
        for name in names:
            with tempfile.TemporaryDirectory() as folder:
                async with stage(Path(folder), SCENARIOS[name].world) as opened:
                    for number in range(seed, seed + SEEDS_AT_ONCE):
                        runs += await _mishaps(name, partial(SCENARIOS[name].play, opened), number)
        seed += SEEDS_AT_ONCE
    print(f"{runs} runs, seeds below {seed}: no failure")


async def _mishaps(name: str, run: Runner, seed: int) -> int:
    """Plays one random order, and the same order with mishaps. Returns the number of runs."""
    chance = random.Random(seed)
    base = await run(at_random(seed), None)
    choose = following(tuple(base.choices))
    mishaps: list[Mishap] = []
    steps = [number for number, alive in enumerate(base.alive) if alive]
    if SCENARIOS[name].cancels and steps:
        step = chance.choice(steps)
        actor, own = chance.choice(base.alive[step])
        mishaps.append(Cancel(step, actor, own and chance.random() < 0.5))
    can_fail = [number for number, can in enumerate(base.can_fail) if can]
    if can_fail:
        mishaps.append(Fail(chance.choice(can_fail), chance.random() < 0.5))
    for mishap in mishaps:
        try:
            await run(choose, mishap)
        except BaseException as error:
            error.add_note(f"{name}: seed {seed}, {mishap}")
            raise
    return 1 + len(mishaps)


if __name__ == "__main__":
    main()
