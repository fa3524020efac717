"""``python -m soak.cluster``: no lookup returns an old row while nodes of a Cluster fail over."""

import asyncio
from pathlib import Path

import pytest

from soak.cluster import soak
from tests.support.servers import RedisServer

pytestmark = pytest.mark.exhaustive(because="nodes fail over under load, again and again")


@pytest.mark.slow(because="nodes fail over, and come back as replicas")
def test_no_lookup_returns_an_old_row(redis_server: RedisServer, tmp_path: Path) -> None:
    # ``redis_server`` skips where there is no Redis.
    run = asyncio.run(soak(6, 1, tmp_path))
    assert run.failovers >= 1
    assert run.reads
    assert run.writes
    assert run.violations == []
