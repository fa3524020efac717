"""Nothing is stale, lost or left behind, in whatever order things happen and wherever a caller is cancelled.

A failure prints the choices that led to it; ``python -m tests.protocol.interleavings SCENARIO --choices ...`` replays
them.
``AIOMODELCACHE_SEED`` is the first seed of the random schedules; ``AIOMODELCACHE_SCHEDULES`` is how many times as many
there are, and from 10 on the systematic ones have one preemption more.
"""

import os
from functools import partial

import pytest

from tests.protocol.interleavings.scenarios import SCENARIOS
from tests.protocol.interleavings.schedule import all_within, at_random, cancelled_everywhere, failing_everywhere
from tests.protocol.interleavings.stage import Stage

pytestmark = pytest.mark.exhaustive(because="plays every scenario in every order")

SEED = int(os.environ.get("AIOMODELCACHE_SEED", "0"))
TIMES = int(os.environ.get("AIOMODELCACHE_SCHEDULES", "1"))
PREEMPTIONS = 1 if TIMES < 10 else 2
RANDOM = 5


@pytest.mark.parametrize("name", SCENARIOS)
async def test_any_order(name: str, stage: Stage) -> None:
    run = partial(SCENARIOS[name].play, stage)
    async for _ in all_within(run, PREEMPTIONS):
        pass
    print(f"seeds from {SEED}")
    for seed in range(SEED, SEED + RANDOM * TIMES):
        await run(at_random(seed), None)


@pytest.mark.parametrize("name", [name for name, scenario in SCENARIOS.items() if scenario.cancels])
async def test_cancelled_anywhere(name: str, stage: Stage) -> None:
    run = partial(SCENARIOS[name].play, stage)
    bases = [base async for base in all_within(run, 0)]
    for base in bases if TIMES >= 10 or len(bases) <= 2 else bases[:1]:
        async for _ in cancelled_everywhere(run, base):
            pass


@pytest.mark.parametrize("name", SCENARIOS)
async def test_failing_anywhere(name: str, stage: Stage) -> None:
    """The store cannot be reached once, or its answer is lost."""
    run = partial(SCENARIOS[name].play, stage)
    bases = [base async for base in all_within(run, 0)]
    for base in bases if TIMES >= 10 else bases[:1]:
        async for _ in failing_everywhere(run, base):
            pass
