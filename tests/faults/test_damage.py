"""Damaged and foreign entries: a lookup agrees with the database and replaces the entry."""

import dataclasses
import enum
import math
import os
from collections.abc import Awaitable, Callable, Iterator
from decimal import Decimal
from typing import Any

import msgspec
import pydantic
import pytest
from redis.asyncio import Redis
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.context import TortoiseContext
from tortoise.models import Model

from aiomodelcache import CacheQuery, MemoryBackend, ModelCache, ValueCache, cached
from aiomodelcache.encoding.layout import GUARD, PREFIX_SIZE, VALUE, new_token, pack_entry, unpack_entry
from aiomodelcache.entries.base import NoValue, now_ms
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.databases import DatabaseUrl
from tests.support.models import changed_models, field_models
from tests.support.models.models import Event, LatestEvents, User

pytestmark = pytest.mark.only_on("sqlite", because="the damage is in the bytes of a store")

Plant = Callable[[bytes, bytes], Awaitable[None]]


@pytest.fixture
def plant(backend: CountingBackend, backend_url: str) -> Plant:
    """Stores bytes under a key without the cache."""

    async def into_memory(key: bytes, value: bytes) -> None:
        store: Any = backend.backend
        store._put(key, value, math.inf, store._now())

    async def into_redis(key: bytes, value: bytes) -> None:
        async with Redis.from_url(backend_url) as client:
            await client.set(key, value)

    return into_memory if isinstance(backend.backend, MemoryBackend) else into_redis


class DamageReports:
    """The counters and log messages that damaged entries leave."""

    def __init__(self, cache: ModelCache, caplog: pytest.LogCaptureFixture) -> None:
        self._cache = cache
        self._caplog = caplog

    def count(self, name: str) -> tuple[int, int]:
        counters = self._cache.stats.of(name)
        return counters.undecodable, counters.mismatched

    def messages(self) -> list[str]:
        return [record.getMessage() for record in self._caplog.records if record.name == "aiomodelcache"]


@pytest.fixture
def trouble(cache: ModelCache, caplog: pytest.LogCaptureFixture) -> DamageReports:
    return DamageReports(cache, caplog)


def damaged(entry: bytes) -> Iterator[bytes]:
    """Yields the entry truncated, and with one byte changed, in each of its parts."""
    for length in (1, 9, PREFIX_SIZE, PREFIX_SIZE + 3, GUARD.stop, GUARD.stop + 2, GUARD.stop + 8, len(entry) - 1):
        yield entry[:length]
    for at in (0, GUARD.start, GUARD.stop - 1, GUARD.stop, GUARD.stop + 6, GUARD.stop + 12, len(entry) - 1):
        yield entry[:at] + bytes([entry[at] ^ 1]) + entry[at + 1 :]
    yield b"N" + entry[1:]
    yield entry + b"\0"


FOREIGN = [
    b"x",
    b"garbage of another program",
    b"\x80\x05\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94\x93.",
    b'{"json": true}',
    b"V",
    b"N",
    b"VVVVVVVVVVVVVVVVVVVVVVVVVVVVVVVVVVVVVVVVVVVVVVVVVVVVVVVVVVVV",
    b"L",
    b"L, a text that is not a lease",
    b"W",
    b"Words of another program, long enough to be the tokens of several intents",
    b"W" + bytes(29),
    b"?" + os.urandom(1000),
]


def assert_same(found: Model | None, expected: Model) -> None:
    assert found is not None
    assert vars(found) == vars(expected)


async def test_a_damaged_or_foreign_row_entry_is_a_miss_and_replaced(
    cache: ModelCache, backend: CountingBackend, plant: Plant, trouble: DamageReports
) -> None:
    user = await User.get(id=(await User.create(username="kim", team=3)).id)
    key = cache.open_cache.entries_of(User).rows.key(user.id)
    await User.cache.get(id=user.id)
    [entry] = await backend.backend.read([key])
    assert entry is not None
    assert entry[:1] == VALUE
    for value in [*damaged(entry), *FOREIGN]:
        await plant(key, value)
        async with assert_ops(backend, sql=1, redis=["read", "lease", "fill"]):
            assert_same(await User.cache.get(id=user.id), user)
        async with assert_ops(backend, sql=0):
            assert_same(await User.cache.get(id=user.id), user)
    undecodable, mismatched = trouble.count("User")
    assert undecodable >= len(FOREIGN)
    assert mismatched == 2  # the entry with a changed fingerprint, and the entry of `V`s
    assert len(trouble.messages()) == 2
    assert "an entry of User cannot be read" in trouble.messages()[0]


@pytest.mark.parametrize("unique", [True, False], ids=["unique", "list"])
async def test_a_damaged_or_foreign_index_entry_is_a_miss_and_replaced(
    cache: ModelCache, backend: CountingBackend, plant: Plant, trouble: DamageReports, unique: bool
) -> None:
    user = await User.get(id=(await User.create(username="kim", team=3)).id)

    async def look_up() -> list[User]:
        return [await User.cache.get(username="kim")] if unique else await User.cache.filter(team=3)

    user_entries = cache.open_cache.entries_of(User)
    index: Any = user_entries.gets[frozenset(["username"])] if unique else user_entries.filters[frozenset(["team"])]
    key = index.key(("kim",) if unique else (3,))
    await look_up()
    [entry] = await backend.backend.read([key])
    assert entry is not None
    assert entry[:1] == VALUE
    for value in [*damaged(entry), *FOREIGN]:
        await plant(key, value)
        async with assert_ops(backend, sql=1):
            [found] = await look_up()
        assert_same(found, user)
        async with assert_ops(backend, sql=0):
            [found] = await look_up()
        assert_same(found, user)
    undecodable, mismatched = trouble.count("User(username)" if unique else "User(team)")
    assert undecodable >= len(FOREIGN)
    assert mismatched > 0
    assert len(trouble.messages()) == 2


async def test_writers_replace_foreign_entries(
    cache: ModelCache, backend: CountingBackend, plant: Plant, trouble: DamageReports
) -> None:
    user = await User.create(username="kim", team=0)
    user_entries = cache.open_cache.entries_of(User)
    row_key = user_entries.rows.key(user.id)
    for team, value in enumerate(FOREIGN, 1):
        index: Any = user_entries.filters[frozenset(["team"])]
        for key in (row_key, index.key((team,)), user_entries.rows.partitions.stamps[0]):
            await plant(key, value)
        user.team = team
        await user.save()
        assert (await User.cache.get(id=user.id)).team == team
        assert await User.cache.filter(team=team) == [user]
        async with assert_ops(backend, sql=0):
            assert await User.cache.filter(team=team) == [user]
            assert (await User.cache.get(id=user.id)).team == team
    assert cache.stats.undelivered == 0
    assert cache.stats.backend_errors == 0


@pytest.mark.parametrize("value", [b"", b"E" + bytes(16)], ids=["empty", "version"])
async def test_an_entry_that_readers_cannot_replace_is_a_miss_until_the_next_write(
    cache: ModelCache, backend: CountingBackend, plant: Plant, value: bytes
) -> None:
    user = await User.create(username="kim", team=3)
    await plant(cache.open_cache.entries_of(User).rows.key(user.id), value)
    for _ in range(2):
        assert await User.cache.get(id=user.id) == user
    await user.save()
    await User.cache.get(id=user.id)
    async with assert_ops(backend, sql=0):
        assert await User.cache.get(id=user.id) == user


@cached
async def team_sizes() -> list[int]:
    return [await User.filter(team=team).count() for team in range(5)]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Lines(7),
        lambda: team_sizes.query(),
        lambda: User.cache.query(User.filter(team=3)),
        lambda: LatestEvents(organizer=1),
    ],
    ids=["value", "function", "query", "result"],
)
async def test_foreign_entries_of_computed_values_are_misses(
    cache: ModelCache, backend: CountingBackend, plant: Plant, make: Callable[[], CacheQuery[Any]]
) -> None:
    kim = await User.create(id=1, username="kim", team=3)
    await Event.create(slug="pycon", organizer=kim)
    backend.keys.clear()
    expected = await make()
    assert await make() == expected
    for value in [b"", *FOREIGN]:
        for key in list(backend.keys):
            await plant(key, value)
        for _ in range(2):
            assert await make() == expected


async def test_foreign_versions_are_misses_until_the_model_is_cleared(
    cache: ModelCache, backend: CountingBackend, plant: Plant
) -> None:
    user = await User.create(username="kim", team=3)
    rows = cache.open_cache.entries_of(User).rows
    for value in [b"x", b"", b"V" + bytes(60), b"W", b"Words of another program", b"E", b"E" + bytes(40)]:
        await plant(rows.partitions.epochs[0], value)
        await plant(rows.partitions.stamps[0], value)
        for _ in range(2):
            assert_same(await User.cache.get(id=user.id), await User.get(id=user.id))
            assert_same(await User.cache.get(username="kim"), await User.get(id=user.id))
            assert await User.cache.filter(team=3) == [user]
            assert await User.cache.get_or_none(username="missing") is None
        await User.cache.clear()
        await User.cache.get(username="kim")
        async with assert_ops(backend, sql=0):
            await User.cache.get(username="kim")


async def test_an_entry_stored_under_another_key_is_a_miss(
    cache: ModelCache, backend: CountingBackend, plant: Plant, trouble: DamageReports
) -> None:
    kim, lee = await User.create(username="kim"), await User.create(username="lee")
    await Event.create(slug="pycon", organizer=kim)
    users = cache.open_cache.entries_of(User)
    for user in (kim, lee):
        await User.cache.get(id=user.id)
        await User.cache.get(username=user.username)
    event = await Event.cache.get(slug="pycon")
    index: Any = users.gets[frozenset(["username"])]
    of_kim, of_lee, by_name, of_event = await backend.backend.read(
        [
            users.rows.key(kim.id),
            users.rows.key(lee.id),
            index.key(("kim",)),
            cache.open_cache.entries_of(Event).rows.key(event.id),
        ]
    )
    for foreign, entry in enumerate([of_lee, by_name, of_event], 1):
        assert entry is not None
        await plant(users.rows.key(kim.id), entry)
        async with assert_ops(backend, sql=1):
            assert (await User.cache.get(id=kim.id)).username == "kim"
        async with assert_ops(backend, sql=0):
            assert (await User.cache.get(id=kim.id)).username == "kim"
            assert (await User.cache.get(id=lee.id)).username == "lee"
        assert trouble.count("User") == (0, foreign)
    for entry in (of_kim, of_event):
        assert entry is not None
        await plant(index.key(("kim",)), entry)
        async with assert_ops(backend, sql=1):
            assert (await User.cache.get(username="kim")).id == kim.id
    [to_lee] = await backend.backend.read([index.key(("lee",))])
    assert to_lee is not None
    await plant(index.key(("kim",)), to_lee)  # a valid entry that leads to another row
    async with assert_ops(backend, sql=1):
        assert (await User.cache.get(username="kim")).id == kim.id
    assert cache.stats.of("User(username)").repaired == 1
    assert len(trouble.messages()) == 2


async def test_no_changed_byte_decodes_to_another_row(cache: ModelCache, backend: CountingBackend) -> None:
    user = await User.create(username="kim", team=3)
    rows = cache.open_cache.entries_of(User).rows
    row = vars(await User.cache.get(id=user.id))
    entry, epoch = await backend.backend.read([rows.key(user.id), rows.partitions.epochs[0]])
    assert entry is not None
    columns = rows.read(entry, epoch)
    assert isinstance(columns, dict)
    assert columns.items() <= row.items()
    for at in range(len(entry)):
        for flip in range(1, 256):
            found = rows.read(entry[:at] + bytes([entry[at] ^ flip]) + entry[at + 1 :], epoch)
            assert found == (columns if 1 <= at < PREFIX_SIZE else NoValue.MISS), (at, flip)
    for length in range(len(entry)):
        assert rows.read(entry[:length], epoch) is NoValue.MISS
    sound = pack_entry(VALUE, new_token(), entry[GUARD], 0, b"\xc1")  # as if another program used our fingerprint
    assert rows.read(sound, epoch) is NoValue.MISS


# Other versions of the program ------------------------------------------------------------------------


async def test_entries_of_another_cache_meta_version_are_misses(
    database: BaseDBAsyncClient,
    backend: CountingBackend,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    user = await User.create(username="kim", team=3)

    async def read(sql: int) -> None:
        async with assert_ops(backend, sql=sql):
            assert (await User.cache.get(username="kim")).id == user.id
            assert [each.id for each in await User.cache.filter(team=3)] == [user.id]

    async with ModelCache(backend) as cache:
        await read(2)
        await read(0)
        assert cache.stats.of("User").mismatched == 0
    monkeypatch.setattr(User.CacheMeta, "version", 2, raising=False)
    async with ModelCache(backend) as cache:
        await read(2)
        await read(0)
        assert cache.stats.of("User").mismatched > 0
        assert cache.stats.of("User").undecodable == 0
    monkeypatch.undo()
    async with ModelCache(backend):  # back to the old version, as in a rolling deployment
        await read(2)
        await read(0)
    warnings = [record.getMessage() for record in caplog.records if "another version" in record.getMessage()]
    assert len(warnings) == 2 * 3  # two caches found entries of another version, of three cache classes


async def test_entries_of_another_schema_are_misses(db_url: DatabaseUrl, backend: CountingBackend) -> None:
    config = {
        "connections": {db_url.dialect: str(db_url)},
        "apps": {"app": {"models": ["tests.support.models.field_models"], "default_connection": db_url.dialect}},
    }

    async def read(model: Any, sql: int) -> Any:
        async with ModelCache(backend) as cache:
            async with assert_ops(backend, sql=sql):
                found = await model.cache.get(id=owner.id)
            assert cache.stats.of("Owner").mismatched == sql
            return found

    async with TortoiseContext() as context:
        await context.init(config=config)
        await context.generate_schemas(safe=False)
        owner = await field_models.Owner.create(name="Kim")
        async with ModelCache(backend):
            await field_models.Owner.cache.get(id=owner.id)
        await read(field_models.Owner, 0)
        await context.connections.get(db_url.dialect).execute_script("ALTER TABLE owner ADD COLUMN age INT")
    config["apps"]["app"]["models"] = ["tests.support.models.changed_models"]
    async with TortoiseContext() as context:
        await context.init(config=config)
        assert (await read(changed_models.Owner, 1)).age is None
        assert (await read(changed_models.Owner, 0)).name == "Kim"
    config["apps"]["app"]["models"] = ["tests.support.models.field_models"]
    async with TortoiseContext() as context:
        await context.init(config=config)
        assert not hasattr(await read(field_models.Owner, 1), "age")


# Values of annotated types -----------------------------------------------------------------------------------


class Status(enum.Enum):
    OPEN = "open"


@dataclasses.dataclass
class Line:
    label: str
    amounts: list[Decimal]
    status: Status = Status.OPEN


class Report(pydantic.BaseModel):
    number: int


class Lines(ValueCache[list[Line]]):
    async def get_value(self, number: int) -> list[Line]:
        return [Line("a", [Decimal(number)])]


class Reports(ValueCache[Report]):
    async def get_value(self, number: int) -> Report:
        return Report(number=number)


HOSTILE = [
    b"", b"m", b"j", b"x", b"j[{}]", b"j" + b"[" * 100_000, b"m" + b"\x91" * 100_000, b"m\xdd\xff\xff\xff\xff",
    b"m" + msgspec.msgpack.encode([{"label": 1, "amounts": []}]),
    b"m" + msgspec.msgpack.encode([{"label": "a", "amounts": ["s3cret"]}]),
    b"m" + msgspec.msgpack.encode([{"label": "a", "amounts": [], "status": "s3cret"}]),
    b"j" + msgspec.json.encode([{"label": "s3cret"}]),
    b"m" + msgspec.msgpack.encode(['{"number": "s3cret"}', None]),
    b"m" + msgspec.msgpack.encode(['{"number": 1}', [["s3cret"]]]),
    b"m" + msgspec.msgpack.encode(["[" * 100_000, None]),
    b"\x80\x05\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94\x93.",
]  # fmt: skip
"""Payloads that are no values of either type, some of them written for it."""


@pytest.mark.parametrize("kind", [Lines, Reports])
async def test_hostile_bytes_of_an_annotated_type_are_a_miss_and_replaced(
    kind: Any, cache: ModelCache, backend: CountingBackend, plant: Plant, trouble: DamageReports
) -> None:
    expected = await kind(7)
    _, key = kind(7).locate(cache.open_cache)
    [entry] = await backend.backend.read([key])
    assert entry is not None
    payload = unpack_entry(entry)
    for number, hostile in enumerate([*HOSTILE, payload[1:], payload[:-1], payload + b"\0", b"x" + payload], 1):
        await plant(key, pack_entry(VALUE, new_token(), entry[GUARD], now_ms(), hostile))
        async with assert_ops(backend, redis=["read", "lease", "fill"]):
            assert await kind(7) == expected
        assert trouble.count(kind.__name__) == (number, 0)
        async with assert_ops(backend, redis=["read"]):
            assert await kind(7) == expected
    assert "s3cret" not in "".join(trouble.messages())
