"""``ModelCache`` from open to close: its store, the default cache, event loops, and clean-up when it closes."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import redis
import redis.asyncio
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.context import require_context
from tortoise.exceptions import DoesNotExist

from aiomodelcache import (
    BackendError,
    BatchCacheQuery,
    CacheConfig,
    CacheConfigurationError,
    CacheError,
    CacheNotOpen,
    CacheNotRegistered,
    MemoryBackend,
    ModelCache,
    RedisBackend,
)
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.backends.opening import hurry
from tests.support.gates import PATIENCE, GatedBackend, gated_sql
from tests.support.models.models import Event, EventBySlug, LatestEvents, Plain, User, Venue, VenueCaches
from tests.support.servers import RedisServer
from tests.support.servers.server import free_port

pytestmark = pytest.mark.only_on(
    "sqlite", because="a cache opens and closes over a store; the connections of Tortoise are not its own"
)

NO_CACHE = "No cache is open: wrap the application in `async with ModelCache(url):` after Tortoise.init."
CLOSED = "This cache is closed: use it inside `async with`, or call open() first."


@pytest.fixture(autouse=True)
async def nothing_left_running() -> AsyncIterator[None]:
    """Asserts that a test leaves neither a task of a cache nor an open cache behind."""
    before = asyncio.all_tasks()
    yield
    assert asyncio.all_tasks() - before - {asyncio.current_task()} == set()
    with pytest.raises(CacheNotOpen):
        await Event.cache.get(id=1)


def exactly(text: str) -> str:
    """Returns a pattern that matches only ``text``."""
    return f"^{re.escape(text)}$"


async def add_event(slug: str = "pycon") -> Event:
    organizer, _ = await User.get_or_create(username="kim")
    return await Event.create(slug=slug, title=slug, organizer=organizer)


class TestOpening:
    async def test_a_closed_cache_can_be_opened_again(self, database: BaseDBAsyncClient, backend_url: str) -> None:
        event = await add_event()
        cache = ModelCache(backend_url)
        assert repr(cache) == "<ModelCache, closed>"
        await cache.close()  # there is nothing to close
        async with cache as opened:
            assert opened is cache
            assert repr(cache).startswith("<ModelCache of 3 models on <")
            tasks = asyncio.all_tasks()
            assert await Event.cache.get(slug="pycon") == event
            assert cache.stats.statements == 1
            assert await Event.cache.get(slug="pycon") == event
            assert cache.stats.statements == 1
            assert asyncio.all_tasks() == tasks  # there is no background task
            with pytest.raises(CacheError, match="This ModelCache is already open: close it first"):
                await cache.open()
            assert await Event.cache.get(slug="pycon") == event
        await cache.close()
        with pytest.raises(CacheNotOpen, match=exactly(NO_CACHE)):
            await Event.cache.get(slug="pycon")
        with pytest.raises(CacheNotOpen, match=exactly(CLOSED)):
            assert cache.stats
        queryset: Any = Event.filter(slug="pycon")
        for invalidate in (lambda: Event.cache.invalidate(event), queryset.invalidate_cache):
            with pytest.raises(CacheNotOpen, match=exactly(NO_CACHE)):
                await invalidate()

        await cache.open()
        assert await Event.cache.get(slug="pycon") == event
        # Entries in Redis outlive a cache. Entries in memory do not.
        assert cache.stats.statements == (1 if backend_url == "memory://" else 0)
        event.title = "PyCon"
        await event.save()
        assert (await Event.cache.get(slug="pycon")).title == "PyCon"
        await cache.close()

    @pytest.mark.only_on("redis", because="its server is killed")
    async def test_a_failed_open_leaves_the_cache_closed_and_can_be_repeated(
        self, database: BaseDBAsyncClient, own_redis: RedisServer
    ) -> None:
        event = await add_event()
        cache = ModelCache(own_redis.patient_url, require_backend=True)
        own_redis.kill()
        with pytest.raises(BackendError, match=rf"^Redis at 127\.0\.0\.1:{own_redis.port} cannot be reached: .*$"):
            await cache.open()
        with pytest.raises(CacheNotOpen, match=exactly(NO_CACHE)):
            await Event.cache.get(id=event.id)
        own_redis.restart()
        async with cache:
            assert await Event.cache.get(id=event.id) == event

    async def test_opening_before_tortoise_is_initialised_is_an_error(self) -> None:
        message = "Tortoise is not initialised: await Tortoise.init(...) before opening the cache."
        with pytest.raises(CacheConfigurationError, match=exactly(message)):
            await ModelCache("memory://").open()

    async def test_settings_are_given_to_the_constructor_which_checks_them(
        self, database: BaseDBAsyncClient, backend_url: str
    ) -> None:
        with pytest.raises(CacheConfigurationError, match=exactly("CacheConfig.timeout is 0: it must be above zero.")):
            ModelCache(backend_url, timeout=0)
        async with ModelCache(backend_url, config=CacheConfig(timeout=5), batch_size=7) as cache:
            assert (cache.config.timeout, cache.config.batch_size) == (5, 7)


class TestStores:
    @pytest.mark.parametrize("scheme", ["memory", "redis", "database 3", "unix", "client", "backend"])
    @pytest.mark.only_on("memory", "redis", because="the scheme says which of them")
    async def test_every_kind_of_store_works(
        self, database: BaseDBAsyncClient, redis_server: RedisServer, scheme: str
    ) -> None:
        redis_server.flush()
        client = redis.asyncio.Redis(unix_socket_path=str(redis_server.socket))
        stores: dict[str, Any] = {
            "memory": "memory://",
            "redis": redis_server.patient_url,
            "database 3": redis_server.patient_url.replace("/0", "/3"),
            "unix": f"unix://{redis_server.socket}",
            "client": client,
            "backend": MemoryBackend(),
        }
        async with ModelCache(stores[scheme]) as cache:
            event = await add_event()
            assert await Event.cache.get(slug="pycon") == event
            before = cache.stats.statements
            assert await Event.cache.get(slug="pycon") == event
            assert cache.stats.statements == before
            await event.delete()
            with pytest.raises(DoesNotExist):
                await Event.cache.get(slug="pycon")
        assert await client.ping()  # a client passed in is not closed
        await client.aclose()
        with redis_server.client() as blocking:
            databases = set(blocking.info("keyspace"))
        expected = {"redis": {"db0"}, "database 3": {"db3"}, "unix": {"db0"}, "client": {"db0"}}
        assert databases == expected.get(scheme, set())

    async def test_a_backend_passed_in_is_opened_but_not_closed(
        self, database: BaseDBAsyncClient, backend: CountingBackend
    ) -> None:
        calls: list[str] = []

        class Store(CountingBackend):
            async def open(self) -> None:
                calls.append("open")

            async def close(self) -> None:
                calls.append("close")

        store = Store(backend)
        event = await add_event()
        for statements in (1, 0):  # its entries stay, too
            async with ModelCache(store) as cache:
                assert cache.backend is store
                assert await Event.cache.get(id=event.id) == event
                assert cache.stats.statements == statements
        assert calls == ["open", "open"]

    @pytest.mark.only_on("memory", because="caches on one server share its entries")
    async def test_two_memory_caches_share_nothing(self, database: BaseDBAsyncClient) -> None:
        event = await add_event()
        async with ModelCache("memory://") as first, ModelCache("memory://") as second:
            for cache in (first, second):
                await cache.manager(Event).get(id=event.id)
            assert (first.stats.statements, second.stats.statements) == (1, 1)

    @pytest.mark.parametrize(
        "url",
        [
            "localhost:6379",
            "redis:/localhost",
            "http://localhost:6379",
            "redis://localhost:port/0",
            "redis://localhost:6379/zero",
            "redis://localhost:6379/0?no_such_option=1",
            "unix://",
            "memory",
            "",
        ],
    )
    @pytest.mark.only_on("no store", because="there is none at a wrong URL")
    async def test_a_wrong_url_is_an_error_that_shows_right_ones(self, database: BaseDBAsyncClient, url: str) -> None:
        with pytest.raises(CacheConfigurationError) as caught:
            await ModelCache(url).open()
        message = str(caught.value)
        assert repr(url.replace(":port", ":***").replace("option=1", "option=***")) in message
        assert "redis://" in message
        assert "memory://" in message
        assert message.count("\n") == 0

    @pytest.mark.only_on("no store", because="these are none")
    @pytest.mark.parametrize("store", [None, 7, MemoryBackend, redis.Redis(), {"url": "memory://"}])
    async def test_a_value_that_is_no_store_is_an_error_that_names_the_right_types(
        self, database: BaseDBAsyncClient, store: Any
    ) -> None:
        with pytest.raises(CacheConfigurationError, match=r"pass a .*redis\.asyncio.* or a (URL|Backend)\.$"):
            await ModelCache(store).open()

    @pytest.mark.only_on("redis", because="it is about a server")
    async def test_an_unreachable_server_is_an_error_of_one_line(self, database: BaseDBAsyncClient) -> None:
        port = free_port()
        with pytest.raises(BackendError, match=rf"^Redis at 127\.0\.0\.1:{port} cannot be reached: [^\n]*$"):
            await ModelCache(f"redis://127.0.0.1:{port}/0", require_backend=True).open()

    @pytest.mark.only_on("redis", because="its server is frozen")
    async def test_a_server_that_does_not_answer_in_time_is_an_error_of_one_line(
        self, database: BaseDBAsyncClient, own_redis: RedisServer
    ) -> None:
        own_redis.stop()
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(BackendError, match=r"^Redis at [\d.:]+ did not answer in time: [^\n]*$"):
                await ModelCache(own_redis.url, socket_timeout=0.1, require_backend=True).open()

    @pytest.mark.only_on("redis", because="memory has no password")
    async def test_a_wrong_password_is_an_error_of_one_line_without_the_password(
        self, database: BaseDBAsyncClient, own_redis: RedisServer
    ) -> None:
        event = await add_event()
        with own_redis.client() as client:
            client.config_set("requirepass", "right")
        address = own_redis.patient_url.removeprefix("redis://")
        for url in (f"redis://:hunter2@{address}", f"redis://kim:hunter2@{address}", f"redis://{address}"):
            pattern = r"^Redis at [\d.:]+ rejected the user name or the password: [^\n]*$"
            with pytest.raises(BackendError, match=pattern) as caught:
                await ModelCache(url, require_backend=True).open()
            assert "hunter2" not in str(caught.value)
        async with ModelCache(f"redis://:right@{address}") as cache:
            assert "right" not in repr(cache)
            assert await Event.cache.get(id=event.id) == event


class Unreachable(CountingBackend):
    """A store that cannot be opened before ``reachable`` is set. An attempt waits for ``attempted``."""

    def __init__(self) -> None:
        super().__init__(MemoryBackend())
        self.reachable = False
        self.attempts = 0
        self.attempted = asyncio.Event()

    async def open(self) -> None:
        self.attempts += 1
        await self.attempted.wait()
        if not self.reachable:
            raise BackendError("The store is away.")


@pytest.mark.only_on("redis", because="memory is always there")
class TestOpeningWithoutTheServer:
    @pytest.mark.parametrize("trouble", ["down", "frozen", "password"])
    async def test_reads_and_writes_work_and_the_server_is_used_as_soon_as_it_is_there(
        self, database: BaseDBAsyncClient, own_redis: RedisServer, caplog: pytest.LogCaptureFixture, trouble: str
    ) -> None:
        event = await add_event()
        if trouble == "down":
            own_redis.kill()
        elif trouble == "frozen":
            own_redis.stop()
        else:
            with own_redis.client() as client:
                client.config_set("requirepass", "right")
        async with ModelCache(own_redis.url, breaker_cooldown=0.05, socket_timeout=0.5) as cache:
            [record] = caplog.records
            pattern = r"aiomodelcache: the cache is not used for now: Redis at [\d.:]+ (cannot|did not|rejected)"
            assert re.match(pattern, record.getMessage())
            assert await Event.cache.get(slug="pycon") == event
            event.title = "PyCon"
            await event.save()
            assert (await Event.cache.get(slug="pycon")).title == "PyCon"
            with pytest.raises(BackendError):
                await cache.clear(Event)
            if trouble == "down":
                own_redis.restart()
            elif trouble == "frozen":
                own_redis.cont()
            else:
                with redis.Redis.from_url(own_redis.url, password="right") as client:
                    client.config_set("requirepass", "")
            async with asyncio.timeout(PATIENCE):
                while not cache.stats.of("Event(slug)").hits:
                    assert (await Event.cache.get(slug="pycon")).title == "PyCon"
                    await asyncio.sleep(0.01)
            async with assert_ops(sql=0):
                assert (await Event.cache.get(slug="pycon")).title == "PyCon"

    async def test_a_write_of_the_time_without_the_server_is_delivered(
        self, database: BaseDBAsyncClient, own_redis: RedisServer
    ) -> None:
        event = await add_event()
        own_redis.kill()
        async with ModelCache(own_redis.patient_url, breaker_cooldown=0.05) as late:
            own_redis.restart()
            async with ModelCache(own_redis.patient_url, require_backend=True) as other:
                manager = other.manager(Event)
                assert (await manager.get(slug="pycon")).title == "pycon"
                event.title = "PyCon"
                await event.save()
                assert (await manager.get(slug="pycon")).title == "PyCon"
                assert (await late.manager(Event).get(slug="pycon")).title == "PyCon"
                assert late.stats.undelivered == 0

    async def test_a_cache_that_reads_nothing_needs_no_server(
        self, database: BaseDBAsyncClient, own_redis: RedisServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        event = await add_event()
        async with ModelCache(own_redis.patient_url) as reading:
            await reading.manager(Event).get(slug="pycon")
        own_redis.kill()
        async with ModelCache(own_redis.patient_url, enabled=False) as cache:
            assert await Event.cache.get(slug="pycon") == event
        assert (caplog.records, cache.config.require_backend) == ([], False)
        own_redis.restart()
        async with ModelCache(own_redis.patient_url) as reading, ModelCache(own_redis.patient_url, enabled=False):
            await reading.manager(Event).get(slug="pycon")
        async with ModelCache(own_redis.patient_url, enabled=False):
            event.title = "PyCon"
            await event.save()
        async with ModelCache(own_redis.patient_url):
            assert (await Event.cache.get(slug="pycon")).title == "PyCon"

    @pytest.mark.parametrize("url", ["redis://{}/0", "redis+cluster://{}", "redis+sentinel://{}/main", "unix:///no/{}"])
    async def test_every_kind_of_server_may_be_away(self, database: BaseDBAsyncClient, url: str) -> None:
        event = await add_event()
        async with ModelCache(url.format(f"127.0.0.1:{free_port()}"), breaker_cooldown=0.001):
            for _ in range(3):
                assert await Event.cache.get(slug="pycon") == event
                await event.save()

    @pytest.mark.only_on("no store", because="its store is made up")
    async def test_requests_that_wait_for_the_store_share_one_attempt_to_open_it(
        self, database: BaseDBAsyncClient
    ) -> None:
        event = await add_event()
        store = Unreachable()
        store.attempted.set()
        async with ModelCache(store) as cache:
            assert store.attempts == 1
            store.attempted.clear()
            clears = [asyncio.create_task(cache.clear(Event)) for _ in range(20)]
            for _ in range(50):  # until each of them waits
                await asyncio.sleep(0)
            store.attempted.set()
            async with asyncio.timeout(PATIENCE):
                failures = await asyncio.gather(*clears, return_exceptions=True)
            assert [str(failure) for failure in failures] == ["The store is away."] * 20
            assert store.attempts == 2
            await event.save()
            store.reachable = True
            async with asyncio.timeout(PATIENCE):
                while cache.open_cache.guarded.has_undelivered:
                    await asyncio.sleep(0.01)
            async with assert_ops(sql=1):
                await Event.cache.get(id=event.id)
                await Event.cache.get(id=event.id)

    @pytest.mark.only_on("no store", because="its store is made up")
    async def test_two_tasks_cannot_open_one_cache_at_once(self, database: BaseDBAsyncClient) -> None:
        store = Unreachable()
        store.reachable = True
        cache = ModelCache(store)
        first = asyncio.create_task(cache.open())
        async with asyncio.timeout(PATIENCE):
            while not store.attempts:
                await asyncio.sleep(0)
        message = "This ModelCache is being opened by another task: open it once, or make another one."
        with pytest.raises(CacheError, match=exactly(message)):
            await cache.open()
        store.attempted.set()
        assert await first is cache
        assert store.attempts == 1
        await cache.close()

    async def test_a_cancelled_open_leaves_nothing_open(
        self, database: BaseDBAsyncClient, own_redis: RedisServer
    ) -> None:
        event = await add_event()
        backend = RedisBackend(own_redis.patient_url)
        cache = ModelCache(backend, near=True)
        own_redis.stop()
        opening = asyncio.create_task(cache.open())
        await asyncio.sleep(0)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        own_redis.cont()
        with pytest.raises(CacheNotOpen, match=exactly(CLOSED)):
            assert cache.stats
        async with ModelCache(backend, near=True):  # no other cache tracks the backend
            assert await Event.cache.get(id=event.id) == event
        await backend.close()


class TestSeveralCaches:
    async def test_the_first_open_cache_is_the_default_and_others_are_used_through_their_managers(
        self, database: BaseDBAsyncClient, backend: CountingBackend
    ) -> None:
        other_store = CountingBackend(MemoryBackend())
        event = await add_event()
        async with ModelCache(backend) as first:
            second = await ModelCache(other_store).open()
            venues = second.manager(Venue)
            assert isinstance(venues, VenueCaches)
            assert type(first.manager(Event)) is type(Event.cache)

            async with assert_ops(other_store, redis=0):
                assert await Event.cache.get(slug="pycon") == event
                assert await asyncio.create_task(Event.cache.get(slug="pycon").resolve()) == event
            async with assert_ops(backend, redis=0):
                assert await second.manager(Event).get(slug="pycon") == event
                assert await second.manager(Event).filter(organizer=event.organizer_id) == [event]

            # A write invalidates both caches.
            event.slug = "europython"
            await event.save()
            for manager in (Event.cache, second.manager(Event)):
                assert (await manager.get(id=event.id)).slug == "europython"
                assert await manager.get_or_none(slug="pycon") is None

            # Clearing one cache leaves the other unchanged.
            await second.clear(Event)
            async with assert_ops(backend, sql=0):
                await Event.cache.get(id=event.id)
            async with assert_ops(sql=1):
                await second.manager(Event).get(id=event.id)

        message = "The default cache is closed: use the open one by its manager(model)."
        with pytest.raises(CacheNotOpen, match=exactly(message)):
            await Event.cache.get(id=event.id)
        assert await second.manager(Event).get(id=event.id) == event
        await second.close()
        async with ModelCache(backend):  # the next cache becomes the default
            assert await Event.cache.get(id=event.id) == event

    async def test_caches_of_different_namespaces_share_no_entries(
        self, database: BaseDBAsyncClient, backend: CountingBackend
    ) -> None:
        event = await add_event()
        async with (
            ModelCache(backend, namespace="shop") as shop,
            ModelCache(backend, namespace="shop:b") as other,
            ModelCache(backend) as plain,
        ):
            caches = (shop, other, plain)
            for cache in caches:
                async with assert_ops(sql=1):
                    assert await cache.manager(Event).get(slug="pycon") == event
            await shop.clear_all()
            for cache, statements in zip(caches, (1, 0, 0), strict=True):
                async with assert_ops(sql=statements):
                    assert await cache.manager(Event).get(slug="pycon") == event
            event.title = "PyCon"
            await event.save()
            for cache in caches:
                assert (await cache.manager(Event).get(slug="pycon")).title == "PyCon"

    async def test_caches_of_one_namespace_share_their_entries(
        self, database: BaseDBAsyncClient, backend: CountingBackend
    ) -> None:
        event = await add_event()
        async with ModelCache(backend, namespace="shop") as here, ModelCache(backend, namespace="shop") as there:
            await here.manager(Event).get(slug="pycon")
            async with assert_ops(sql=0):
                assert await there.manager(Event).get(slug="pycon") == event


class TestWithoutAnOpenCache:
    @pytest.mark.only_on("no store", because="no cache is open")
    async def test_every_kind_of_lookup_is_an_error(self, database: BaseDBAsyncClient) -> None:
        lookups: list[Any] = [
            Event.cache.get(slug="pycon"),
            Event.cache.get_or_none(slug="pycon"),
            Event.cache.filter(organizer=1),
            Event.cache.exists(slug="pycon"),
            Event.cache.count(organizer=1),
            Event.cache.get_many([1, 2]),
            Event.cache.in_bulk([1, 2]),
            EventBySlug("pycon"),
            LatestEvents(1),
            BatchCacheQuery(event=Event.cache.get(slug="pycon")),
            Event.cache.clear(),
        ]
        for lookup in lookups:
            with pytest.raises(CacheNotOpen, match=exactly(NO_CACHE)):
                await lookup
        assert repr(Event.cache) == "<Event.cache: not bound to an open cache>"

    async def test_a_query_may_be_made_before_the_cache_opens(
        self, database: BaseDBAsyncClient, backend_url: str
    ) -> None:
        event = await add_event()
        query, wrong = Event.cache.get(slug="pycon"), Event.cache.get(title="pycon")
        for _ in range(2):
            async with ModelCache(backend_url):
                assert await query == event
                with pytest.raises(CacheNotRegistered):
                    await wrong

    async def test_managers_and_queries_of_a_closed_cache_are_errors(
        self, database: BaseDBAsyncClient, backend_url: str
    ) -> None:
        cache = ModelCache(backend_url)
        async with cache:
            manager = cache.manager(Event)
            query = manager.get(slug="pycon")
        async with ModelCache(backend_url):  # another open cache does not replace it
            for lookup in (query, manager.get(slug="pycon"), manager.in_bulk([1]), manager.clear()):
                with pytest.raises(CacheNotOpen, match=exactly(CLOSED)):
                    await lookup
            with pytest.raises(CacheNotOpen, match=exactly(CLOSED)):
                cache.manager(Event)
            with pytest.raises(CacheNotOpen, match=exactly(CLOSED)):
                await cache.clear_all()

    async def test_foreign_keys_and_writes_work_as_in_tortoise(
        self, database: BaseDBAsyncClient, backend_url: str
    ) -> None:
        async with ModelCache(backend_url):
            event = await add_event()
        event.title = "PyCon"
        await event.save()
        fresh = await Event.get(slug="pycon")
        assert (await fresh.organizer).username == "kim"
        assert await fresh.venue is None
        await fresh.delete()


async def in_another_loop(database: BaseDBAsyncClient, work: Callable[[], Awaitable[object]]) -> None:
    """Runs ``work`` in another thread, in an event loop that ends with ``work``."""

    async def run() -> None:
        # `set` gives this thread connections of its own. Otherwise Tortoise would replace the test's.
        require_context().connections.set(database.connection_name, database)
        await work()

    await asyncio.to_thread(asyncio.run, run())


@pytest.mark.filterwarnings("ignore::tortoise.warnings.TortoiseLoopSwitchWarning")
class TestEventLoops:
    @pytest.mark.only_on("memory", because="connections that are left to a loop that has ended are warned of")
    async def test_a_cache_whose_event_loop_has_ended_does_not_affect_others(
        self, database: BaseDBAsyncClient, backend_url: str
    ) -> None:
        event = await add_event()
        abandoned = ModelCache(backend_url, inspect_columns=False)  # by the connection of another loop
        await in_another_loop(database, abandoned.open)
        event.title = "PyCon"
        await event.save()  # there is no open cache to invalidate
        async with ModelCache(backend_url) as cache:
            await event.save()
            assert await Event.cache.get(id=event.id) == event
            assert cache.stats.statements == 1
        with pytest.raises(CacheNotOpen, match=exactly(CLOSED)):
            await abandoned.clear_all()
        await abandoned.close()


class TestDisabled:
    async def test_reads_go_to_the_database_and_writes_still_invalidate(
        self, database: BaseDBAsyncClient, backend: CountingBackend
    ) -> None:
        event = await add_event()
        async with ModelCache(backend) as other, ModelCache(backend, enabled=False) as cache:
            manager = cache.manager(Event)
            for _ in range(2):
                async with assert_ops(backend, sql=3, redis=0):
                    assert await manager.get(slug="pycon") == event
                    assert await manager.filter(organizer=event.organizer_id) == [event]
                    assert await manager.get_or_none(slug="nope") is None
            batch = await BatchCacheQuery(event=manager.get(slug="pycon")).get(only_cache=True)
            assert batch == {}

            assert await other.manager(Event).get(slug="pycon") == event
        async with ModelCache(backend, enabled=False):
            event.slug = "europython"
            await event.save()
        async with ModelCache(backend):
            assert await Event.cache.get_or_none(slug="pycon") is None
            assert (await Event.cache.get(slug="europython")).id == event.id


class TestClosing:
    async def test_closing_waits_for_lookups_in_flight(self, database: BaseDBAsyncClient, backend_url: str) -> None:
        """One lookup waits for the store, one waits for the database, and one has only just started."""
        event = await add_event()
        store = GatedBackend(MemoryBackend() if backend_url == "memory://" else RedisBackend(backend_url))
        await store.open()
        cache = await ModelCache(store).open()
        with gated_sql(database) as sql:
            read, select = store.hold("read", "after"), sql.hold("SELECT", "after")
            async with asyncio.TaskGroup() as tasks:
                at_the_database = tasks.create_task(Event.cache.get(id=event.id).resolve())
                read.open()
                await select.reached()
                second_read = store.hold("read")
                at_the_store = tasks.create_task(Event.cache.get(slug="pycon").resolve())
                await second_read.reached()
                just_started = tasks.create_task(User.cache.get(username="kim").resolve())
                await asyncio.sleep(0)  # starts the lookup, and no more
                closing = tasks.create_task(cache.close())
                await asyncio.sleep(0)
                with pytest.raises(CacheNotOpen, match=exactly(NO_CACHE)):
                    await Event.cache.get(id=event.id)
                assert not closing.done()
                second_read.open()
                select.open()
        assert at_the_database.result() == at_the_store.result() == event
        assert just_started.result().username == "kim"
        await store.close()

    async def test_closing_waits_for_a_lookup_that_has_only_just_started(
        self, database: BaseDBAsyncClient, backend_url: str
    ) -> None:
        event = await add_event()
        cache = await ModelCache(backend_url).open()
        lookup = asyncio.create_task(Event.cache.get(slug="pycon").resolve())
        await asyncio.sleep(0)  # the lookup waits for the end of this tick
        await cache.close()
        assert await lookup == event

    async def test_a_lookup_that_closing_does_not_wait_for_raises(
        self, database: BaseDBAsyncClient, backend: CountingBackend
    ) -> None:
        await add_event()
        store = GatedBackend(backend)
        cache = await ModelCache(store, lease_ttl=0.05).open()
        read = store.hold("read")
        slow = asyncio.create_task(Event.cache.get_or_none(slug="pycon").resolve())
        batch = asyncio.create_task(BatchCacheQuery(event=Event.cache.get(id=1)).get(return_exceptions=True))
        await read.reached()
        await cache.close()
        with pytest.raises(CacheNotOpen, match=exactly("The cache was closed before this lookup was answered.")):
            await slow
        assert isinstance((await batch)["event"], CacheNotOpen)

    async def test_a_statement_that_closing_does_not_wait_for_raises_the_same(
        self, database: BaseDBAsyncClient, backend_url: str
    ) -> None:
        event = await add_event()
        cache = await ModelCache(backend_url, lease_ttl=0.05).open()
        computed = LatestEvents(organizer=event.organizer_id)
        for lookup in (Event.cache.get(slug="pycon"), Event.cache.filter(organizer=event.organizer_id), computed):
            with gated_sql(database) as sql:
                select = sql.hold("SELECT")
                message = "The cache was closed before this lookup was answered."
                slow = asyncio.create_task(lookup.resolve())
                await select.reached()
                await cache.close()
                with pytest.raises(CacheNotOpen, match=exactly(message)):
                    await slow
            await cache.open()
        await cache.close()

    async def test_closing_waits_for_the_invalidation_of_a_save_in_flight(
        self, database: BaseDBAsyncClient, backend: CountingBackend
    ) -> None:
        event = await add_event()
        store = GatedBackend(backend)
        cache = await ModelCache(store).open()
        await Event.cache.get(id=event.id)
        clear = store.hold("clear")
        async with asyncio.TaskGroup() as tasks:
            event.title = "PyCon"
            saving = tasks.create_task(event.save())
            await clear.reached()
            closing = tasks.create_task(cache.close())
            await asyncio.sleep(0)
            assert not closing.done()
            clear.open()
        assert saving.done()
        async with ModelCache(store):
            async with assert_ops(store, sql=1):  # the intent is cleared, so this lookup fills
                assert (await Event.cache.get(id=event.id)).title == "PyCon"
            async with assert_ops(store, sql=0):
                await Event.cache.get(id=event.id)

    @pytest.mark.only_on("redis", because="its connections are counted")
    async def test_the_connections_are_closed_even_if_closing_is_cancelled(
        self, database: BaseDBAsyncClient, own_redis: RedisServer
    ) -> None:
        cache = await ModelCache(own_redis.patient_url).open()
        with gated_sql(database) as sql:
            select = sql.hold("SELECT")
            slow = asyncio.create_task(Event.cache.get_or_none(id=1).resolve())
            await select.reached()
            closing = asyncio.create_task(cache.close())
            await asyncio.sleep(0)
            closing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await closing
            with pytest.raises(CacheNotOpen):
                await slow
        with own_redis.client() as client:
            assert len(client.client_list()) == 1  # only the client that lists them

    @pytest.mark.only_on("redis", because="its server is frozen")
    async def test_closing_with_a_frozen_server_ends(self, database: BaseDBAsyncClient, own_redis: RedisServer) -> None:
        event = await add_event()
        async with asyncio.timeout(PATIENCE):
            async with ModelCache(own_redis.patient_url, breaker_cooldown=60) as cache:
                assert await Event.cache.get(id=event.id) == event
                hurry(cache.backend)
                own_redis.stop()
                await event.save()


class TestMistakes:
    """The mistakes of new users, and the error messages for them."""

    async def test_a_lookup_by_undeclared_fields_lists_the_keys(self, cache: ModelCache) -> None:
        keys = "get (id), (slug), (organizer, title), (state); filter (organizer), (organizer, state), (venue)"
        with pytest.raises(
            ValueError,
            match=exactly(
                f"Event has no cache by (title) for get. Keys that exist: {keys}. "
                "Use one of these, or add the fields to get_key_fields_list of its CacheMeta or ModelCacheManager."
            ),
        ):
            await Event.cache.get(title="PyCon")
        with pytest.raises(
            CacheNotRegistered,
            match=exactly(
                f"Event has no cache by (slug) for filter. Keys that exist: {keys}. "
                "Use Event.cache.get, or add the fields to filter_key_fields_list of its CacheMeta or "
                "ModelCacheManager."
            ),
        ):
            await Event.cache.filter(slug="pycon")
        with pytest.raises(
            CacheNotRegistered,
            match=exactly(
                f"Event has no cache by (title, nope). Keys that exist: {keys}. "
                "Use one of these, or add the fields to get_key_fields_list of its CacheMeta or ModelCacheManager."
            ),
        ):
            await Event.cache.count(title="PyCon", nope=1)
        with pytest.raises(
            CacheNotRegistered, match=r"^Event has no cache by \(\) for get\. Keys that exist: get \(id\)"
        ):
            await Event.cache.get()
        assert repr(Event.cache) == f"<Event.cache: {keys}>"

    async def test_a_lookup_of_the_wrong_kind_names_the_right_one(self, cache: ModelCache) -> None:
        with pytest.raises(CacheNotRegistered, match=r"Use Event\.cache\.filter, or add the fields to get_key_"):
            await Event.cache.get(venue=None)
        for lookup in (lambda: Event.cache.get(slug__in=["pycon"]), lambda: Event.cache.filter(title__icontains="py")):
            with pytest.raises(CacheNotRegistered, match=r"A cache lookup compares for equality only; get_many takes"):
                await lookup()
        with pytest.raises(CacheNotRegistered, match=exactly("Event: id is given twice, as pk and as id.")):
            await Event.cache.get(pk=1, id=1)
        with pytest.raises(CacheNotRegistered, match=r"several rows may share \(state\); .* Use get_many or filter\."):
            await Event.cache.in_bulk(["open"], key="state")
        text: Any = "pycon"
        with pytest.raises(TypeError, match=exactly("Event: get_many and in_bulk take a list of values; got <str>.")):
            Event.cache.get_many(text, key="slug")

    async def test_wrong_arguments_of_batches_and_cache_classes_are_type_errors(self, cache: ModelCache) -> None:
        listed: Any = [Event.cache.get(id=1)]
        with pytest.raises(
            TypeError, match=r"^BatchCacheQuery takes a dict of queries, or queries by name; got <list>\.$"
        ):
            BatchCacheQuery(listed)
        event: Any = Event()
        message = (
            "BatchCacheQuery: 'event' is not a query, but of type Event. "
            "Pass Model.cache.get(...) and the like without awaiting them."
        )
        with pytest.raises(TypeError, match=exactly(message)):
            BatchCacheQuery(event=event)
        for wrong in (lambda: EventBySlug(), lambda: EventBySlug("a", "b"), lambda: EventBySlug("a", slug="b")):
            with pytest.raises(
                TypeError, match=r"^EventBySlug takes its key \(slug\), each once, by position or by name;"
            ):
                wrong()

    async def test_a_model_without_a_cache_is_an_error(self, cache: ModelCache) -> None:
        with pytest.raises(
            CacheNotRegistered,
            match=exactly(
                "Plain is not bound to the open cache: make it a CachedModel or give it a ModelCacheManager, "
                "and let Tortoise.init load its module before the cache opens."
            ),
        ):
            cache.manager(Plain)
        with pytest.raises(CacheNotRegistered, match="Plain is not bound"):
            await cache.clear(Event, Plain)

    async def test_the_manager_cannot_be_assigned(self, cache: ModelCache) -> None:
        event: Any = Event(slug="pycon")
        with pytest.raises(
            AttributeError, match=exactly("Event.cache is the model's cache manager and cannot be assigned")
        ):
            event.cache = 7

    async def test_the_repr_of_a_query_shows_its_kind_and_key(self, cache: ModelCache) -> None:
        queries = {
            Event.cache.get(slug="pycon"): "<GetQuery Event(slug=<str>)>",
            Event.cache.filter(organizer=1): "<FilterQuery Event(organizer=<int>)>",
            Event.cache.get_many([1, 2]): "<ManyQuery Event(pk in 2 values)>",
            Event.cache.in_bulk(["a"], key="slug"): "<BulkQuery Event(slug in 1 values)>",
            EventBySlug("pycon"): "<EventBySlug(slug=<str>)>",
        }
        assert {repr(query): text for query, text in queries.items()} == {text: text for text in queries.values()}
        batch = BatchCacheQuery(event=EventBySlug("pycon"), count=Event.cache.count(organizer=1))
        assert repr(batch) == ("<BatchCacheQuery [<EventBySlug(slug=<str>)>, <CountQuery Event(organizer=<int>)>]>")
