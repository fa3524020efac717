"""``python -m soak.outage``: no request fails that had a value, and without ``stale_if_error`` some do."""

import asyncio

import pytest

from soak.outage import ALLOWED, outage
from tests.support.servers import PostgresServer, RedisServer


@pytest.mark.exhaustive(because="soaks while a database is away")
@pytest.mark.slow(because="it stops a database for a second")
@pytest.mark.parametrize("stale_if_error", [ALLOWED, None])
def test_no_request_fails_that_had_a_value(
    stale_if_error: str | None, own_postgres: PostgresServer, own_redis: RedisServer
) -> None:
    outcome = asyncio.run(
        outage(own_postgres, own_redis.patient_url, seconds=1, readers=8, stale_if_error=stale_if_error)
    )
    assert outcome.requests["during"], str(outcome)
    assert outcome.requests["after"], str(outcome)
    assert bool(outcome.failed.total()) is (stale_if_error is None), str(outcome)
    assert bool(outcome.stale) is (stale_if_error is not None), str(outcome)
