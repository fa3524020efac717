"""The keys of claims: equal for caches that a relay invalidates alike, and for no others."""

from collections.abc import Callable

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache import MemoryBackend, ModelCache
from aiomodelcache.entries.groups import GroupVersions
from aiomodelcache.entries.indexes import ExactListDependency, IndexEntries
from aiomodelcache.entries.model import ModelEntries
from aiomodelcache.entries.results import ResultEntries
from aiomodelcache.open_cache import OpenCache
from aiomodelcache.relay.liveness import liveness_keys
from tests.support.models.relayed_models import Article, Label, Note

pytestmark = [
    pytest.mark.models("tests.support.models.relayed_models"),
    pytest.mark.only_on("sqlite", because="the keys of claims are names alone"),
    pytest.mark.only_on("memory", because="the keys of claims are names alone"),
]


async def key_of(change: Callable[[OpenCache], object] = lambda cache: None, namespace: str = "") -> bytes:
    """Returns the key of the claim of a cache, after a change of its declarations."""
    async with ModelCache(MemoryBackend(), namespace=namespace) as cache:
        change(cache.open_cache)
        [key] = liveness_keys(cache.open_cache).values()
        return key


def entries_of(cache: OpenCache) -> ModelEntries:
    return cache.models[Article]


def without(attributes: tuple[str, ...], *kinds: type) -> Callable[[OpenCache], None]:
    """Returns a function that removes the entries of these kinds by these attributes."""

    def change(cache: OpenCache) -> None:
        entries = entries_of(cache)
        for entry_sets in (entries.indexes, entries.results):
            for each in [each for each in entry_sets if isinstance(each, kinds) and each.attributes == attributes]:
                entry_sets.remove(each)  # type: ignore[arg-type]

    return change


async def test_equal_declarations_have_the_same_key(database: BaseDBAsyncClient) -> None:
    assert await key_of() == await key_of()
    assert (await key_of()).startswith(b"amc:l:sqlite:")


CHANGES: dict[str, Callable[[OpenCache], object]] = {
    "a list is gone, whose columns others need": without(("author_id", "title"), IndexEntries, ExactListDependency),
    "a unique key is gone": without(("slug",), IndexEntries),
    "the groups are gone": without(("author_id",), GroupVersions),
    "a result is gone": without(("author_id",), ResultEntries),
    "a many-to-many list is gone": lambda cache: cache.many_to_many.pop(),
    "a model is not relayed": lambda cache: setattr(cache.models[Label].rows, "relayed", False),
}


@pytest.mark.parametrize("name", CHANGES)
async def test_other_keys_to_invalidate_have_another_key(database: BaseDBAsyncClient, name: str) -> None:
    assert await key_of(CHANGES[name]) != await key_of()


async def test_what_is_not_relayed_makes_no_difference(database: BaseDBAsyncClient) -> None:
    assert await key_of(lambda cache: cache.models.pop(Note)) == await key_of()


async def test_each_namespace_has_another_key(database: BaseDBAsyncClient) -> None:
    assert await key_of(namespace="shop") != await key_of()
