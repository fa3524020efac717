"""``python -m soak.tags``: no read of a tagged value is stale, and an invalidation before the write is caught."""

import pytest

from soak import tags
from tests.support.servers import RedisServer


@pytest.mark.exhaustive(because="soaks: reads thousands of values beside writes")
@pytest.mark.slow(because="it starts processes that read thousands of values")
@pytest.mark.parametrize("early", [False, True], ids=["after the write", "before the write"])
def test_reads_beside_invalidations_by_tag(early: bool, own_redis: RedisServer) -> None:
    url = own_redis.url.rpartition("/")[0]
    result = tags.run(url, reads=10_000, processes=2, early=early)
    assert result.reads >= 10_000
    assert result.writes
    assert bool(result.stale) is early
