"""Lookups that miss together: one plan finds their rows, and no lookup notices the others."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import DoesNotExist, OperationalError

from aiomodelcache import BatchCacheQuery, ModelCache, writes_without_cache
from aiomodelcache.backends.protocol import Fill, Lease
from aiomodelcache.encoding.layout import LEASE, new_token
from aiomodelcache.orm.meta import meta_of
from aiomodelcache.query.lookups import GetQuery
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.gates import awaited
from tests.support.instructions import instructions
from tests.support.models.field_models import Keyed, Point
from tests.support.models.models import User

PKS = list(range(1, 21))
MORE = list(range(100, 300))
Lookup = Callable[[int], GetQuery[User]]
BY: dict[str, Lookup] = {
    "primary key": lambda pk: User.cache.get(id=pk),
    "index": lambda pk: User.cache.get(username=f"user{pk}"),
}


@pytest.fixture(autouse=True)
async def rows(database: BaseDBAsyncClient) -> None:
    await User.bulk_create([User(id=pk, username=f"user{pk}", team=pk % 2) for pk in [*PKS, *MORE]])


@pytest.fixture(params=BY)
def by(request: pytest.FixtureRequest) -> Lookup:
    return BY[request.param]


async def test_they_share_statement_leases_and_fills(cache: ModelCache, backend: CountingBackend, by: Lookup) -> None:
    async with assert_ops(backend, sql=1):
        assert [user.id for user in await asyncio.gather(*map(by, PKS))] == PKS
    async with assert_ops(backend, sql=0, redis=["read"]):
        assert [user.id for user in await asyncio.gather(*map(by, PKS))] == PKS
    assert [each.misses for each in cache.stats.by_cache.values() if each.misses] == [len(PKS)]


async def test_a_key_that_another_process_fills_holds_up_its_own_lookup_only(
    backend: CountingBackend, by: Lookup
) -> None:
    async with ModelCache(backend, lease_wait=60.0):
        [[_, [key]]] = [by(1).located(cache) for cache in [by(1).open_cache()]]
        token = new_token()
        assert (await backend.lease([Lease(key)], token, 60_000)).values == [LEASE + token]
        first, *others = [by(pk).start() for pk in PKS]
        await awaited(asyncio.wait(others))
        assert [future.result().id for future in others] == PKS[1:]
        assert not first.done()
        await backend.fill([Fill(key, LEASE + token, b"", 1)])  # as a reader that gives up
        assert (await awaited(first)).id == 1


@pytest.mark.only_on("sqlite", because="a statement that fails leaves the test's transaction on PostgreSQL unusable")
async def test_a_statement_that_fails_is_the_error_of_each(
    cache: ModelCache, backend: CountingBackend, database: BaseDBAsyncClient, by: Lookup
) -> None:
    table = User._meta.db_table
    await database.execute_script(f"ALTER TABLE {table} RENAME TO elsewhere")
    found = await asyncio.gather(*map(by, PKS), return_exceptions=True)
    assert {type(error) for error in found} == {OperationalError}
    assert len(set(map(id, found))) == len(PKS), "a traceback grows with each caller"
    await database.execute_script(f"ALTER TABLE elsewhere RENAME TO {table}")
    async with assert_ops(backend, sql=1):
        assert [user.id for user in await asyncio.gather(*map(by, PKS))] == PKS


@pytest.mark.only_on("postgres", because="a function raises an error of any SQLSTATE")
@pytest.mark.parametrize(
    ("state", "outage"),
    [
        *[(state, False) for state in ("08P01", "53200", "53400", "57014")],
        *[(state, True) for state in ("08006", "53300", "57P01", "57P05", "58030")],
    ],
)
async def test_only_an_outage_ends_the_lookups_of_a_statement(
    cache: ModelCache, database: BaseDBAsyncClient, by: Lookup, state: str, outage: bool
) -> None:
    """Any other error may be due to the size of the statement, or to a value in it."""
    table = User._meta.db_table
    await database.execute_script(
        "CREATE FUNCTION alone() RETURNS boolean LANGUAGE plpgsql AS $$BEGIN "
        f"IF current_query() LIKE '%ANY%' THEN RAISE EXCEPTION 'too large' USING ERRCODE = '{state}'; END IF; "
        "RETURN true; END$$;"
        f'ALTER TABLE "{table}" RENAME TO elsewhere;'
        f'CREATE VIEW "{table}" AS SELECT * FROM elsewhere WHERE alone()'
    )
    found = await asyncio.gather(*map(by, PKS), return_exceptions=True)
    assert [str(each) if outage else getattr(each, "id", each) for each in found] == (
        ["too large"] * len(PKS) if outage else PKS
    )
    assert (cache.stats.statements == 1) is outage


@pytest.mark.models("tests.support.models.models", "tests.support.models.field_models")
async def test_a_row_that_cannot_be_converted_fails_its_own_lookup_only(
    cache: ModelCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The conversion may raise ``OSError``, as a lost connection does."""
    field: Any = meta_of(Keyed).fields_map["point"]
    convert = field.to_python_value

    def to_python_value(value: Any) -> Any:
        datetime.fromtimestamp(0 if value is None else convert(value).x)
        return convert(value)

    with writes_without_cache():
        await Keyed.bulk_create([Keyed(id=pk, point=Point(2**60 if pk == 2 else pk, 0)) for pk in PKS])
    monkeypatch.setattr(field, "to_python_value", to_python_value)
    found = await asyncio.gather(*[Keyed.cache.get(id=pk) for pk in PKS], return_exceptions=True)
    assert [getattr(each, "id", type(each)) for each in found] == [1, OSError, *PKS[2:]]


async def test_a_batch_shares_as_a_gather_does(cache: ModelCache, backend: CountingBackend, by: Lookup) -> None:
    async with assert_ops(backend, sql=1):
        found = await BatchCacheQuery({pk: by(pk) for pk in PKS})
    assert [user.id for user in found.values()] == PKS


@pytest.mark.only_on("sqlite", because="Python's instructions are those of every database")
@pytest.mark.unobserved(because="observers are told of each lookup")
async def test_each_costs_little_more_than_in_get_many(cache: ModelCache, backend: CountingBackend, by: Lookup) -> None:
    """Plans of their own would take 1.9 times as many instructions."""

    blocks = iter([MORE[start : start + 10] for start in range(0, len(MORE), 10)])

    async def gathered() -> None:
        await asyncio.gather(*map(by, next(blocks)))

    async def together() -> None:
        pks = next(blocks)
        if by is BY["primary key"]:
            await User.cache.get_many(pks)
        else:
            await User.cache.get_many([f"user{pk}" for pk in pks], "username")

    (apart, _), (one_query, _) = await instructions(gathered, runs=5), await instructions(together, runs=5)
    assert apart < 1.65 * one_query


async def test_each_caller_has_instances_of_its_own(cache: ModelCache, by: Lookup) -> None:
    found = await asyncio.gather(*map(by, [*PKS, *PKS, 1]))
    assert [user.id for user in found] == [*PKS, *PKS, 1]
    assert len(set(map(id, found))) == len(found)


async def test_rows_that_do_not_exist_are_missed_by_their_own_lookups(cache: ModelCache, by: Lookup) -> None:
    for _ in range(2):
        found = await asyncio.gather(*map(by, [1, 77, 2, 78]), return_exceptions=True)
        assert [getattr(each, "id", type(each)) for each in found] == [1, DoesNotExist, 2, DoesNotExist]
