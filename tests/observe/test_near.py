"""Lookups that near entries answer, and the removal of these entries."""

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache import BatchCacheQuery, ModelCache, cached
from aiomodelcache.observe import Lookup, NearChange, RoundTrip
from tests.observe.recorder import Recorder
from tests.support.gates import until
from tests.support.models.models import User

pytestmark = [
    pytest.mark.only_on("redis", because="near entries need a server that reports changes"),
    pytest.mark.only_on("sqlite", because="near entries are bytes of a store"),
]


async def test_near_answers_are_told_from_hits_and_have_no_request(
    database: BaseDBAsyncClient, backend_url: str, recorder: Recorder
) -> None:
    @cached
    async def team() -> int:
        return (await User.cache.get(username="kim")).team

    async with ModelCache(backend_url, observers=[recorder], near=True, near_lag=60.0):
        user = await User.create(username="kim")
        for _ in range(2):
            await User.cache.get(id=user.id)
            await User.cache.get(username="kim")
        recorder.clear()
        await User.cache.get(id=user.id)
        await BatchCacheQuery(user=User.cache.get(id=user.id), same=User.cache.get(username="kim"))
        assert [each.outcome for each in recorder.operations(Lookup)] == ["near"] * 3
        assert all(each.size for each in recorder.operations(Lookup)[1:])
        assert recorder.operations(RoundTrip) == []
        await team()
        outcomes = [(each.kind, each.outcome) for each in recorder.operations(Lookup)[3:]]
        assert outcomes == [("GetQuery", "hit"), ("ValueQuery", "miss")]  # tokens are read from the store


async def test_removals_say_why(database: BaseDBAsyncClient, backend_url: str, recorder: Recorder) -> None:
    async with (
        ModelCache(backend_url, observers=[recorder], near=True, near_lag=60.0) as ours,
        ModelCache(backend_url, namespace="") as other,
    ):
        user = await User.create(username="kim")
        for _ in range(2):
            await User.cache.get(id=user.id)
        assert recorder.noted(NearChange) == []
        await other.manager(User).clear()
        await until(lambda: bool(recorder.noted(NearChange)))
        assert {each.kind for each in recorder.noted(NearChange)} == {"invalidated"}
        for _ in range(2):
            await User.cache.get(id=user.id)
        ours.open_cache.guarded.near.lost()
        assert recorder.noted(NearChange)[-1] == NearChange(kind="dropped", keys=2)
