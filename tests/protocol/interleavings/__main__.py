"""``python -m tests.protocol.interleavings SCENARIO [--choices 1,0,2 | --seed N] [--cancel STEP ACTOR | --fail STEP]``.

``python -m tests.protocol.interleavings --seconds 600 [--seed N] [--match WORD]`` plays them all, or those with a word
in their names, in random orders, each order once more with somebody cancelled, and once more with the store failing.

Plays one scenario again, and prints what happened: by the choices that a failure has printed, from a seed, or else in
every order with so many preemptions (2). Without a scenario it prints their names.
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

PORTION = 20
"""Seeds for one scenario at a time."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.protocol.interleavings")
    parser.add_argument("scenario", nargs="?")
    parser.add_argument("--choices", help="numbers with commas between")
    parser.add_argument(
        "--cancel", nargs=2, metavar=("STEP", "ACTOR"), help="cancel an actor at a step of these choices"
    )
    parser.add_argument("--fail", type=int, metavar="STEP", help="have the store fail at this step")
    parser.add_argument("--done", action="store_true", help="when what is sent then is done, but not answered")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--seconds", type=float, help="play all scenarios in random orders for so long")
    parser.add_argument("--match", default="", help="all scenarios that have this in their names")
    parser.add_argument("--preemptions", type=int, default=2)
    asked = parser.parse_args()
    if asked.seconds:
        names = [name for name in SCENARIOS if asked.match in name]
        asyncio.run(_explore(names, asked.seconds, asked.seed or 0))
        return
    if asked.scenario not in SCENARIOS:
        print(*SCENARIOS, sep="\n")
        return
    choose: Choose | None = None
    if asked.choices:
        choose = following(tuple(map(int, asked.choices.split(","))))
    elif asked.seed is not None:
        choose = at_random(asked.seed)
    mishap: Mishap = None
    if asked.cancel:
        mishap = Cancel(int(asked.cancel[0]), asked.cancel[1], asked.done)
    elif asked.fail is not None:
        mishap = Fail(asked.fail, asked.done)
    asyncio.run(_play(asked.scenario, choose, mishap, asked.preemptions))


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
            print(f"{number} schedules with at most {preemptions} preemptions: nothing is wrong")


async def _explore(names: list[str], seconds: float, seed: int) -> None:
    until, runs = time.monotonic() + seconds, 0
    logging.disable()
    while time.monotonic() < until:
        for name in names:
            with tempfile.TemporaryDirectory() as folder:
                async with stage(Path(folder), SCENARIOS[name].world) as opened:
                    for each in range(seed, seed + PORTION):
                        runs += await _mishaps(name, partial(SCENARIOS[name].play, opened), each)
        seed += PORTION
    print(f"{runs} runs, seeds below {seed}: nothing is wrong")


async def _mishaps(name: str, run: Runner, seed: int) -> int:
    """One random order, and the same with mishaps. Returns how many runs it were."""
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
