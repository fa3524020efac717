"""Redis is in trouble while something is written: nothing that was written is lost, and no read is stale afterwards.

Real servers, real signals, and a second process that reads through a connection of its own, also while ours is
broken, and so fills what we could not mark.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.transactions import in_transaction

from aiomodelcache import BackendError, CacheWriteError, ModelCache, RedisBackend
from aiomodelcache.backends.redis.scripts import load_script
from tests.backends.opening import PATIENT, hurry, opened
from tests.backends.proxy import Proxy
from tests.backends.service import Service
from tests.support.databases import DatabaseUrl
from tests.support.gates import PATIENCE, GatedBackend, gated_sql
from tests.support.models.models import Event, User
from tests.support.other_process import OtherProcess, Seen, look, other_process
from tests.support.servers import RedisServer

pytestmark = [
    pytest.mark.only_on("redis", because="the trouble is a server's"),
    pytest.mark.only_on("sqlite", because="the writes are those of tests/write, which run on every database"),
]

TIMEOUT = 0.3
"""Seconds that a round trip to a frozen server costs."""
SETTINGS: dict[str, Any] = {"breaker_cooldown": 0.02}
MARK, CLEAR = (load_script(name).sha.encode() for name in ("mark", "clear"))


@pytest.fixture(scope="module")
def process() -> Iterator[OtherProcess]:
    yield from other_process()


async def until_accepted(write: Callable[[], Awaitable[None]]) -> None:
    """Writes until that is not refused any more."""
    async with asyncio.timeout(PATIENCE):
        while True:
            with contextlib.suppress(CacheWriteError):
                return await write()
            await asyncio.sleep(0.005)


# The scene -------------------------------------------------------------------------------------------------


@dataclass
class Scene:
    """Two processes over one database and one Redis. Ours reaches it through a proxy, and by gates."""

    server: RedisServer
    proxy: Proxy
    store: GatedBackend
    cache: ModelCache
    process: OtherProcess
    redis: RedisBackend
    """What ``store`` counts and holds."""
    reopen: Callable[[], None]
    """Makes the other process one that has just begun."""
    organizer: User
    ids: list[int]
    """Of the events, the next ones included."""

    async def look(self) -> Seen:
        return await look(self.organizer.id, self.ids)

    async def other_looks(self) -> Seen:
        return await self.process.look(self.organizer.id, self.ids)

    async def both_see_what_is_stored(self) -> None:
        for seen in (await self.look(), await self.other_looks()):
            assert seen["cache"] == seen["database"]

    async def all_is_well(self) -> None:
        """Waits until our process has delivered what it kept. Then nobody may read anything old."""
        async with asyncio.timeout(PATIENCE):
            while self.cache.open_cache.guarded.has_undelivered:
                await asyncio.sleep(0.005)
        for _ in range(2):
            await self.both_see_what_is_stored()
        self.reopen()
        for _ in range(2):
            await self.both_see_what_is_stored()

    async def the_cache_is_used(self) -> None:
        """Waits until what nobody writes is answered by the cache again."""
        async with asyncio.timeout(PATIENCE):
            while True:
                await User.cache.get(username="kim")
                before = self.cache.stats.statements
                await User.cache.get(username="kim")
                if self.cache.stats.statements == before:
                    return
                await asyncio.sleep(0.005)


@asynccontextmanager
async def scene(
    server: RedisServer, db_url: DatabaseUrl, process: OtherProcess, *, url: str = "", **settings: Any
) -> AsyncIterator[Scene]:
    """Both processes have read everything; then a snapshot is taken, and something is written.

    Both reach Redis by ``url`` if it is given.
    """
    server.flush()
    kim = await User.create(username="kim")
    events = [await Event.create(slug=f"e{number}", title=f"t{number}", organizer=kim) for number in range(3)]
    ids = [events[0].id + number for number in range(5)]

    theirs = {"socket_timeout": TIMEOUT, **SETTINGS}  # what it cannot reach in time is no matter

    def reopen() -> None:
        process.close()
        process.open(db_url, url or server.url, **theirs)

    async with (
        Proxy(server.port) as proxy,
        opened(url or proxy.url) as redis,
        ModelCache(store := GatedBackend(redis), **{**SETTINGS, **settings}) as cache,
    ):
        here = Scene(server, proxy, store, cache, process, redis, reopen, kim, ids)
        process.open(db_url, url or server.url, **theirs)
        try:
            for _ in range(2):
                await here.both_see_what_is_stored()
            server.save()
            # This write is over when the trouble begins, and unknown to the snapshot.
            await Event.filter(slug="e2").update(title="since the snapshot")
            await here.both_see_what_is_stored()
            yield here
        finally:
            with contextlib.suppress(RuntimeError):  # it is not running
                server.cont()
            process.close()


# What is written ---------------------------------------------------------------------------------------------

Write = Callable[[], Awaitable[None]]


async def save() -> None:
    event = await Event.get(slug="e0")
    event.slug, event.title = "moved", "changed"
    await event.save()


async def write_in_a_transaction() -> None:
    async with in_transaction():
        await save()
        await (await Event.get(slug="e1")).delete()
        await Event.create(slug="new", title="created", organizer=await User.get(username="kim"))


async def update_more_than_the_limit() -> None:
    await Event.all().update(position=7)


WRITES: dict[str, Write] = {
    "autocommit": save,
    "transaction": write_in_a_transaction,
    "bulk": update_more_than_the_limit,
}
BULK_LIMIT = 2  # so that three rows are past it: the epoch is marked


# Trouble -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trouble:
    begin: Callable[[Scene], object]
    end: Callable[[Scene], object] = lambda scene: None
    refuses: bool = False
    """Nothing can be marked while it lasts."""
    ours_alone: bool = False
    """The other process reaches the server, so that it may read what is old until we have delivered."""


def freeze(scene: Scene) -> None:
    hurry(scene.redis, TIMEOUT)
    scene.server.stop()


def thaw(scene: Scene) -> None:
    scene.server.cont()
    hurry(scene.redis, PATIENT)


def run_out_of_memory(scene: Scene) -> None:
    with scene.server.client() as client:
        client.config_set("maxmemory", 1)


def have_memory_again(scene: Scene) -> None:
    with scene.server.client() as client:
        client.config_set("maxmemory", 0)


def forget_scripts(scene: Scene) -> None:
    with scene.server.client() as client:
        client.script_flush()


def lose_everything(scene: Scene) -> None:
    scene.server.flush()


TROUBLES: dict[str, Trouble] = {
    "killed": Trouble(lambda scene: scene.server.kill(), lambda scene: scene.server.restart(), refuses=True),
    "killed, then an old snapshot": Trouble(
        lambda scene: scene.server.kill(), lambda scene: scene.server.restore(), refuses=True
    ),
    "restarted empty": Trouble(lambda scene: scene.server.restart()),
    "restarted from an old snapshot": Trouble(lambda scene: scene.server.restore()),
    "frozen": Trouble(freeze, thaw, refuses=True),
    "out of memory": Trouble(run_out_of_memory, have_memory_again, refuses=True),
    "scripts forgotten": Trouble(forget_scripts),
    "flushed": Trouble(lose_everything),
    "cut off": Trouble(
        lambda scene: scene.proxy.cut(), lambda scene: scene.proxy.mend(), refuses=True, ours_alone=True
    ),
}

Step = Literal["before the mark", "before COMMIT", "before the clear", "during the clear", "afterwards"]
STEPS: list[Step] = ["before the mark", "before COMMIT", "before the clear", "during the clear", "afterwards"]


async def write_with(here: Scene, write: Write, trouble: Trouble, step: Step) -> None:
    """Writes, with trouble from one step on. Raises what the write raises."""
    if step in ("before the mark", "afterwards"):
        if step == "afterwards":
            await write()
        trouble.begin(here)
        await here.other_looks()
        if step == "before the mark":
            await write()
        return
    gate = here.store.hold("mark", "after") if step == "before COMMIT" else here.store.hold("clear")
    writing = asyncio.ensure_future(write())
    await gate.reached()
    if step == "during the clear":
        freeze(here)
        sent = here.proxy.requests.count(CLEAR)
        gate.open()
        await here.proxy.until(lambda: here.proxy.requests.count(CLEAR) > sent)
        trouble.begin(here)
        if trouble is not TROUBLES["frozen"]:
            with contextlib.suppress(RuntimeError):  # killed
                thaw(here)
    else:
        trouble.begin(here)
        await here.other_looks()  # which may fill what is old
        gate.open()
    await writing


def breaking(command: bytes, fate: Literal["drop", "hang up"]) -> Trouble:
    """Our connection breaks whenever this command is sent: before the server has it, or after it ran."""

    def begin(scene: Scene) -> None:
        scene.proxy.doomed, scene.proxy.fate = command, fate

    def end(scene: Scene) -> None:
        scene.proxy.doomed = None

    return Trouble(begin, end, refuses=command == MARK, ours_alone=True)


RESETS = {
    "mark lost": breaking(MARK, "drop"),
    "mark unanswered": breaking(MARK, "hang up"),
    "clear lost": breaking(CLEAR, "drop"),
    "clear unanswered": breaking(CLEAR, "hang up"),
}
TROUBLES |= RESETS


def all_cases() -> Iterator[Any]:
    """Every trouble at every step of a transaction, and the different ones for the other ways to write."""
    needs_an_answer = {"out of memory", "scripts forgotten", "flushed"}  # so not while a clear is on its way
    different = {"killed, then an old snapshot", "restarted empty", "out of memory", "cut off", *RESETS}
    for name in TROUBLES:
        steps: list[Step] = STEPS
        if name in RESETS:
            steps = ["before COMMIT" if "clear" in name else "before the mark"]
        elif name in needs_an_answer:
            steps = [step for step in STEPS if step != "during the clear"]
        for step in steps:
            for write in WRITES if name in different else ("transaction",):
                yield pytest.param(name, step, write, id=f"{name}, {step}, {write}")


CASES = list(all_cases())


def may_be_refused(case: Any) -> bool:
    name, step, write = case.values
    refused = step == "before the mark" and TROUBLES[name].refuses
    restarted = name in ("killed, then an old snapshot", "restarted empty") and write == "transaction"
    return refused or "clear" in name or restarted


# What holds --------------------------------------------------------------------------------------------------


async def retry_loses_nothing(here: Scene, write: Write, trouble: Trouble, step: Step) -> None:
    before = (await here.look())["database"]
    await write_with(here, write, trouble, step)
    seen = await here.look()
    assert seen["cache"] == seen["database"] != before
    if not trouble.ours_alone:
        seen = await here.other_looks()
        assert seen["cache"] == seen["database"]
    trouble.end(here)
    await here.all_is_well()
    await here.the_cache_is_used()


async def raise_refuses_or_delivers(here: Scene, write: Write, trouble: Trouble, step: Step) -> None:
    before = (await here.look())["database"]
    refused = False
    try:
        await write_with(here, write, trouble, step)
    except CacheWriteError:
        refused = True
    seen = await here.look()
    assert seen["cache"] == seen["database"]
    assert (seen["database"] == before) == refused
    if step == "before the mark" and trouble.refuses:
        assert refused
    if step != "before the mark":
        assert not refused
    trouble.end(here)
    await here.all_is_well()
    if refused:
        await until_accepted(write)
        assert (await here.look())["database"] != before
        await here.all_is_well()
    await here.the_cache_is_used()


@pytest.mark.parametrize(("name", "step", "write"), CASES)
async def test_retry(
    database: BaseDBAsyncClient,
    db_url: DatabaseUrl,
    own_redis: RedisServer,
    process: OtherProcess,
    name: str,
    step: Step,
    write: str,
) -> None:
    async with scene(own_redis, db_url, process, bulk_limit=BULK_LIMIT) as here:
        await retry_loses_nothing(here, WRITES[write], TROUBLES[name], step)


@pytest.mark.parametrize(("name", "step", "write"), [case for case in CASES if may_be_refused(case)])
async def test_raise(
    database: BaseDBAsyncClient,
    db_url: DatabaseUrl,
    own_redis: RedisServer,
    process: OtherProcess,
    name: str,
    step: Step,
    write: str,
) -> None:
    async with scene(own_redis, db_url, process, bulk_limit=BULK_LIMIT, on_write_error="raise") as here:
        await raise_refuses_or_delivers(here, WRITES[write], TROUBLES[name], step)


async def test_a_process_that_begins_after_the_restart_believes_nothing_old(
    database: BaseDBAsyncClient, db_url: DatabaseUrl, own_redis: RedisServer, process: OtherProcess
) -> None:
    async with scene(own_redis, db_url, process) as here:
        await write_in_a_transaction()
        own_redis.restore()
        with OtherProcess() as newcomer:
            newcomer.open(db_url, own_redis.patient_url, **SETTINGS)
            seen = await newcomer.look(here.organizer.id, here.ids)
            assert seen["cache"] == seen["database"]
        await here.all_is_well()


async def test_a_replica_that_is_promoted_without_the_last_invalidation(
    database: BaseDBAsyncClient, db_url: DatabaseUrl, redis_server: RedisServer, process: OtherProcess
) -> None:
    with ExitStack() as stack:
        service = Service(stack)
        service.replicated()
        async with scene(service.master, db_url, process, url=service.url) as here:
            service.replicated()
            service.cut_replica_off()
            await write_in_a_transaction()
            service.fail_over()
            service.master.kill()
            await here.all_is_well()
            await here.the_cache_is_used()


@pytest.mark.parametrize(
    ("key", "operation"), [("id", "lease"), ("id", "fill"), ("slug", "lease"), ("slug", "late lease"), ("slug", "fill")]
)
async def test_a_reader_that_began_before_the_restart(
    database: BaseDBAsyncClient,
    db_url: DatabaseUrl,
    own_redis: RedisServer,
    process: OtherProcess,
    key: str,
    operation: str,
) -> None:
    """The snapshot holds its lease and the stamp that it read, but not the write that came after."""
    async with scene(own_redis, db_url, process) as here:
        own_redis.flush()
        gate = here.store.hold(operation.split()[-1], skip=int(operation == "late lease"))
        reading = asyncio.ensure_future(Event.cache.get(**{key: 1 if key == "id" else "e0"}).resolve())
        await gate.reached()
        own_redis.save()
        event = await Event.get(id=1)
        event.title = "changed"
        await event.save()
        own_redis.restore()
        with contextlib.suppress(BackendError):
            await here.store.read([b"any"])  # so that the connection is a new one
        gate.open()
        assert (await reading).title in ("t0", "changed")  # it began before the write
        await here.all_is_well()
        await here.the_cache_is_used()


class TestUnknownOutcome:
    """A write is cancelled while its statement is on the way. The database carries it out in the end."""

    @staticmethod
    @asynccontextmanager
    async def lost(database: BaseDBAsyncClient) -> AsyncIterator[None]:
        """A save that is cancelled in the end, and never heard of again."""
        with gated_sql(database) as sql:
            gate = sql.hold("UPDATE")
            saving = asyncio.create_task(save())
            await gate.reached()
            yield
            saving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await saving

    @staticmethod
    async def assert_not_stale_when_it_is_written(here: Scene, database: BaseDBAsyncClient) -> None:
        assert here.cache.stats.unknown_outcomes == 1
        await here.all_is_well()
        await database.execute_query("UPDATE event SET slug = 'moved', title = 'changed' WHERE slug = 'e0'")
        await here.all_is_well()

    async def test_its_intents_are_renewed_in_case_they_were_lost(
        self, database: BaseDBAsyncClient, db_url: DatabaseUrl, own_redis: RedisServer, process: OtherProcess
    ) -> None:
        async with scene(own_redis, db_url, process) as here:
            async with self.lost(database):
                own_redis.restart()
                await here.other_looks()  # it fills what is old
                renewed = here.store.hold("mark", "after")
            await renewed.reached()
            renewed.open()
            await self.assert_not_stale_when_it_is_written(here, database)

    async def test_past_the_limit_the_whole_model_stays_uncached(
        self, database: BaseDBAsyncClient, db_url: DatabaseUrl, own_redis: RedisServer, process: OtherProcess
    ) -> None:
        async with scene(own_redis, db_url, process, undelivered_limit=5) as here:
            here.proxy.cut()
            async with self.lost(database):
                pass
            await Event.create(slug="new", title="created", organizer=here.organizer)
            assert len(here.cache.open_cache.writer._undelivered) == 1
            here.proxy.mend()
            await self.assert_not_stale_when_it_is_written(here, database)
