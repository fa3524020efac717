"""``ModelCache`` from open to close: what it opens over, who finds it, and that nothing outlives it."""

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
    """Every test closes what it opened; then no task of a cache may be left."""
    before = asyncio.all_tasks()
    yield
    assert asyncio.all_tasks() - before - {asyncio.current_task()} == set()
    with pytest.raises(CacheNotOpen):
        await Event.cache.get(id=1)


def only(text: str) -> str:
    """A pattern for exactly this text."""
    return f"^{re.escape(text)}$"


async def add_event(slug: str = "pycon") -> Event:
    organizer, _ = await User.get_or_create(username="kim")
    return await Event.create(slug=slug, title=slug, organizer=organizer)


class TestOpening:
    async def test_open_and_close_and_open_again(self, database: BaseDBAsyncClient, backend_url: str) -> None:
        event = await add_event()
        cache = ModelCache(backend_url)
        assert repr(cache) == "<ModelCache, closed>"
        await cache.close()  # has nothing to close
        async with cache as opened:
            assert opened is cache
            assert repr(cache).startswith("<ModelCache of 3 models on <")
            tasks = asyncio.all_tasks()
            assert await Event.cache.get(slug="pycon") == event
            assert cache.stats.statements == 1
            assert await Event.cache.get(slug="pycon") == event
            assert cache.stats.statements == 1
            assert asyncio.all_tasks() == tasks  # none waits in the background
            with pytest.raises(CacheError, match="This ModelCache is open already: close it first"):
                await cache.open()
            assert await Event.cache.get(slug="pycon") == event
        await cache.close()
        with pytest.raises(CacheNotOpen, match=only(NO_CACHE)):
            await Event.cache.get(slug="pycon")
        with pytest.raises(CacheNotOpen, match=only(CLOSED)):
            assert cache.stats

        await cache.open()
        assert await Event.cache.get(slug="pycon") == event
        # What is in Redis outlives a cache; what is in memory does not.
        assert cache.stats.statements == (1 if backend_url == "memory://" else 0)
        event.title = "PyCon"
        await event.save()
        assert (await Event.cache.get(slug="pycon")).title == "PyCon"
        await cache.close()

    @pytest.mark.only_on("redis", because="its server is killed")
    async def test_a_failed_open_leaves_nothing_and_may_be_tried_again(
        self, database: BaseDBAsyncClient, own_redis: RedisServer
    ) -> None:
        event = await add_event()
        cache = ModelCache(own_redis.patient_url)
        own_redis.kill()
        with pytest.raises(BackendError, match=rf"^Redis at 127\.0\.0\.1:{own_redis.port} cannot be reached: .*$"):
            await cache.open()
        with pytest.raises(CacheNotOpen, match=only(NO_CACHE)):
            await Event.cache.get(id=event.id)
        own_redis.restart()
        async with cache:
            assert await Event.cache.get(id=event.id) == event

    async def test_tortoise_comes_first(self) -> None:
        message = "Tortoise is not initialised: await Tortoise.init(...) before opening the cache."
        with pytest.raises(CacheConfigurationError, match=only(message)):
            await ModelCache("memory://").open()

    async def test_settings_and_what_is_wrong_with_them_come_with_the_cache(
        self, database: BaseDBAsyncClient, backend_url: str
    ) -> None:
        with pytest.raises(
            CacheConfigurationError, match=only("CacheConfig.timeout is 0: it must be a number above zero.")
        ):
            ModelCache(backend_url, timeout=0)
        async with ModelCache(backend_url, config=CacheConfig(timeout=5), batch_size=7) as cache:
            assert (cache.config.timeout, cache.config.batch_size) == (5, 7)


class TestWhereTheStoreIs:
    @pytest.mark.parametrize("scheme", ["memory", "redis", "database 3", "unix", "client", "backend"])
    @pytest.mark.only_on("memory", "redis", because="the scheme says which of them")
    async def test_every_kind_of_store_serves(
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
        assert await client.ping()  # what was handed over is not closed
        await client.aclose()
        with redis_server.client() as blocking:
            databases = set(blocking.info("keyspace"))
        expected = {"redis": {"db0"}, "database 3": {"db3"}, "unix": {"db0"}, "client": {"db0"}}
        assert databases == expected.get(scheme, set())

    async def test_a_backend_that_was_handed_over_is_opened_but_not_closed(
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
        for statements in (1, 0):  # its content stays, too
            async with ModelCache(store) as cache:
                assert cache.backend is store
                assert await Event.cache.get(id=event.id) == event
                assert cache.stats.statements == statements
        assert calls == ["open", "open"]

    @pytest.mark.only_on("memory", because="caches on one server share what is there")
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
    async def test_a_wrong_url_is_named_with_what_it_should_be(self, database: BaseDBAsyncClient, url: str) -> None:
        with pytest.raises(CacheConfigurationError) as caught:
            await ModelCache(url).open()
        message = str(caught.value)
        assert repr(url) in message
        assert "redis://" in message
        assert "memory://" in message
        assert message.count("\n") == 0

    @pytest.mark.only_on("no store", because="these are none")
    @pytest.mark.parametrize("store", [None, 7, MemoryBackend, redis.Redis(), {"url": "memory://"}])
    async def test_what_is_no_store_is_named_with_what_is(self, database: BaseDBAsyncClient, store: Any) -> None:
        with pytest.raises(CacheConfigurationError, match=r"pass a .*redis\.asyncio.* or a (URL|Backend)\.$"):
            await ModelCache(store).open()

    @pytest.mark.only_on("redis", because="it is about a server")
    async def test_a_server_that_is_not_there_is_one_sentence(self, database: BaseDBAsyncClient) -> None:
        port = free_port()
        with pytest.raises(BackendError, match=rf"^Redis at 127\.0\.0\.1:{port} cannot be reached: [^\n]*$"):
            await ModelCache(f"redis://127.0.0.1:{port}/0").open()

    @pytest.mark.only_on("redis", because="its server is frozen")
    async def test_a_server_that_does_not_answer_is_one_sentence_in_time(
        self, database: BaseDBAsyncClient, own_redis: RedisServer
    ) -> None:
        own_redis.stop()
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(BackendError, match=r"^Redis at [\d.:]+ did not answer in time: [^\n]*$"):
                await ModelCache(own_redis.url, socket_timeout=0.1).open()

    @pytest.mark.only_on("redis", because="memory has no password")
    async def test_a_wrong_password_is_one_sentence_without_the_password(
        self, database: BaseDBAsyncClient, own_redis: RedisServer
    ) -> None:
        event = await add_event()
        with own_redis.client() as client:
            client.config_set("requirepass", "right")
        address = own_redis.patient_url.removeprefix("redis://")
        for url in (f"redis://:hunter2@{address}", f"redis://kim:hunter2@{address}", f"redis://{address}"):
            pattern = r"^Redis at [\d.:]+ rejected the user name or the password: [^\n]*$"
            with pytest.raises(BackendError, match=pattern) as caught:
                await ModelCache(url).open()
            assert "hunter2" not in str(caught.value)
        async with ModelCache(f"redis://:right@{address}") as cache:
            assert "right" not in repr(cache)
            assert await Event.cache.get(id=event.id) == event


class TestSeveralCaches:
    async def test_the_first_is_the_default_and_another_is_asked_explicitly(
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

            # A write is told to both.
            event.slug = "europython"
            await event.save()
            for manager in (Event.cache, second.manager(Event)):
                assert (await manager.get(id=event.id)).slug == "europython"
                assert await manager.get_or_none(slug="pycon") is None

            # Each forgets for itself.
            await second.clear(Event)
            async with assert_ops(backend, sql=0):
                await Event.cache.get(id=event.id)
            async with assert_ops(sql=1):
                await second.manager(Event).get(id=event.id)

        message = "The default cache is closed: reach the one that is open by its manager(model)."
        with pytest.raises(CacheNotOpen, match=only(message)):
            await Event.cache.get(id=event.id)
        assert await second.manager(Event).get(id=event.id) == event
        await second.close()
        async with ModelCache(backend):  # and the next one is the default again
            assert await Event.cache.get(id=event.id) == event

    async def test_namespaces_share_a_store_and_nothing_in_it(
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
    async def test_every_kind_of_look_up_says_that_no_cache_is_open(self, database: BaseDBAsyncClient) -> None:
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
            with pytest.raises(CacheNotOpen, match=only(NO_CACHE)):
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

    async def test_what_belongs_to_a_closed_cache_says_so(self, database: BaseDBAsyncClient, backend_url: str) -> None:
        cache = ModelCache(backend_url)
        async with cache:
            manager = cache.manager(Event)
            query = manager.get(slug="pycon")
        async with ModelCache(backend_url):  # another one does not stand in for it
            for lookup in (query, manager.get(slug="pycon"), manager.in_bulk([1]), manager.clear()):
                with pytest.raises(CacheNotOpen, match=only(CLOSED)):
                    await lookup
            with pytest.raises(CacheNotOpen, match=only(CLOSED)):
                cache.manager(Event)
            with pytest.raises(CacheNotOpen, match=only(CLOSED)):
                await cache.clear_all()

    async def test_foreign_keys_and_writes_go_on_as_tortoise_has_them(
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
    """Does the work in another thread, whose event loop ends with it."""

    async def run() -> None:
        # `set` gives this thread connections of its own. Otherwise Tortoise would replace the test's.
        require_context().connections.set(database.connection_name, database)
        await work()

    await asyncio.to_thread(asyncio.run, run())


@pytest.mark.filterwarnings("ignore::tortoise.warnings.TortoiseLoopSwitchWarning")
class TestEventLoops:
    async def test_another_loop_is_told_to_open_its_own(self, database: BaseDBAsyncClient, backend_url: str) -> None:
        event = await add_event()
        message = "This cache was opened in another event loop: close it there and open one in the loop that uses it."

        async def elsewhere() -> None:
            for lookup in (Event.cache.get(id=event.id), BatchCacheQuery(a=Event.cache.get(id=1)), Event.cache.clear()):
                with pytest.raises(CacheNotOpen, match=only(message)):
                    await lookup

        async with ModelCache(backend_url):
            await in_another_loop(database, elsewhere)
            assert await Event.cache.get(id=event.id) == event

    async def test_a_write_in_another_loop_is_refused_because_the_cache_would_not_know(
        self, database: BaseDBAsyncClient, backend_url: str
    ) -> None:
        event = await add_event()

        async def elsewhere() -> None:
            event.title = "PyCon"
            for write in (event.save(), event.delete()):
                with pytest.raises(CacheNotOpen, match="opened in another event loop"):
                    await write

        async with ModelCache(backend_url):
            await in_another_loop(database, elsewhere)
            assert (await Event.cache.get(id=event.id)).title == "pycon"
        await event.save()
        assert (await Event.get(id=event.id)).title == "PyCon"

    @pytest.mark.only_on("memory", because="connections that are left to a loop that has ended are warned of")
    async def test_a_cache_whose_loop_has_ended_is_in_nobodys_way(
        self, database: BaseDBAsyncClient, backend_url: str
    ) -> None:
        event = await add_event()
        forgotten = ModelCache(backend_url)
        await in_another_loop(database, forgotten.open)
        event.title = "PyCon"
        await event.save()  # nobody to tell
        async with ModelCache(backend_url) as cache:
            await event.save()
            assert await Event.cache.get(id=event.id) == event
            assert cache.stats.statements == 1
        with pytest.raises(CacheNotOpen, match=only(CLOSED)):
            await forgotten.clear_all()
        await forgotten.close()


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
    async def test_look_ups_under_way_are_answered(self, database: BaseDBAsyncClient, backend_url: str) -> None:
        """Held at the store, held at the database, and only just asked for: all of them."""
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
                just_asked = tasks.create_task(User.cache.get(username="kim").resolve())
                await asyncio.sleep(0)  # it has begun, no more
                closing = tasks.create_task(cache.close())
                await asyncio.sleep(0)
                with pytest.raises(CacheNotOpen, match=only(NO_CACHE)):
                    await Event.cache.get(id=event.id)
                assert not closing.done()
                second_read.open()
                select.open()
        assert at_the_database.result() == at_the_store.result() == event
        assert just_asked.result().username == "kim"
        await store.close()

    async def test_a_look_up_that_was_only_just_asked_for_is_answered(
        self, database: BaseDBAsyncClient, backend_url: str
    ) -> None:
        event = await add_event()
        cache = await ModelCache(backend_url).open()
        asked = asyncio.create_task(Event.cache.get(slug="pycon").resolve())
        await asyncio.sleep(0)  # it waits for the end of this tick
        await cache.close()
        assert await asked == event

    async def test_a_look_up_that_takes_too_long_is_told(
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
        with pytest.raises(CacheNotOpen, match=only("The cache was closed before this lookup was answered.")):
            await slow
        assert isinstance((await batch)["event"], CacheNotOpen)

    async def test_a_save_under_way_is_told_to_the_store(
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
            async with assert_ops(store, sql=1):  # the intent is gone, so this fills
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
            assert len(client.client_list()) == 1  # only this one

    @pytest.mark.only_on("redis", because="its server is frozen")
    async def test_closing_with_the_server_gone_takes_no_longer_than_a_round_trip(
        self, database: BaseDBAsyncClient, own_redis: RedisServer
    ) -> None:
        event = await add_event()
        async with asyncio.timeout(PATIENCE):
            async with ModelCache(own_redis.patient_url, breaker_cooldown=60) as cache:
                assert await Event.cache.get(id=event.id) == event
                hurry(cache.backend)
                own_redis.stop()
                await event.save()


class TestMistakes:
    """What a newcomer may get wrong, and what is said then."""

    async def test_a_look_up_by_other_fields_lists_the_keys(self, cache: ModelCache) -> None:
        keys = "get (id), (slug), (organizer, title), (state); filter (organizer), (organizer, state), (venue)"
        with pytest.raises(
            ValueError,
            match=only(
                f"Event has no cache by (title) for get. Keys that exist: {keys}. "
                "Use one of these, or add the fields to get_key_fields_list of its CacheMeta or ModelCacheManager."
            ),
        ):
            await Event.cache.get(title="PyCon")
        with pytest.raises(
            CacheNotRegistered,
            match=only(
                f"Event has no cache by (slug) for filter. Keys that exist: {keys}. "
                "Use Event.cache.get, or add the fields to filter_key_fields_list of its CacheMeta or "
                "ModelCacheManager."
            ),
        ):
            await Event.cache.filter(slug="pycon")
        with pytest.raises(
            CacheNotRegistered,
            match=only(
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

    async def test_a_look_up_that_no_key_could_answer_says_what_does(self, cache: ModelCache) -> None:
        with pytest.raises(CacheNotRegistered, match=r"Use Event\.cache\.filter, or add the fields to get_key_"):
            await Event.cache.get(venue=None)
        for lookup in (lambda: Event.cache.get(slug__in=["pycon"]), lambda: Event.cache.filter(title__icontains="py")):
            with pytest.raises(CacheNotRegistered, match=r"A cache is asked for equal values only; get_many takes"):
                await lookup()
        with pytest.raises(CacheNotRegistered, match=only("Event: id is given twice, as pk and as id.")):
            await Event.cache.get(pk=1, id=1)
        with pytest.raises(CacheNotRegistered, match=r"several rows may share \(state\); .* Use filter\."):
            await Event.cache.get_many(["open"], key="state")
        text: Any = "pycon"
        with pytest.raises(TypeError, match=only("Event: get_many and in_bulk take a list of values; got 'pycon'.")):
            Event.cache.get_many(text, key="slug")

    async def test_what_is_no_query_is_named(self, cache: ModelCache) -> None:
        listed: Any = [Event.cache.get(id=1)]
        with pytest.raises(
            TypeError, match=r"^BatchCacheQuery takes a dict of queries, or queries by name; got \[<Get"
        ):
            BatchCacheQuery(listed)
        event: Any = Event()
        message = (
            "BatchCacheQuery: 'event' is not a query, but of type Event. "
            "Pass Model.cache.get(...) and the like without awaiting them."
        )
        with pytest.raises(TypeError, match=only(message)):
            BatchCacheQuery(event=event)
        for wrong in (lambda: EventBySlug(), lambda: EventBySlug("a", "b"), lambda: EventBySlug("a", slug="b")):
            with pytest.raises(
                TypeError, match=r"^EventBySlug takes its key \(slug\), each once, by position or by name;"
            ):
                wrong()

    async def test_a_model_without_cache_is_named(self, cache: ModelCache) -> None:
        with pytest.raises(
            CacheNotRegistered,
            match=only(
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
            AttributeError, match=only("Event.cache is the model's cache manager and cannot be assigned")
        ):
            event.cache = 7

    async def test_what_is_not_awaited_shows_what_it_is(self, cache: ModelCache) -> None:
        queries = {
            Event.cache.get(slug="pycon"): "<GetQuery Event(slug='pycon')>",
            Event.cache.filter(organizer=1): "<FilterQuery Event(organizer=1)>",
            Event.cache.get_many([1, 2]): "<ManyQuery Event(pk in [1, 2])>",
            Event.cache.in_bulk(["a"], key="slug"): "<BulkQuery Event(slug in ['a'])>",
            EventBySlug("pycon"): "<EventBySlug(slug='pycon')>",
        }
        assert {repr(query): text for query, text in queries.items()} == {text: text for text in queries.values()}
        batch = BatchCacheQuery(event=EventBySlug("pycon"), count=Event.cache.count(organizer=1))
        assert repr(batch) == (
            "<BatchCacheQuery {'event': <EventBySlug(slug='pycon')>, 'count': <CountQuery Event(organizer=1)>}>"
        )
