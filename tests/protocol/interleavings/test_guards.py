"""Each guard of the library is needed: without it, some schedule fails."""

from functools import partial
from pathlib import Path

import pytest

from tests.protocol.interleavings.guards import GUARDS
from tests.protocol.interleavings.scenarios import SCENARIOS
from tests.protocol.interleavings.schedule import all_within, cancelled_everywhere, failing_everywhere
from tests.protocol.interleavings.stage import Stage, stage
from tests.support.effort import share

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.exhaustive(because="plays scenarios until one fails")]
"""A library without a guard may cause any warning."""


@pytest.mark.parametrize("name", share(GUARDS))
async def test_some_schedule_fails_without_the_guard(name: str, tmp_path: Path) -> None:
    guard = GUARDS[name]
    with guard.removed():
        async with stage(tmp_path, SCENARIOS[guard.scenario].world) as opened:
            failure = await _failure(opened, guard.scenario)
    assert failure is not None, f"no schedule of {guard.scenario!r} fails without the guard: {name}"
    print(f"Without the guard {name!r}: {failure}", *getattr(failure, "__notes__", ()), sep="\n")


async def _failure(stage: Stage, name: str) -> Exception | None:
    run = partial(SCENARIOS[name].play, stage)
    try:
        async for base in all_within(run, 0):
            async for _ in cancelled_everywhere(run, base):
                pass
            async for _ in failing_everywhere(run, base):
                pass
        async for _ in all_within(run, 3):
            pass
    except Exception as error:
        return error
    return None
