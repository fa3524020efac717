"""A request that is cancelled in a write loses no later write and leaks no connection, at whatever moment it is.

The write waits for its outcome, so that its row is cached again at once.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
from asyncpg import InterfaceError  # type: ignore[import-untyped]
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.connection import get_connections
from tortoise.exceptions import IntegrityError
from tortoise.transactions import in_transaction

from aiomodelcache import ModelCache, cached, writes_without_cache
from aiomodelcache.orm import transactions
from aiomodelcache.testing import CountingBackend
from tests.support.gates import PATIENCE, Gate, GatedBackend, Gates, awaited, gated_sql
from tests.support.models.derived_models import Happening, Organizer
from tests.support.models.models import Event, User, Venue
from tests.support.models.tagged_models import Post, Tag
from tests.support.stored import ask_twice, cancel, states

pytestmark = [
    pytest.mark.only_on("memory", because="it is about connections of the database"),
    pytest.mark.slow(because="waits for writes whose caller is cancelled"),
]

MANY = 2_000
"""Cancelled requests for each database."""


class GatedPool:
    """A driver's pool with gates at ``acquire`` and ``release``."""

    def __init__(self, pool: Any, gates: Gates) -> None:
        self._pool = pool
        self._gates = gates

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    async def acquire(self) -> Any:
        async def take() -> Any:
            return await self._pool.acquire()

        return await self._gates.through("acquire", take)

    async def release(self, connection: Any) -> None:
        async def give_back() -> None:
            await self._pool.release(connection)

        await self._gates.through("release", give_back)


def gated(name: str, method: Any, gates: Gates) -> Any:
    async def pass_gate(self: Any) -> None:
        await gates.through(name, partial(method, self))

    return pass_gate


@pytest.fixture
async def gates(database: BaseDBAsyncClient, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gates]:
    """Gates at every await of a transaction's begin and end."""
    gates = Gates()
    client: Any = database
    manager: Any = client._in_transaction()
    wrapper = type(getattr(manager, "client", None) or manager.connection)
    for name in ("begin", "commit", "rollback"):
        monkeypatch.setattr(wrapper, name, gated(name, getattr(wrapper, name), gates))
    pool = getattr(client, "_pool", None)
    if pool is not None:
        client._pool = GatedPool(pool, gates)
    yield gates
    if pool is not None:
        client._pool = pool


def taken(database: BaseDBAsyncClient) -> int:
    """The number of connections that are not free."""
    client: Any = database
    pool = getattr(client, "_pool", None)
    if pool is None:
        return int(client._lock.locked())
    if hasattr(pool, "get_idle_size"):
        return int(pool.get_size() - pool.get_idle_size())
    return len(pool._used)


@asynccontextmanager
async def nothing_lost(database: BaseDBAsyncClient, again: BaseDBAsyncClient) -> AsyncIterator[set[str]]:
    """Checks afterwards that the users named in the set are committed and that no connection is in use."""
    names: set[str] = set()
    async with asyncio.timeout(4 * PATIENCE):
        yield names
    committed = set(await User.all().using_db(again).values_list("username", flat=True))
    assert names <= committed, f"{len(names - committed)} acknowledged rows are not committed"
    assert taken(database) == 0
    assert get_connections().get(database.connection_name) is database


def update() -> Awaitable[Any]:
    return User.filter(team=1).update(team=2)


def delete_cascading() -> Awaitable[Any]:
    return User.filter(username="kim").delete()


def create_many() -> Awaitable[Any]:
    return User.bulk_create([User(username=f"many {number}") for number in range(3)])


def create_twice() -> Awaitable[Any]:
    return User.bulk_create([User(username="kim")])


WRITES: dict[str, Callable[[], Awaitable[Any]]] = {
    "update": update,
    "delete": delete_cascading,
    "bulk_create": create_many,
}


async def request(write: Callable[[], Awaitable[Any]], name: str, acknowledged: set[str]) -> bool:
    """A write that may be cancelled, then a row. Returns whether it was cancelled."""
    task = asyncio.current_task()
    assert task is not None
    cancelled = False
    try:
        await write()
    except asyncio.CancelledError:
        cancelled = True
        task.uncancel()
    except IntegrityError:
        pass
    await User.create(username=name)
    acknowledged.add(name)
    return cancelled


@pytest.mark.exhaustive(because="each write is cancelled at every step")
@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize(
    ("step", "moment"),
    [
        ("acquire", "before"),
        ("begin", "before"),
        ("begin", "after"),
        ("commit", "before"),
        ("commit", "after"),
        ("release", "before"),
        ("release", "after"),
    ],
)
async def test_a_write_that_is_cancelled_at_a_step(
    cache: ModelCache,
    database: BaseDBAsyncClient,
    again: BaseDBAsyncClient,
    gates: Gates,
    step: Any,
    moment: Any,
    write: str,
) -> None:
    if database.capabilities.dialect == "sqlite" and step in ("acquire", "release"):
        return  # it has one connection and no pool
    user = await User.create(username="kim", team=1)
    await Event.create(slug="pycon", organizer=user)
    async with nothing_lost(database, again) as names:
        gate = gates.hold(step, moment)
        task = asyncio.create_task(request(WRITES[write], "next", names))
        await gate.reached()
        task.cancel()
        gate.open()
        assert await task


@pytest.mark.only_on("postgres", "mariadb", because="SQLite has no locks of rows to wait for")
async def test_a_timeout_in_a_statement_is_a_timeout(
    cache: ModelCache, database: BaseDBAsyncClient, again: BaseDBAsyncClient
) -> None:
    """asyncmy closes a connection whose statement is cancelled, and the ROLLBACK that follows raises an error."""
    await User.create(username="kim", team=1)
    async with nothing_lost(database, again), in_transaction(again.connection_name) as other:
        await User.filter(username="kim").using_db(other).select_for_update()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await User.filter(team=1).using_db(database).update(team=2)


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_rollback_is_finished_although_its_caller_is_cancelled(
    cache: ModelCache, database: BaseDBAsyncClient, again: BaseDBAsyncClient, gates: Gates, moment: Any
) -> None:
    await User.create(username="kim")
    async with nothing_lost(database, again) as names:
        gate = gates.hold("rollback", moment)
        task = asyncio.create_task(request(create_twice, "next", names))
        await gate.reached()
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done(), "the rollback is waited for"
        gate.open()
        assert await task


@pytest.mark.only_on("sqlite", because="a stuck rollback is the same everywhere")
async def test_a_rollback_that_is_stuck_is_given_up(
    cache: ModelCache,
    database: BaseDBAsyncClient,
    again: BaseDBAsyncClient,
    gates: Gates,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transactions, "CLEANUP_LIMIT", 0.01)
    await User.create(username="kim")
    async with nothing_lost(database, again) as names:
        gate = gates.hold("rollback")  # never opened
        task = asyncio.create_task(request(create_twice, "next", names))
        await gate.reached()
        task.cancel()
        assert await task


@pytest.mark.only_on("postgres", because="other drivers do not look at whose connection it is")
@pytest.mark.parametrize("shielded", [False, True], ids=["as it is", "as the page says"])
async def test_a_transaction_of_tortoise_that_is_cancelled_stays_the_one_of_its_task(
    database: BaseDBAsyncClient, again: BaseDBAsyncClient, gates: Gates, shielded: bool
) -> None:
    """No cache is open. If this fails with a later Tortoise, remove the remedy from the page about troubleshooting."""

    async def rename() -> None:
        async with in_transaction(database.connection_name):
            await User.filter(team=1).update(team=2)

    async def rename_in_a_task() -> None:
        await asyncio.shield(asyncio.create_task(rename()))

    async def both() -> None:
        with writes_without_cache():
            await request(rename_in_a_task if shielded else rename, "next", names)

    async with nothing_lost(database, again) as names:
        gate = gates.hold("release", "after")
        task = asyncio.create_task(both())
        await gate.reached()
        task.cancel()
        gate.open()
        if shielded:
            await task
        else:
            with pytest.raises(InterfaceError, match="released back to the pool"):
                await task
        assert names == ({"next"} if shielded else set())


@pytest.mark.exhaustive(because="cancels thousands of requests at random moments")
async def test_thousands_of_cancelled_requests_lose_and_leak_nothing(
    cache: ModelCache, database: BaseDBAsyncClient, again: BaseDBAsyncClient
) -> None:
    chance = random.Random(7)
    await User.bulk_create([User(username=f"user {number}", team=number % 5) for number in range(50)])

    async def one(number: int, names: set[str]) -> None:
        write = list(WRITES.values())[number % 3]
        if number % 3 == 2:  # each its own rows
            write = partial(User.bulk_create, [User(username=f"many {number}"), User(username=f"more {number}")])
        loop = asyncio.get_running_loop()
        task = asyncio.create_task(request(write, f"next {number}", names))
        timer = loop.call_later(chance.random() ** 2 * 0.02, task.cancel)
        try:
            await task
        except asyncio.CancelledError:
            pass  # cancelled in the second write, which was not acknowledged then
        finally:
            timer.cancel()

    async with nothing_lost(database, again) as names:
        for start in range(0, MANY, 10):
            await asyncio.gather(*[one(number, names) for number in range(start, start + 10)])
        assert len(names) > MANY / 4


async def cancelled_at(gate: Gate, write: Awaitable[Any]) -> None:
    """Cancels a write at a gate, twice, as AnyIO does, and then opens the gate."""
    writing = asyncio.ensure_future(write)
    await gate.reached()
    for _ in range(2):
        writing.cancel()
        await asyncio.sleep(0)
    assert not writing.done(), "the outcome is waited for"
    gate.open()
    with pytest.raises(asyncio.CancelledError):
        await writing


SAVES: dict[str, tuple[str, Callable[[Event, Venue], Awaitable[Any]]]] = {
    "save": ("UPDATE", lambda event, venue: event.save()),
    "save of some columns": ("UPDATE", lambda event, venue: event.save(update_fields=["slug"])),
    "delete": ("DELETE", lambda event, venue: event.delete()),
    "save of a model of Tortoise's own": ("UPDATE", lambda event, venue: venue.save()),
}


class TestOutcomes:
    @pytest.mark.parametrize("save", SAVES)
    @pytest.mark.parametrize("moment", ["before", "after"])
    async def test_a_cancelled_save_leaves_its_row_cached(
        self, cache: ModelCache, backend: CountingBackend, database: BaseDBAsyncClient, save: str, moment: Any
    ) -> None:
        event = await Event.create(slug="pycon", organizer=await User.create(username="kim"))
        venue = await Venue.create(name="Home", city="Bonn")
        lookups = [cache.manager(Event).get_or_none(pk=event.pk), cache.manager(Venue).get_or_none(pk=venue.pk)]
        assert [await lookup for lookup in lookups] == [event, venue]
        event.slug, venue.name = "europython", "Away"
        name, write = SAVES[save]
        with gated_sql(database) as sql:
            await cancelled_at(sql.hold(name, moment), write(event, venue))
        assert cache.stats.unknown_outcomes == 0
        rows = [await Event.get_or_none(pk=event.pk), await Venue.get(pk=venue.pk)]
        for lookup, row in zip(lookups, rows, strict=True):
            found = await ask_twice(lookup, backend)
            assert found == row
            assert row is None or vars(found) == vars(row)

    @pytest.mark.models("tests.support.models.tagged_models")
    async def test_a_cancelled_many_to_many_write_leaves_its_lists_cached(
        self, cache: ModelCache, backend: CountingBackend, database: BaseDBAsyncClient
    ) -> None:
        post, tag = await Post.create(), await Tag.create(id=1)
        with gated_sql(database) as sql:
            await cancelled_at(sql.hold("INSERT", "after"), post.tags.add(tag))
        assert cache.stats.unknown_outcomes == 0
        assert list(await post.tags) == [tag]

    @pytest.mark.parametrize("write", ["update", "save"])
    @pytest.mark.parametrize("moment", ["before", "after"])
    async def test_a_cancelled_commit_leaves_its_rows_cached(
        self,
        cache: ModelCache,
        backend: CountingBackend,
        database: BaseDBAsyncClient,
        again: BaseDBAsyncClient,
        gates: Gates,
        write: str,
        moment: Any,
    ) -> None:
        user = await User.create(username="kim", team=1)

        async def save() -> None:
            user.team = 2
            async with transactions.transaction(database) as client:
                await user.save(using_db=client)

        async with nothing_lost(database, again):
            await cancelled_at(gates.hold("commit", moment), update_query() if write == "update" else save())
        assert cache.stats.unknown_outcomes == 0
        assert (await ask_twice(User.cache.get(id=user.id), backend)).team == 2

    async def test_a_save_that_is_stuck_is_given_up(
        self, cache: ModelCache, database: BaseDBAsyncClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(transactions, "SETTLE_LIMIT", 0.01)
        user = await User.create(username="kim")
        with gated_sql(database) as sql:
            gate = sql.hold("UPDATE")
            saving = asyncio.create_task(user.save())
            await gate.reached()
            await cancel(saving)
        assert cache.stats.unknown_outcomes == 1
        await cache.open_cache.tasks.finish(PATIENCE)
        assert await states(cache, User.cache.get(id=user.id)) == "W"


async def update_query() -> None:
    await update()


SOON = 5.0
"""Seconds within which a result is stored again. An intent that is left behind expires after more than 30."""

DERIVED: dict[str, tuple[str, Callable[[], Awaitable[Any]]]] = {
    "save": ("UPDATE", lambda: Happening(id=1, slug="h1", organizer_id=1).save(force_update=True)),
    "save of some columns": ("UPDATE", lambda: saved_happening().save(update_fields=["level"])),
    "create": ("INSERT", lambda: Happening.create(id=9, slug="new", organizer_id=1)),
    "delete": ("DELETE", lambda: saved_happening().delete()),
    "update": ("", lambda: Happening.filter(level=0).update(level=1)),
    "bulk_create": ("", lambda: Happening.bulk_create([Happening(id=9, slug="new", organizer_id=1)])),
    "bulk_update": ("", lambda: Happening.bulk_update([saved_happening()], ["level"])),
    "delete in bulk": ("", lambda: Happening.filter(level=0).delete()),
    "transaction": ("", lambda: in_one_transaction()),
}


def saved_happening() -> Happening:
    row = Happening(id=1, slug="h1", organizer_id=1, level=2)
    row._saved_in_db = True
    return row


async def in_one_transaction() -> None:
    async with in_transaction():
        await saved_happening().save()
        await Happening.create(id=9, slug="new", organizer_id=1)


@pytest.mark.models("tests.support.models.derived_models")
class TestDerivedResults:
    """A cancelled write keeps its table out of derived results only until its outcome is known."""

    @pytest.fixture(autouse=True)
    async def rows(self, database: BaseDBAsyncClient) -> None:
        with writes_without_cache():
            await Organizer.create(id=1, name="kim")
            await Happening.create(id=1, slug="h1", organizer_id=1)

    @pytest.mark.exhaustive(because="each write is cancelled at every step")
    @pytest.mark.parametrize("write", DERIVED)
    @pytest.mark.parametrize("step", ["mark", "clear", "statement", "commit"])
    @pytest.mark.parametrize("moment", ["before", "after"])
    async def test_a_result_is_stored_again_soon_after_a_cancelled_write(
        self,
        database: BaseDBAsyncClient,
        backend: CountingBackend,
        gates: Gates,
        write: str,
        step: str,
        moment: Any,
    ) -> None:
        statement, start = DERIVED[write]
        if (step == "statement" and not statement) or (step == "commit" and statement):
            return  # it is in a transaction; it is in none
        store = GatedBackend(backend.backend)
        async with ModelCache(store) as cache, asyncio.timeout(4 * PATIENCE):
            ask = numbers()
            assert await ask()
            with gated_sql(database) as sql:
                if step == "statement":
                    gate = sql.hold(statement, moment)
                else:
                    gate = (gates if step == "commit" else store).hold(step, moment)
                writing = asyncio.create_task(awaited(start()))
                await gate.reached()
                for _ in range(2):
                    writing.cancel()
                    await asyncio.sleep(0)
                gate.open()
                await asyncio.wait([writing])
            assert writing.cancelled()
            await until_stored(ask, SOON)
            assert cache.stats.unknown_outcomes == 0
            assert await ask() == await Happening.all().order_by("id").values_list("id", "level")

    @pytest.mark.exhaustive(because="cancels writes at each turn of the event loop")
    @pytest.mark.parametrize("write", [name for name in DERIVED if name != "transaction"])
    async def test_a_result_is_stored_again_soon_whenever_the_write_was_cancelled(
        self, cache: ModelCache, write: str
    ) -> None:
        """Transactions of Tortoise's own are left out: one that is cancelled as it begins keeps SQLite locked."""
        ask = numbers()
        turns = 0
        while True:
            turns += 1 + turns // 20
            await ask()
            writing = asyncio.create_task(awaited(DERIVED[write][1]()))
            for _ in range(turns):
                await asyncio.sleep(0)
            ended = writing.done()
            writing.cancel()
            await asyncio.wait([writing])
            await until_stored(ask, SOON)
            assert await ask() == await Happening.all().order_by("id").values_list("id", "level"), turns
            if ended:
                break
            with writes_without_cache():
                await Happening.filter(id=9).delete()
                await Happening.filter(id=1).delete()
                await Happening.create(id=1, slug="h1", organizer_id=1)
            await cache.clear(Happening)


def numbers() -> Any:
    @cached
    async def levels() -> Any:
        return await Happening.all().order_by("id").values_list("id", "level")

    return levels


async def until_stored(ask: Any, seconds: float) -> None:
    """Waits until the cache answers. Fails after this many seconds."""
    async with asyncio.timeout(seconds):
        while (await ask.explain()).reason != "hit":
            await ask()
            await asyncio.sleep(0.01)
