"""No schedule of a scenario leaves anything stale, lost or unfinished, even with a cancelled actor or a failing store.

A failure prints the choices that led to it, and ``python -m tests.protocol.interleavings SCENARIO --choices ...``
replays them. ``AIOMODELCACHE_SEED`` is the first seed of the random schedules. With all effort, there are ten times as
many of them, the systematic schedules have one more preemption, and each test has all scenarios, not a sixth of them.
"""

import os
from functools import partial

import pytest

from tests.protocol.interleavings.scenarios import SCENARIOS
from tests.protocol.interleavings.schedule import all_within, at_random, cancelled_everywhere, failing_everywhere
from tests.protocol.interleavings.stage import Stage
from tests.support.effort import FULL, SHARE, share

pytestmark = pytest.mark.exhaustive(because="plays every scenario in every order")

SEED = int(os.environ.get("AIOMODELCACHE_SEED", "0"))
PREEMPTIONS = 2 if FULL else 1
RANDOM = 50 // SHARE


@pytest.mark.parametrize("name", share(SCENARIOS, one_in=6))
async def test_a_scenario_is_correct_in_any_order(name: str, stage: Stage) -> None:
    run = partial(SCENARIOS[name].play, stage)
    async for _ in all_within(run, PREEMPTIONS):
        pass
    print(f"seeds from {SEED}")
    for seed in range(SEED, SEED + RANDOM):
        await run(at_random(seed), None)


@pytest.mark.parametrize("name", share([name for name, each in SCENARIOS.items() if each.cancels], one_in=6))
async def test_a_scenario_is_correct_with_an_actor_cancelled_at_any_step(name: str, stage: Stage) -> None:
    run = partial(SCENARIOS[name].play, stage)
    bases = [base async for base in all_within(run, 0)]
    for base in bases if FULL or len(bases) <= 2 else bases[:1]:
        async for _ in cancelled_everywhere(run, base):
            pass


@pytest.mark.parametrize("name", share(SCENARIOS, one_in=6))
async def test_a_scenario_is_correct_with_the_store_failing_at_any_step(name: str, stage: Stage) -> None:
    """One operation does not reach the store, or its reply is lost."""
    run = partial(SCENARIOS[name].play, stage)
    bases = [base async for base in all_within(run, 0)]
    for base in bases if FULL else bases[:1]:
        async for _ in failing_everywhere(run, base):
            pass
