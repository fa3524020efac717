"""A cache with an observer that keeps what it is told."""

from collections.abc import AsyncIterator

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache import ModelCache
from aiomodelcache.testing import CountingBackend
from tests.observe.recorder import Recorder
from tests.support.models.models import Event, State, User


@pytest.fixture
def recorder() -> Recorder:
    """The observer of ``cache``."""
    return Recorder()


@pytest.fixture
async def cache(database: BaseDBAsyncClient, backend: CountingBackend, recorder: Recorder) -> AsyncIterator[ModelCache]:
    """An open cache with an observer."""
    async with ModelCache(backend, observers=[recorder]) as opened:
        yield opened


@pytest.fixture
async def event(cache: ModelCache, recorder: Recorder) -> Event:
    """A row whose writes the observer has forgotten."""
    kim = await User.create(username="kim")
    event = await Event.create(slug="pycon", organizer=kim, state=State.OPEN)
    recorder.clear()
    return event
