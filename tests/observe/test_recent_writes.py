"""``Worker.writes``: the latest writes that a process has invalidated, for all other processes to see."""

import asyncio
import time
from collections.abc import Sequence

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.transactions import in_transaction

from aiomodelcache import BackendError, MemoryBackend, ModelCache
from aiomodelcache.backends.protocol import Clear
from aiomodelcache.observe.fleet import MAX_RECENT_WRITES, RecentWrite, decode_worker, encode_worker
from tests.support.models.models import Event, User

pytestmark = [
    pytest.mark.only_on("sqlite", because="writes are recorded above the database"),
    pytest.mark.only_on("memory", because="writes are recorded above the store"),
]


def latest(cache: ModelCache) -> RecentWrite:
    return cache.worker.writes[-1]


async def test_a_write_is_recorded_when_it_is_invalidated(cache: ModelCache) -> None:
    before = time.time()
    kim = await User.create(id=1, username="kim")
    assert (latest(cache).stage, latest(cache).caches, latest(cache).whole) == ("cleared", ("User",), False)
    assert before <= latest(cache).time <= time.time()
    assert latest(cache).keys > 1
    async with in_transaction():
        kim.username = "bo"
        await kim.save()
        await Event.create(id=1, slug="pycon", organizer=kim)
    assert len(cache.worker.writes) == 2, "a transaction is one"
    assert set(latest(cache).caches) >= {"User", "Event"}


async def test_a_write_that_is_rolled_back_is_not_recorded(cache: ModelCache) -> None:
    async def fail() -> None:
        async with in_transaction():
            await User.create(id=1, username="kim")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    assert cache.worker.writes == ()


async def test_clearing_a_model_says_that_everything_is_invalidated(cache: ModelCache) -> None:
    await cache.clear(User)
    assert (latest(cache).stage, latest(cache).whole) == ("cleared", True)
    assert "User" in latest(cache).caches


class Refusing(MemoryBackend):
    """A store that refuses clears while ``refuses`` is set."""

    refuses = True

    async def clear(self, clears: Sequence[Clear], token: bytes, stamps: Sequence[bytes] = ()) -> list[bool]:
        if self.refuses:
            raise BackendError("it refuses")
        return await super().clear(clears, token, stamps)


async def test_an_invalidation_that_cannot_be_sent_is_recorded_now_and_when_it_is_sent(
    database: BaseDBAsyncClient,
) -> None:
    store = Refusing()
    async with ModelCache(store, breaker_cooldown=0.01) as cache:
        await User.create(id=1, username="kim")
        assert [write.stage for write in cache.worker.writes] == ["undelivered"]
        store.refuses = False
        async with asyncio.timeout(20):
            while cache.open_cache.guarded.has_undelivered:
                await asyncio.sleep(0.01)
        assert [write.stage for write in cache.worker.writes] == ["undelivered", "delivered"]


async def test_the_oldest_are_forgotten_and_all_are_published(cache: ModelCache) -> None:
    for number in range(MAX_RECENT_WRITES + 5):
        await User.create(id=number + 1, username=str(number))
    own = cache.worker
    assert len(own.writes) == MAX_RECENT_WRITES
    assert decode_worker(encode_worker(own)) == own


async def test_a_worker_of_an_older_version_has_none(cache: ModelCache) -> None:
    await User.create(id=1, username="kim")
    data = encode_worker(cache.worker)
    older = data[: data.index(b',"writes"')] + b"}"
    found = decode_worker(older)
    assert found is not None
    assert (found.pid, found.writes) == (cache.worker.pid, ())
