"""Faults of Redis during a write: no invalidation is lost, and no read is stale afterwards.

The tests use real servers and real signals. A second process reads through its own connection, even while the
connection of the test's process is broken, so it fills entries that the writer could not mark.
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
from tests.support.other_process import Answers, OtherProcess, other_process, read_all
from tests.support.servers import RedisServer

pytestmark = [
    pytest.mark.only_on("redis", because="the trouble is a server's"),
    pytest.mark.only_on("sqlite", because="the writes are those of tests/write, which run on every database"),
]

TIMEOUT = 0.3
"""Seconds until a round trip to a frozen server times out."""
SETTINGS: dict[str, Any] = {"breaker_cooldown": 0.02}
MARK, CLEAR = (load_script(name).sha.encode() for name in ("mark", "clear"))


@pytest.fixture(scope="module")
def process() -> Iterator[OtherProcess]:
    yield from other_process()


async def until_accepted(write: Callable[[], Awaitable[None]]) -> None:
    """Retries a write until the cache accepts it."""
    async with asyncio.timeout(PATIENCE):
        while True:
            with contextlib.suppress(CacheWriteError):
                return await write()
            await asyncio.sleep(0.005)


# The scene -------------------------------------------------------------------------------------------------


@dataclass
class Scene:
    """Two processes over one database and one Redis. The test's own process reaches Redis through a proxy and gates."""

    server: RedisServer
    proxy: Proxy
    store: GatedBackend
    cache: ModelCache
    process: OtherProcess
    redis: RedisBackend
    """The backend that ``store`` wraps."""
    reopen: Callable[[], None]
    """Opens a new cache in the other process, which remembers nothing."""
    organizer: User
    ids: list[int]
    """The primary keys of the events, and of the next ones to be created."""

    async def read_here(self) -> Answers:
        return await read_all(self.organizer.id, self.ids)

    async def read_in_other(self) -> Answers:
        return await self.process.read_all(self.organizer.id, self.ids)

    async def assert_both_agree(self) -> None:
        for seen in (await self.read_here(), await self.read_in_other()):
            assert seen["cache"] == seen["database"]

    async def assert_agreement_once_delivered(self) -> None:
        """Waits until this process has delivered its invalidations. From then on no process reads a stale entry."""
        async with asyncio.timeout(PATIENCE):
            while self.cache.open_cache.guarded.has_undelivered:
                await asyncio.sleep(0.005)
        for _ in range(2):
            await self.assert_both_agree()
        self.reopen()
        for _ in range(2):
            await self.assert_both_agree()

    async def until_the_cache_is_used(self) -> None:
        """Waits until the cache answers a lookup of a row that has no writer."""
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
    """Yields a scene in which both processes have read everything.

    Redis has a snapshot that lacks one later write. Both processes reach Redis by ``url`` if it is given.
    """
    server.flush()
    kim = await User.create(username="kim")
    events = [await Event.create(slug=f"e{number}", title=f"t{number}", organizer=kim) for number in range(3)]
    ids = [events[0].id + number for number in range(5)]

    other_settings = {"socket_timeout": TIMEOUT, **SETTINGS}  # the other process may time out

    def reopen() -> None:
        process.close()
        process.open(db_url, url or server.url, **other_settings)

    async with (
        Proxy(server.port) as proxy,
        opened(url or proxy.url) as redis,
        ModelCache(store := GatedBackend(redis), **{**SETTINGS, **settings}) as cache,
    ):
        here = Scene(server, proxy, store, cache, process, redis, reopen, kim, ids)
        process.open(db_url, url or server.url, **other_settings)
        try:
            for _ in range(2):
                await here.assert_both_agree()
            server.save()
            # This write ends before the fault begins, and the snapshot lacks it.
            await Event.filter(slug="e2").update(title="since the snapshot")
            await here.assert_both_agree()
            yield here
        finally:
            with contextlib.suppress(RuntimeError):  # the server is not running
                server.cont()
            process.close()


# Writes ---------------------------------------------------------------------------------------------

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
BULK_LIMIT = 2  # three rows are past it, so the write marks the epoch


# Faults -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    begin: Callable[[Scene], object]
    end: Callable[[Scene], object] = lambda scene: None
    refuses: bool = False
    """True if no mark succeeds during the fault."""
    only_this_process: bool = False
    """True if the other process still reaches the server.

    It may read stale entries until this process has delivered its invalidations.
    """


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


FAULTS: dict[str, Fault] = {
    "killed": Fault(lambda scene: scene.server.kill(), lambda scene: scene.server.restart(), refuses=True),
    "killed, then an old snapshot": Fault(
        lambda scene: scene.server.kill(), lambda scene: scene.server.restore(), refuses=True
    ),
    "restarted empty": Fault(lambda scene: scene.server.restart()),
    "restarted from an old snapshot": Fault(lambda scene: scene.server.restore()),
    "frozen": Fault(freeze, thaw, refuses=True),
    "out of memory": Fault(run_out_of_memory, have_memory_again, refuses=True),
    "scripts forgotten": Fault(forget_scripts),
    "flushed": Fault(lose_everything),
    "cut off": Fault(
        lambda scene: scene.proxy.cut(), lambda scene: scene.proxy.mend(), refuses=True, only_this_process=True
    ),
}

Step = Literal["before the mark", "before COMMIT", "before the clear", "during the clear", "afterwards"]
STEPS: list[Step] = ["before the mark", "before COMMIT", "before the clear", "during the clear", "afterwards"]


async def write_with(here: Scene, write: Write, fault: Fault, step: Step) -> None:
    """Writes, with the fault from one step of the write on. Raises the exception of the write."""
    if step in ("before the mark", "afterwards"):
        if step == "afterwards":
            await write()
        fault.begin(here)
        await here.read_in_other()
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
        fault.begin(here)
        if fault is not FAULTS["frozen"]:
            with contextlib.suppress(RuntimeError):  # the fault killed the server
                thaw(here)
    else:
        fault.begin(here)
        await here.read_in_other()  # the other process may fill old entries
        gate.open()
    await writing


def breaking(command: bytes, fate: Literal["drop", "hang up"]) -> Fault:
    """Returns a fault that breaks this process's connection at a command.

    Under ``drop`` the command never arrives. Under ``hang up`` the server runs it and the reply is lost.
    """

    def begin(scene: Scene) -> None:
        scene.proxy.doomed, scene.proxy.fate = command, fate

    def end(scene: Scene) -> None:
        scene.proxy.doomed = None

    return Fault(begin, end, refuses=command == MARK, only_this_process=True)


RESETS = {
    "mark lost": breaking(MARK, "drop"),
    "mark unanswered": breaking(MARK, "hang up"),
    "clear lost": breaking(CLEAR, "drop"),
    "clear unanswered": breaking(CLEAR, "hang up"),
}
FAULTS |= RESETS


def all_cases() -> Iterator[Any]:
    """Yields every fault at every step of a transaction, and the faults that differ for other writes."""
    needs_an_answer = {"out of memory", "scripts forgotten", "flushed"}  # so not while a clear is in flight
    different = {"killed, then an old snapshot", "restarted empty", "out of memory", "cut off", *RESETS}
    for name in FAULTS:
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
    refused = step == "before the mark" and FAULTS[name].refuses
    restarted = name in ("killed, then an old snapshot", "restarted empty") and write == "transaction"
    return refused or "clear" in name or restarted


# Guarantees --------------------------------------------------------------------------------------------------


async def assert_retry_loses_nothing(here: Scene, write: Write, fault: Fault, step: Step) -> None:
    before = (await here.read_here())["database"]
    await write_with(here, write, fault, step)
    seen = await here.read_here()
    assert seen["cache"] == seen["database"] != before
    if not fault.only_this_process:
        seen = await here.read_in_other()
        assert seen["cache"] == seen["database"]
    fault.end(here)
    await here.assert_agreement_once_delivered()
    await here.until_the_cache_is_used()


async def assert_raise_refuses_or_delivers(here: Scene, write: Write, fault: Fault, step: Step) -> None:
    before = (await here.read_here())["database"]
    refused = False
    try:
        await write_with(here, write, fault, step)
    except CacheWriteError:
        refused = True
    seen = await here.read_here()
    assert seen["cache"] == seen["database"]
    assert (seen["database"] == before) == refused
    if step == "before the mark" and fault.refuses:
        assert refused
    if step != "before the mark":
        assert not refused
    fault.end(here)
    await here.assert_agreement_once_delivered()
    if refused:
        await until_accepted(write)
        assert (await here.read_here())["database"] != before
        await here.assert_agreement_once_delivered()
    await here.until_the_cache_is_used()


@pytest.mark.exhaustive(because="meets every fault at every step of every write")
@pytest.mark.parametrize(("name", "step", "write"), CASES)
async def test_under_retry_no_fault_loses_an_invalidation(
    database: BaseDBAsyncClient,
    db_url: DatabaseUrl,
    own_redis: RedisServer,
    process: OtherProcess,
    name: str,
    step: Step,
    write: str,
) -> None:
    async with scene(own_redis, db_url, process, bulk_limit=BULK_LIMIT) as here:
        await assert_retry_loses_nothing(here, WRITES[write], FAULTS[name], step)


@pytest.mark.exhaustive(because="meets every fault at every step of every write")
@pytest.mark.parametrize(("name", "step", "write"), [case for case in CASES if may_be_refused(case)])
async def test_under_raise_a_faulty_write_is_refused_or_delivered(
    database: BaseDBAsyncClient,
    db_url: DatabaseUrl,
    own_redis: RedisServer,
    process: OtherProcess,
    name: str,
    step: Step,
    write: str,
) -> None:
    async with scene(own_redis, db_url, process, bulk_limit=BULK_LIMIT, on_write_error="raise") as here:
        await assert_raise_refuses_or_delivers(here, WRITES[write], FAULTS[name], step)


async def test_a_process_that_starts_after_a_restore_reads_nothing_stale(
    database: BaseDBAsyncClient, db_url: DatabaseUrl, own_redis: RedisServer, process: OtherProcess
) -> None:
    async with scene(own_redis, db_url, process) as here:
        await write_in_a_transaction()
        own_redis.restore()
        with OtherProcess() as newcomer:
            newcomer.open(db_url, own_redis.patient_url, **SETTINGS)
            seen = await newcomer.read_all(here.organizer.id, here.ids)
            assert seen["cache"] == seen["database"]
        await here.assert_agreement_once_delivered()


def swap(server: RedisServer) -> None:
    with server.client() as client:
        client.execute_command("SWAPDB", 0, 1)


async def test_contents_swapped_in_from_another_database_are_not_used(
    database: BaseDBAsyncClient, db_url: DatabaseUrl, own_redis: RedisServer, process: OtherProcess
) -> None:
    async with scene(own_redis, db_url, process) as here:
        async with ModelCache(own_redis.patient_url.replace("/0?", "/1?")) as other:
            assert [event.title for event in await other.manager(Event).filter(organizer=here.organizer)]
        await write_in_a_transaction()
        swap(own_redis)
        await here.assert_agreement_once_delivered()
        await here.until_the_cache_is_used()


async def test_contents_that_are_swapped_out_and_back_while_the_cache_is_read_are_not_used(
    database: BaseDBAsyncClient, db_url: DatabaseUrl, own_redis: RedisServer, process: OtherProcess
) -> None:
    async with scene(own_redis, db_url, process) as here:
        swap(own_redis)
        await here.assert_both_agree()
        await write_in_a_transaction()
        swap(own_redis)
        await here.assert_agreement_once_delivered()
        await here.until_the_cache_is_used()


@pytest.mark.parametrize("remedy", ["CLIENT KILL", "clear_all"])
@pytest.mark.parametrize("how", ["SWAPDB", "RESTORE"])
async def test_contents_that_come_back_unnoticed_are_not_used_after_the_documented_remedy(
    database: BaseDBAsyncClient,
    db_url: DatabaseUrl,
    own_redis: RedisServer,
    process: OtherProcess,
    how: str,
    remedy: str,
) -> None:
    async with scene(own_redis, db_url, process) as here:
        with own_redis.client() as client:
            dumps = {key: client.dump(key) for key in client.scan_iter()}
            if how == "SWAPDB":
                swap(own_redis)
            await save()
            if how == "SWAPDB":
                swap(own_redis)
            else:
                client.flushall()
                for key, dump in dumps.items():
                    client.restore(key, 0, dump)
            seen = await here.read_in_other()
            assert seen["cache"] != seen["database"]  # connections that stay open are not told
            if remedy == "CLIENT KILL":
                client.execute_command("CLIENT", "KILL", "TYPE", "normal")
                with contextlib.suppress(BackendError):
                    await here.store.read([b"any"])
                here.reopen()
            else:
                await here.cache.clear_all()
        await here.assert_agreement_once_delivered()
        await here.until_the_cache_is_used()


async def test_a_promoted_replica_without_the_last_invalidation_serves_nothing_stale(
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
            await here.assert_agreement_once_delivered()
            await here.until_the_cache_is_used()


@pytest.mark.parametrize(
    ("key", "operation"), [("id", "lease"), ("id", "fill"), ("slug", "lease"), ("slug", "late lease"), ("slug", "fill")]
)
async def test_a_reader_that_began_before_a_restore_fills_nothing_stale(
    database: BaseDBAsyncClient,
    db_url: DatabaseUrl,
    own_redis: RedisServer,
    process: OtherProcess,
    key: str,
    operation: str,
) -> None:
    """The snapshot has the reader's lease and stamp, but lacks the write that came after it."""
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
            await here.store.read([b"any"])  # makes the connection a new one
        gate.open()
        assert (await reading).title in ("t0", "changed")  # the reader began before the write
        await here.assert_agreement_once_delivered()
        await here.until_the_cache_is_used()


@pytest.mark.usefixtures("impatient")
class TestUnknownOutcome:
    """A write is cancelled while its statement is in flight. The database executes the statement later."""

    @staticmethod
    @asynccontextmanager
    async def cancelled_save(database: BaseDBAsyncClient) -> AsyncIterator[None]:
        """Starts a save before the block, and cancels it after the block."""
        with gated_sql(database) as sql:
            gate = sql.hold("UPDATE")
            saving = asyncio.create_task(save())
            await gate.reached()
            yield
            saving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await saving

    @staticmethod
    async def assert_fresh_after_the_late_statement(here: Scene, database: BaseDBAsyncClient) -> None:
        assert here.cache.stats.unknown_outcomes == 1
        await here.assert_agreement_once_delivered()
        await database.execute_query("UPDATE event SET slug = 'moved', title = 'changed' WHERE slug = 'e0'")
        await here.assert_agreement_once_delivered()

    async def test_intents_of_an_unknown_outcome_are_marked_again_after_a_restart(
        self, database: BaseDBAsyncClient, db_url: DatabaseUrl, own_redis: RedisServer, process: OtherProcess
    ) -> None:
        async with scene(own_redis, db_url, process) as here:
            async with self.cancelled_save(database):
                own_redis.restart()
                await here.read_in_other()  # fills old entries
                renewed = here.store.hold("mark", "after")
            await renewed.reached()
            renewed.open()
            await self.assert_fresh_after_the_late_statement(here, database)

    async def test_past_the_limit_an_unknown_outcome_keeps_the_whole_model_uncached(
        self, database: BaseDBAsyncClient, db_url: DatabaseUrl, own_redis: RedisServer, process: OtherProcess
    ) -> None:
        async with scene(own_redis, db_url, process, undelivered_limit=5) as here:
            here.proxy.cut()
            async with self.cancelled_save(database):
                pass
            await Event.create(slug="new", title="created", organizer=here.organizer)
            assert len(here.cache.open_cache.writer._undelivered) == 1
            here.proxy.mend()
            await self.assert_fresh_after_the_late_statement(here, database)
