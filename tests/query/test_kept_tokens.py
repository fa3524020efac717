"""Refresh-ahead keeps the token of an entry that says the same as before, so what depends on it stays valid."""

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache import ModelCache, cached
from aiomodelcache.encoding.layout import ABSENT, PREFIX_SIZE, STALE, VALUE, created_ms, pack_entry, with_kept_token
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.models.derived_models import Happening, Organizer
from tests.write.test_stale import until_idle

pytestmark = pytest.mark.models("tests.support.models.derived_models")

HOUR = 3600


@cached
async def level() -> int:
    return (await Happening.cache.get(pk=1)).level


@cached
async def levels() -> list[int]:
    return [row.level for row in await Happening.cache.filter(organizer=1)]


@cached
async def stated() -> int:
    return await Happening.filter(level=1).count()


@cached
async def missing() -> bool:
    return await Happening.cache.get_or_none(pk=9) is None


INNER: dict[str, Any] = {"row": level, "list": levels, "statement": stated, "absence": missing}


@cached
async def outer(inner: str) -> Any:
    return await INNER[inner]()


@pytest.fixture(autouse=True)
def attentive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Computes the refresh threshold with each read instead of once a second."""
    monkeypatch.setattr("aiomodelcache.engine.background.THRESHOLD_REFRESH_INTERVAL", 0.0)


@pytest.fixture
async def cache(database: BaseDBAsyncClient, backend: CountingBackend) -> AsyncIterator[ModelCache]:
    await Organizer.create(id=1, name="kim")
    await Happening.bulk_create([Happening(id=n, slug=f"h{n}", level=1, organizer_id=1) for n in (1, 2)])
    async with ModelCache(backend, timeout=HOUR, negative_timeout=HOUR) as opened:
        yield opened


@contextmanager
def long_ago() -> Iterator[None]:
    """Stores entries inside the block as if that were in the last tenth of an hour's end."""
    now = time.time
    with patch("aiomodelcache.entries.base.time.time", lambda: now() - HOUR * 0.95):
        yield


def refreshed(cache: ModelCache) -> bool:
    return any(cache.stats.of(name).refreshed for name in ("Happening", "Happening(organizer)"))


async def held(cache: ModelCache, query: Any) -> bytes:
    _, key = query.locate(cache.open_cache)
    [entry] = await cache.backend.read([key])
    assert entry is not None
    return entry


LOOKUPS: dict[str, Any] = {
    "row": lambda: Happening.cache.get(pk=1).resolve(),
    "list": lambda: Happening.cache.filter(organizer=1).resolve(),
    "absence": lambda: Happening.cache.get_or_none(pk=9).resolve(),
}


@pytest.mark.parametrize("name", LOOKUPS)
async def test_what_depends_on_a_refreshed_lookup_stays_valid(
    cache: ModelCache, backend: CountingBackend, name: str
) -> None:
    with long_ago():
        await LOOKUPS[name]()
    before = await INNER[name]()
    assert not refreshed(cache)
    await until_idle(cache)
    assert refreshed(cache)
    async with assert_ops(backend, redis=["read"], sql=0):
        assert await INNER[name]() == before


@pytest.mark.parametrize("name", INNER)
async def test_what_depends_on_a_refreshed_result_stays_valid(
    cache: ModelCache, backend: CountingBackend, name: str
) -> None:
    with long_ago():
        await INNER[name]()
    old = await held(cache, INNER[name].query())
    before = await outer(name)
    await until_idle(cache)
    new = await held(cache, INNER[name].query())
    assert created_ms(new) > created_ms(old)
    assert new[:PREFIX_SIZE] == old[:PREFIX_SIZE]
    async with assert_ops(backend, redis=["read"], sql=0):
        assert await outer(name) == before


async def test_a_refresh_that_finds_a_change_invalidates_what_depends_on_it(
    cache: ModelCache, database: BaseDBAsyncClient
) -> None:
    with long_ago():
        await level()
    await database.execute_query("UPDATE happening SET level = 5 WHERE id = 1")  # unnoticed, so a refresh finds it
    assert await outer("row") == 1
    await until_idle(cache)
    assert [await level(), await outer("row")] == [5, 5]


def test_only_an_entry_that_says_the_same_keeps_the_token() -> None:
    old = pack_entry(VALUE, b"o" * 16, b"g" * 24, 1, b"content")
    kept = pack_entry(VALUE, b"o" * 16, b"g" * 24, 2, b"content")
    assert with_kept_token(pack_entry(VALUE, b"n" * 16, b"g" * 24, 2, b"content"), old) == kept
    for state, guard, payload in (
        (VALUE, b"g" * 24, b"other"),
        (VALUE, b"h" * 24, b"content"),
        (ABSENT, b"g" * 24, b"content"),
    ):
        new = pack_entry(state, b"n" * 16, guard, 2, payload)
        assert with_kept_token(new, old) == new
    stale = pack_entry(STALE, b"o" * 16, b"g" * 24, 0, b"content")
    for new in (pack_entry(STALE, b"n" * 16, b"g" * 24, 0, b"content"), b""):
        assert with_kept_token(new, stale) == new
