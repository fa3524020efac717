"""``python -m tests.interleavings SCENARIO [--choices 1,0,2 | --seed N] [--cancel STEP ACTOR | --fail STEP]``.

Plays one scenario again, and prints what happened: by the choices that a failure has printed, from a seed, or else in
every order with so many preemptions (2). Without a scenario it prints their names.
"""

import argparse
import asyncio
import tempfile
from functools import partial
from pathlib import Path

from tests.interleavings.scenarios import SCENARIOS
from tests.interleavings.schedule import Cancel, Choose, Fail, Mishap, all_within, at_random, following
from tests.interleavings.stage import stage


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.interleavings")
    parser.add_argument("scenario", nargs="?")
    parser.add_argument("--choices", help="numbers with commas between")
    parser.add_argument(
        "--cancel", nargs=2, metavar=("STEP", "ACTOR"), help="cancel an actor at a step of these choices"
    )
    parser.add_argument("--fail", type=int, metavar="STEP", help="have the store fail at this step")
    parser.add_argument("--done", action="store_true", help="when what is sent then is done, but not answered")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--preemptions", type=int, default=2)
    asked = parser.parse_args()
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


if __name__ == "__main__":
    main()
