"""The keys of a divided cache, as operators see them."""

from collections.abc import AsyncIterator, Mapping, Sequence

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache import MemoryBackend, ModelCache
from aiomodelcache.backends.partitioned import partitions
from aiomodelcache.backends.protocol import NOTHING_ALLOWED, Backend, Clear, ReplacedEntry
from aiomodelcache.entries.groups import GroupVersions
from aiomodelcache.inspection.keyspace import KeyMap
from aiomodelcache.inspection.own_store import store_of
from aiomodelcache.inspection.survey import survey_keys
from aiomodelcache.testing.conformance import new_value, put
from tests.support.divided import DividedMemory
from tests.support.models.derived_models import Organizer, Seat, Tag

pytestmark = [
    pytest.mark.models("tests.support.models.derived_models"),
    pytest.mark.only_on("no store", because="its store is its own"),
    pytest.mark.only_on("sqlite", because="it is about the store"),
]


@pytest.fixture
async def cache(database: BaseDBAsyncClient) -> AsyncIterator[ModelCache]:
    async with ModelCache(DividedMemory()) as opened:
        yield opened


async def test_the_versions_of_groups_are_known(cache: ModelCache) -> None:
    key_map = KeyMap(cache.open_cache)
    [groups] = [each for each in cache.open_cache.entries_of(Seat).results if isinstance(each, GroupVersions)]
    for value in [None, *range(50)]:
        place = key_map.place(groups.key((value,)))
        assert place is not None
        assert (place.kind, place.owner) == ("group version", "Seat")


async def test_foreign_keys_among_the_entries_are_unknown(cache: ModelCache) -> None:
    await Organizer.create(id=1, name="one")
    await Organizer.cache.get(id=1)
    opened, rows = cache.open_cache, cache.open_cache.entries_of(Organizer).rows
    own, foreign = rows.key(1), [rows.prefix + end for end in (b"i7", b"", b"{7", b"i{", b"{12abc}:i7")]
    for key in foreign:
        await put(cache.backend, key, new_value())
    key_map = KeyMap(opened)
    async with store_of(cache.backend) as store:
        assert store is not None
        found = {each.key: each.state async for chunk in survey_keys(opened, store, key_map) for each in chunk}
    assert found[own] == "hit"
    assert {found[key] for key in foreign} == {"unknown"}


class Wrapper:
    """A backend of a user's own around another one. Says nothing about partitions."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.open, self.close = backend.open, backend.close
        self.read, self.lease, self.fill = backend.read, backend.lease, backend.fill
        self.mark, self.clear, self.delete = backend.mark, backend.clear, backend.delete


async def test_a_wrapper_names_the_keys_of_the_backend_inside(database: BaseDBAsyncClient) -> None:
    store = DividedMemory()
    keys: list[bytes] = []
    for backend in (store, Wrapper(store), Wrapper(Wrapper(store))):
        async with ModelCache(backend) as cache:
            keys.append(cache.open_cache.entries_of(Organizer).rows.key(7))
    assert keys == keys[:1] * 3
    assert partitions(Wrapper(MemoryBackend())) == 1


class Counted(DividedMemory):
    """A store that counts the keys of each mark, and the keys and stamps of each clear."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: list[tuple[str, int]] = []

    async def mark(
        self, keys: Sequence[bytes], token: bytes, ttl_ms: int, allow_ms: Mapping[bytes, int] = NOTHING_ALLOWED
    ) -> dict[bytes, ReplacedEntry]:
        self.counts.append(("mark", len(keys)))
        return await super().mark(keys, token, ttl_ms, allow_ms)

    async def clear(self, clears: Sequence[Clear], token: bytes, stamps: Sequence[bytes] = ()) -> list[bool]:
        self.counts += ("clear", len(clears)), ("stamps", len(stamps))
        return await super().clear(clears, token, stamps)


@pytest.mark.parametrize(("tenant", "counts"), [("acme", (2, 2, 1)), (None, (257, 257, 256))])
async def test_a_save_outside_of_any_tenant_sends_all_partitions(
    tenant: str | None, counts: tuple[int, int, int], database: BaseDBAsyncClient
) -> None:
    """The figures of docs/decisions/partitions.md."""
    store = Counted()
    async with ModelCache(store, tenant=lambda: tenant):
        tag = await Tag.create(id=1, name="one")
        store.counts.clear()
        tag.name = "other"
        await tag.save()
    assert store.counts == list(zip(("mark", "clear", "stamps"), counts, strict=True))
