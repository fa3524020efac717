"""Outages of the database: a lookup with ``stale_if_error`` fails only if there has never been a value."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import DBConnectionError
from tortoise.transactions import in_transaction

from aiomodelcache import InstanceCache, ModelCache, QuerysetCountCache, ResultCache, ValueCache, cached
from aiomodelcache.orm.outcomes import is_outage
from tests.support.databases import DatabaseUrl, tortoise_on
from tests.support.gates import PATIENCE, Outside
from tests.support.models.outage_models import Guest, Visit
from tests.support.servers import PostgresServer

MODULE = "tests.support.models.outage_models"
SECONDS = 1.0
"""Seconds for which the database is away."""


class Visits(QuerysetCountCache):
    model = Visit
    key_fields = ("guest",)
    stale_if_error = "5m"


class Last(InstanceCache[Visit | None]):
    model = Visit
    key_fields = ("guest",)
    stale_if_error = "5m"

    async def get_instance(self, guest: int) -> Visit | None:
        return await Visit.filter(guest_id=guest).order_by("-id").first()


class Places(ResultCache[list[str]]):
    model = Visit
    key_fields = ("guest",)
    stale_if_error = "5m"
    soft_timeout = 0.5

    async def get_result(self, guest: int) -> list[str]:
        return list(await Visit.filter(guest_id=guest).order_by("id").values_list("place", flat=True))


class Names(ValueCache[list[str]]):
    stale_if_error = "5m"

    async def get_value(self) -> list[str]:
        return [guest.name for guest in await Guest.all().order_by("id")]


@cached(stale_if_error="5m")
async def page(guest: Guest) -> list[str]:
    return [f"{guest.name} in {visit.place}" for visit in await Visit.filter(guest=guest).order_by("id")]


@cached(stale_if_error="5m")
async def summary(number: int) -> int:
    return len(await page(await Guest.cache.get(id=number)))


def of(guest: Guest) -> list[Callable[[], Coroutine[Any, Any, Any]]]:
    """Returns a lookup of each kind."""
    values = [Names(), page.query(guest), summary.query(guest.id)]
    return [query.resolve for query in (Visits(guest), Last(guest), Places(guest), *values)]


@pytest.mark.slow(because="it starts a database, and stops it for a second")
@pytest.mark.parametrize("store", ["memory", "redis"])
async def test_no_lookup_fails_that_had_a_value(
    store: str, own_postgres: PostgresServer, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue("own_redis").patient_url if store == "redis" else "memory://"
    async with tortoise_on(DatabaseUrl(own_postgres.url, "postgres"), MODULE), ModelCache(url) as cache:
        guests = [await Guest.create(id=number, name=f"g{number}") for number in range(3)]
        for guest in guests:
            await Visit.create(guest=guest, place="Rome")
        lookups = [lookup for guest in guests for lookup in of(guest)]
        before = [shown(await lookup()) for lookup in lookups]
        for guest in guests:
            await Visit.create(guest=guest, place="Oslo")
            await guest.save()

        own_postgres.stop()
        answered, until = 0, asyncio.get_running_loop().time() + SECONDS
        async with asyncio.timeout(PATIENCE):
            while asyncio.get_running_loop().time() < until or answered <= 100:
                answers = await asyncio.gather(*[lookup() for lookup in lookups])
                assert [shown(value) for value in answers] == before
                answered += len(answers)
        with pytest.raises((OSError, DBConnectionError)):  # nothing is known of this guest
            await Visits(99)
        counters = cache.stats.by_cache.values()  # a busy machine may be slower than the soft timeout of some
        assert sum(each.stale_if_error + each.stale_if_slow for each in counters) >= answered > 100

        own_postgres.restart()
        page_now = ["g0 in Rome", "g0 in Oslo"]
        now = [2, "Oslo", ["Rome", "Oslo"], ["g0", "g1", "g2"], page_now, 2]
        assert [shown(await lookup()) for lookup in lookups[: len(now)]] == now
        await Visit.create(guest=guests[0], place="Graz")
        assert await Places(0) == ["Rome", "Oslo", "Graz"]


@pytest.mark.slow(because="it starts a database, and stops it")
async def test_lookups_that_miss_together_fail_by_one_attempt(own_postgres: PostgresServer) -> None:
    async with tortoise_on(DatabaseUrl(own_postgres.url, "postgres"), MODULE), ModelCache("memory://") as cache:
        await Guest.create(id=1, name="kim")
        own_postgres.stop()
        found = await asyncio.gather(*[Guest.cache.get(id=number) for number in range(20)], return_exceptions=True)
        assert all(isinstance(error, Exception) and is_outage(error) for error in found), found
        assert cache.stats.statements == 1
        own_postgres.restart()
        assert (await Guest.cache.get(id=1)).name == "kim"


@pytest.mark.models(MODULE)
@pytest.mark.only_on("postgres", because="SQLite and MariaDB read past such a lock")
async def test_a_statement_that_hangs_costs_the_soft_timeout(
    cache: ModelCache, again: BaseDBAsyncClient, outside: Outside
) -> None:
    guest = await Guest.create(id=1, name="kim")
    await Visit.create(guest=guest, place="Rome")
    assert await Places(1) == ["Rome"]
    await Visit.create(guest=guest, place="Oslo")
    locked, release = asyncio.Event(), asyncio.Event()

    async def lock() -> None:
        async with in_transaction(again.connection_name) as locking:
            await locking.execute_query("LOCK TABLE visit IN ACCESS EXCLUSIVE MODE")
            locked.set()
            await release.wait()

    task = outside(lock())
    async with asyncio.timeout(PATIENCE):
        await locked.wait()
        assert await asyncio.gather(*[Places(1) for _ in range(50)]) == [["Rome"]] * 50
        assert await Places(1) == ["Rome"]
        release.set()
        await task
        while await Places(1) != ["Rome", "Oslo"]:
            await asyncio.sleep(0.01)
    assert cache.stats.by_cache["Places"].stale_if_slow >= 51


def shown(value: Any) -> Any:
    return value.place if isinstance(value, Visit) else value
