"""``freeze_gc``: the collector leaves alone the objects that exist when a cache opens, until it closes."""

import gc
import weakref
from collections.abc import Iterator

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache import BackendError, ModelCache
from tests.support.models.models import User
from tests.support.servers.server import free_port

pytestmark = pytest.mark.only_on("sqlite", because="no database changes what the collector does")


class Node:
    """An object that only the collector ends."""

    itself: "Node"


@pytest.fixture(autouse=True)
def nothing_frozen() -> Iterator[None]:
    """Begins without frozen objects, and freezes again what tests/conftest.py has frozen, which saves time."""
    gc.unfreeze()
    yield
    gc.unfreeze()
    gc.freeze()


async def test_what_exists_is_frozen_until_the_cache_closes(database: BaseDBAsyncClient, backend_url: str) -> None:
    held = [object() for _ in range(10)]
    async with ModelCache(backend_url, freeze_gc=True):
        assert gc.get_freeze_count() > 1_000
        assert not any(each is held for each in gc.get_objects())
        await User.create(username="kim")
        assert (await User.cache.get(username="kim")).username == "kim"
    assert gc.get_freeze_count() == 0
    assert any(each is held for each in gc.get_objects())


@pytest.mark.parametrize("first", [0, 1])
async def test_what_exists_is_frozen_until_the_last_cache_closes(
    database: BaseDBAsyncClient, backend_url: str, first: int
) -> None:
    caches = [ModelCache(backend_url, namespace=name, freeze_gc=True) for name in ("one", "two")]
    for cache in caches:
        await cache.open()
    held = [object() for _ in range(10)]
    await caches[first].close()
    await caches[first].close()
    assert gc.get_freeze_count() > 1_000
    async with caches[first]:
        assert not any(each is held for each in gc.get_objects())
    assert gc.get_freeze_count() > 1_000
    await caches[1 - first].close()
    assert gc.get_freeze_count() == 0


async def test_garbage_is_collected_before(database: BaseDBAsyncClient, backend_url: str) -> None:
    """Frozen garbage would never be collected."""
    gc.disable()
    try:
        node = Node()
        node.itself, alive = node, weakref.ref(node)
        del node
        async with ModelCache(backend_url, freeze_gc=True):
            assert alive() is None
    finally:
        gc.enable()


async def test_nothing_is_frozen_by_default(database: BaseDBAsyncClient, backend_url: str) -> None:
    async with ModelCache(backend_url):
        assert gc.get_freeze_count() == 0


async def test_what_the_application_froze_stays_frozen(database: BaseDBAsyncClient, backend_url: str) -> None:
    gc.freeze()
    async with ModelCache(backend_url, freeze_gc=True):
        pass
    assert gc.get_freeze_count() > 1_000


@pytest.mark.only_on("no store", because="its store does not exist")
async def test_a_cache_that_cannot_open_freezes_nothing(database: BaseDBAsyncClient) -> None:
    with pytest.raises(BackendError):
        await ModelCache(f"redis://127.0.0.1:{free_port()}/0", freeze_gc=True, require_backend=True).open()
    assert gc.get_freeze_count() == 0


async def test_a_cache_can_be_opened_and_closed_again(database: BaseDBAsyncClient, backend_url: str) -> None:
    cache = ModelCache(backend_url, freeze_gc=True)
    for _ in range(2):
        async with cache:
            assert gc.get_freeze_count() > 1_000
        assert gc.get_freeze_count() == 0
    await cache.close()
