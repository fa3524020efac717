"""Lookups and writes of models whose keys are divided into partitions: in memory, and on a real Redis Cluster."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Literal

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.transactions import in_transaction

from aiomodelcache import ModelCache, cached, local_cache
from aiomodelcache.backends.protocol import Backend, Clear, Lease, Leased
from aiomodelcache.backends.redis.backend import RedisBackend
from aiomodelcache.encoding.layout import VALUE
from aiomodelcache.encoding.partitions import tag_in
from aiomodelcache.engine.intent import Intent
from aiomodelcache.entries.key_values import values_in
from aiomodelcache.entries.partitioned import PartitionedRows
from aiomodelcache.inspection.clearing import clear_targets
from aiomodelcache.inspection.keyspace import KeyMap
from aiomodelcache.inspection.targets import find_target
from aiomodelcache.testing import assert_ops
from tests.backends.opening import PATIENT
from tests.support.divided import DividedMemory
from tests.support.gates import GatedBackend, gated_sql
from tests.support.models.music import Artist
from tests.support.servers import RedisServer
from tests.support.servers.redis_cluster import Cluster, ClusterNode

pytestmark = [
    pytest.mark.models("tests.support.models.music"),
    pytest.mark.only_on("no store", because="its stores are its own"),
    pytest.mark.only_on("sqlite", because="it is about the store"),
]
NUMBER = 100


@pytest.fixture(scope="module")
def cluster(redis_server: RedisServer) -> Iterator[Cluster]:
    # ``redis_server`` skips where there is no Redis.
    with ExitStack() as stack:
        yield Cluster([stack.enter_context(ClusterNode()) for _ in range(2)])


@pytest.fixture(params=["memory", "cluster"])
async def store(request: pytest.FixtureRequest, database: BaseDBAsyncClient) -> AsyncIterator[GatedBackend]:
    await Artist.bulk_create([Artist(id=n, name=f"artist{n}", rank=n % 10) for n in range(1, NUMBER + 1)])
    backend: Backend = DividedMemory()
    if request.param == "cluster":
        cluster: Cluster = request.getfixturevalue("cluster")
        for node in cluster.nodes:
            node.flush()
        backend = RedisBackend(cluster.url, socket_timeout=PATIENT)
    await backend.open()
    yield GatedBackend(backend)
    await backend.close()


@pytest.fixture
async def cache(store: GatedBackend) -> AsyncIterator[ModelCache]:
    async with ModelCache(store) as opened:
        yield opened


async def assert_fresh() -> None:
    """Asserts that every kind of lookup agrees with the database."""
    rows = {row.id: row for row in await Artist.all()}
    for number in range(0, NUMBER + 1, 9):
        found = await Artist.cache.get_or_none(id=number)
        assert (found and vars(found)) == (vars(rows[number]) if number in rows else None)
    for row in list(rows.values())[::9]:
        assert vars(await Artist.cache.get(name=row.name)) == vars(row)
    for rank in {row.rank for row in rows.values()}:
        found_ids = [row.id for row in await Artist.cache.filter(rank=rank)]
        assert found_ids == [row.id for row in rows.values() if row.rank == rank]
    many = await Artist.cache.get_many(list(rows))
    assert list(map(vars, many)) == list(map(vars, rows.values()))


async def entry(cache: ModelCache, pk: int) -> bytes:
    """Returns the entry of a row, or empty bytes."""
    [found] = await cache.backend.read([Artist.cache.get(id=pk).locate(cache.open_cache).key])
    return found or b""


async def test_lookups_of_every_kind_take_one_round_trip(cache: ModelCache, store: GatedBackend) -> None:
    for _ in range(3):
        await assert_fresh()
    async with assert_ops(store, sql=0, redis=["read"]):
        await asyncio.gather(
            Artist.cache.get(id=1),
            Artist.cache.get(name="artist10"),
            Artist.cache.filter(rank=3),
            Artist.cache.get_many(range(1, NUMBER + 1)),
            Artist.cache.get_many(["artist1", "artist19"], "name"),
        )


async def forget(cache: ModelCache, *, predictions: bool = True) -> None:
    """Deletes the entries of one artist, and what this process knows of them."""
    lookups = [Artist.cache.get(name="artist1"), Artist.cache.get(id=1)]
    await cache.backend.delete([each.locate(cache.open_cache).key for each in lookups])
    if predictions:
        cache.open_cache.predictions.clear()


async def until_stored_late(cache: ModelCache, store: GatedBackend) -> None:
    """Waits until the first lookup of an index stores the row as well. On a slow machine, replies come late."""
    async with asyncio.timeout(PATIENT):
        while not await entry(cache, 1):
            await forget(cache)
            async with assert_ops(store, sql=1):
                await Artist.cache.get(name="artist1")


async def test_the_first_lookup_by_an_index_stores_its_row(cache: ModelCache, store: GatedBackend) -> None:
    for sql, operations in ((1, ["read", "lease", "lease", "fill"]), (0, ["read"])):
        async with assert_ops(store, sql=sql, redis=operations):
            await Artist.cache.get(name="artist1")
    stamps = cache.open_cache.entries_of(Artist).rows.partitions.stamps
    assert None not in await store.read(stamps), "later ones can show that they are older"
    async with assert_ops(store, sql=0):
        await Artist.cache.get(id=1)


async def test_a_row_that_an_index_finds_is_stored_if_its_stamp_is_old_enough(
    cache: ModelCache, store: GatedBackend
) -> None:
    await Artist.cache.get(name="artist2")
    rows = cache.open_cache.entries_of(Artist).rows
    await store.delete([rows.partitions.stamp_of(rows.key(1))])
    async with assert_ops(store, sql=1, redis=["read", "lease", "lease", "epochs_since", "fill"]):
        await Artist.cache.get(name="artist1")
    assert not await entry(cache, 1), "the stamp was absent"
    await until_stored_late(cache, store)
    assert (await entry(cache, 1))[:1] == VALUE
    async with assert_ops(store, sql=0, redis=["read"]):
        await Artist.cache.get(name="artist1")
    await forget(cache, predictions=False)
    async with assert_ops(store, sql=1, redis=["read", "lease", "lease", "fill"]):
        await Artist.cache.get(name="artist1")
    assert (await entry(cache, 1))[:1] == VALUE, "the row was predicted"


class Refusing(DividedMemory):
    """A store that leases no row whose key is in ``refused``, as if its node had failed."""

    def __init__(self) -> None:
        super().__init__()
        self.refused: set[bytes] = set()
        self.asked: set[bytes] = set()
        """The keys of the epochs that were asked for after a statement."""

    async def lease(self, leases: Sequence[Lease], token: bytes, ttl_ms: int, versions: Sequence[bytes] = ()) -> Leased:
        leased = await super().lease(leases, token, ttl_ms, versions)
        held = zip(leases, leased.values, strict=True)
        return leased._replace(values=[b"" if lease.key in self.refused else value for lease, value in held])

    async def epochs_since(self, partitions: Sequence[tuple[bytes, bytes]], since: float) -> list[bytes | None]:
        self.asked.update([epoch for epoch, _ in partitions])
        return await super().epochs_since(partitions, since)


async def test_the_age_of_a_stamp_is_asked_for_rows_that_were_leased(database: BaseDBAsyncClient) -> None:
    await Artist.bulk_create([Artist(id=n, name=f"artist{n}", rank=n % 10) for n in range(1, NUMBER + 1)])
    store = Refusing()
    async with ModelCache(store) as cache:
        rows = cache.open_cache.entries_of(Artist).rows
        rows.partitions.take_unread()
        keys = list(map(rows.key, range(3, NUMBER, 10)))
        store.refused = {keys[0], keys[-1]}
        assert len(await Artist.cache.filter(rank=3)) == len(keys)
        assert store.asked == set(map(rows.epoch_of, keys[1:-1]))


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("kind", ["save", "bulk", "clear"])
@pytest.mark.parametrize("predicted", [True, False], ids=["predicted", "by the clock"])
async def test_a_row_of_before_a_write_is_not_stored_late(
    store: GatedBackend, database: BaseDBAsyncClient, kind: str, moment: Literal["before", "after"], predicted: bool
) -> None:
    """A write, one past ``bulk_limit`` or of another program, between a reader's leases and its fills."""
    async with ModelCache(store, bulk_limit=5 if kind == "bulk" else 1_000) as cache:
        await Artist.cache.get(name="artist2")
        await until_stored_late(cache, store)
        await forget(cache, predictions=not predicted)
        await _write_during_a_lookup(database, kind, moment)
        await assert_fresh()


async def _write_during_a_lookup(database: BaseDBAsyncClient, kind: str, moment: Literal["before", "after"]) -> None:
    with gated_sql(database) as sql:
        gate = sql.hold("SELECT", moment)
        reader = asyncio.create_task(Artist.cache.get(name="artist1").resolve())
        await gate.reached()
        if kind == "save":
            await Artist(id=1, name="artist1", rank=1, followers=7).save(force_update=True)
        elif kind == "bulk":
            await Artist.all().update(followers=7)
        else:
            await database.execute_script("UPDATE artist SET followers = 7")
            await Artist.cache.clear()
        gate.open()
        await reader


async def write_one() -> None:
    await (await Artist.get(id=10)).delete()
    await Artist.create(id=NUMBER + 1, name="late", rank=1)
    artist = await Artist.get(id=19)
    artist.name, artist.rank = "renamed", 3
    await artist.save()


async def write_many() -> None:
    await Artist.filter(id__lt=50).update(followers=3, rank=2)
    await Artist.filter(id__gt=90).delete()


async def write_in_a_transaction() -> None:
    async with in_transaction():
        await write_one()
        await write_many()


async def write_elsewhere() -> None:
    await Artist.all().using_db(None).update(followers=1)
    await Artist.cache.clear()


@pytest.mark.exhaustive(because="every way of writing")
@pytest.mark.parametrize("limit", [1_000, 5], ids=["rows", "past the limit"])
@pytest.mark.parametrize("write", [write_one, write_many, write_in_a_transaction, write_elsewhere])
async def test_writes_leave_nothing_stale(
    store: GatedBackend, write: Callable[[], Awaitable[None]], limit: int
) -> None:
    async with ModelCache(store, bulk_limit=limit):
        await assert_fresh()
        await assert_fresh()
        await write()
        await assert_fresh()
        await assert_fresh()


async def test_a_computed_value_depends_on_the_epochs_of_its_rows(cache: ModelCache, store: GatedBackend) -> None:
    @cached
    async def followers() -> int:
        return sum([row.followers for row in await Artist.cache.get_many([1, 2, 3])])

    assert [await followers() for _ in range(2)] == [0, 0]
    async with assert_ops(store, sql=0, redis=["read"]):
        await followers()
    await Artist.filter(id=2).update(followers=5)
    assert [await followers() for _ in range(2)] == [5, 5]
    rows = cache.open_cache.entries_of(Artist).rows
    await store.delete([rows.epoch_of(rows.key(3))])
    async with assert_ops(store) as ops:
        await followers()
    assert ops.statements, "the epoch of the third row has gone"


def test_a_write_of_rows_changes_the_stamps_of_their_partitions_alone(cache: ModelCache) -> None:
    entries = cache.open_cache.entries_of(Artist)
    intent, rows = Intent(), entries.rows
    keys = [rows.key(1), rows.key(2), entries.indexes[0].key(("artist1",))]
    intent.add(rows, map(Clear, keys))
    assert list(intent.stamps) == [rows.partitions.stamp_of(key) for key in keys[:2]]
    intent.add_model(rows)
    assert set(intent.stamps) == set(rows.partitions.stamps)
    assert set(rows.partitions.epochs) < set(intent.clears)


async def test_operators_see_partitions_and_no_values(cache: ModelCache, store: GatedBackend) -> None:
    opened = cache.open_cache
    entries, key_map = opened.entries_of(Artist), KeyMap(opened)
    rows, index = entries.rows, entries.indexes[0]
    key, of_index = rows.key(7), index.key(("artist7",))
    tag = tag_in(key).decode()
    assert key_map.shown(key, values=False) == key_map.shown(key, values=True).replace("i7", "<int>")
    assert tag in key_map.shown(key, values=False)
    assert (values_in(rows, key), values_in(index, of_index)) == ((7,), ("artist7",))
    for version, kind in ((rows.partitions.epoch_of(key), "epoch"), (rows.partitions.stamp_of(key), "stamp")):
        place = key_map.place(version)
        assert place is not None
        assert (place.kind, place.owner) == (kind, "Artist")
        assert key_map.shown(version, values=False).endswith(tag)
    await Artist.cache.get(id=7)
    explanation = await Artist.cache.explain(id=7)
    assert (explanation.source, explanation.key) == ("cache", key.decode())
    await clear_targets(opened, [find_target(opened, "Artist")])
    assert (await Artist.cache.explain(id=7)).source == "database"


async def test_plans_keep_rows_decoded_and_answer_from_them(cache: ModelCache) -> None:
    async def read() -> int:
        async with local_cache():
            rows = await Artist.cache.get_many(range(1, NUMBER + 1))
        return len(rows)

    for _ in range(4):  # an entry is kept when it is read again
        await read()
    before = cache.stats.decoded
    hits, kept = before.hits, before.kept
    await read()
    after = cache.stats.decoded
    assert after.hits - hits > 0.9 * NUMBER, "few entries are forgotten before they are read again"
    assert after.kept - kept < 0.1 * NUMBER


async def test_rows_that_are_kept_decoded_and_others_are_hits_together(cache: ModelCache) -> None:
    pks = list(range(1, 21))
    for _ in range(4):
        await Artist.cache.get_many(pks)
    await Artist.filter(id__in=[1, 9]).update(followers=5)
    for pk in (1, 9):
        await Artist.cache.get(id=pk)
    with assert_ops(redis=1, sql=0):
        found = await Artist.cache.get_many(pks)
    assert list(map(vars, found)) == list(map(vars, await Artist.filter(id__in=pks).order_by("id")))
    await cache.backend.delete([Artist.cache.get(id=20).locate(cache.open_cache).key])
    assert [row.id for row in await Artist.cache.get_many(pks)] == pks


def test_many_integers_have_the_keys_that_each_of_them_has(cache: ModelCache) -> None:
    rows = cache.open_cache.entries_of(Artist).rows
    assert isinstance(rows, PartitionedRows)
    pks = [0, -3, 2**63 - 1, *range(7, 300)]
    keys = list(map(rows.key, pks))
    assert rows.keys_of_ints(pks) == (keys, list(map(rows.epoch_of, keys)))
    for others in ([], [1, True], [1, "1"], [1, 2**63], [-(2**63)]):
        assert rows.keys_of_ints(others) is None  # type: ignore[arg-type]


async def test_a_write_of_another_row_leaves_a_value_of_fifty_rows_valid(cache: ModelCache) -> None:
    computed = 0

    @cached
    async def followers() -> int:
        nonlocal computed
        computed += 1
        return sum([row.followers for row in await Artist.cache.get_many(range(1, 51))])

    for number in range(3):  # the table's version, which could stand for the rows, is read once it may be needed
        await Artist.filter(id=1).update(followers=number)
        assert [await followers() for _ in range(2)] == [number, number]
    assert computed == 3
    await Artist.filter(id=90).update(followers=5)
    assert (await followers(), computed) == (2, 3)
    await Artist.filter(id=50).update(followers=5)
    assert (await followers(), computed) == (7, 4)
