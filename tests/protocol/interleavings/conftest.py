"""The fixture for the stage of a scenario, which a test selects by name."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.protocol.interleavings.scenarios import SCENARIOS
from tests.protocol.interleavings.stage import Stage, stage


@pytest.fixture(name="stage")
async def opened(name: str, tmp_path: Path) -> AsyncIterator[Stage]:
    async with stage(tmp_path, SCENARIOS[name].world) as made:
        yield made
