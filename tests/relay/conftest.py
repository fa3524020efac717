"""Fixtures of the tests about relays."""

from collections.abc import AsyncIterator

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache import ModelCache
from aiomodelcache.testing import CountingBackend
from tests.relay.capture import StreamCapture, TriggerCapture, drop_slots


@pytest.fixture
def capture() -> TriggerCapture:
    """Triggers, unless a module has another way."""
    return TriggerCapture()


@pytest.fixture
async def stream_capture(database: BaseDBAsyncClient, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[StreamCapture]:
    """Logical decoding, for relays that do not wait for each other."""
    monkeypatch.setattr("aiomodelcache.relay.stream.lines.TAKE_OVER", 0.05)
    yield StreamCapture()
    await drop_slots(database)


@pytest.fixture
async def cache(
    database: BaseDBAsyncClient, backend: CountingBackend, capture: TriggerCapture
) -> AsyncIterator[ModelCache]:
    """An open cache over the test's database and store, counted: see ``assert_ops``."""
    async with ModelCache(backend, **capture.settings) as opened:
        yield opened
