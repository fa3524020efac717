"""``RedisBackend`` on one server: the conformance suite, its commands, its errors, its connections."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import pytest
import redis
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from aiomodelcache.backends.protocol import Backend, Clear, Fill, Lease
from aiomodelcache.backends.redis.backend import RedisBackend
from aiomodelcache.backends.redis.commands import STAMP_TTL_MS
from aiomodelcache.backends.redis.incarnation import ServerIncarnation
from aiomodelcache.encoding.together import KnownKeys
from aiomodelcache.exceptions import BackendError, CacheConfigurationError
from aiomodelcache.testing.claims import ClaimConformance
from aiomodelcache.testing.conformance import (
    MINUTE,
    held,
    is_version,
    new_key,
    new_keys,
    new_token,
    new_value,
    put,
    writers,
)
from aiomodelcache.testing.late_fills import LateFillConformance
from aiomodelcache.testing.write_through import WriteThroughConformance
from tests.support.servers import RedisServer

from .opening import PATIENT, hurry, opened
from .proxy import Proxy


class TestRedisBackend(WriteThroughConformance, ClaimConformance, LateFillConformance):
    @pytest.fixture(autouse=True)
    def store(self, redis_url: str) -> None:
        self.url = redis_url

    async def make_backend(self) -> RedisBackend:
        backend = RedisBackend(self.url, socket_timeout=PATIENT)
        await backend.open()
        return backend


@pytest.fixture
async def backend(redis_url: str) -> AsyncIterator[RedisBackend]:
    async with opened(redis_url) as backend:
        yield backend


@pytest.fixture
async def proxy(redis_server: RedisServer) -> AsyncIterator[Proxy]:
    async with Proxy(redis_server.port) as proxy:
        yield proxy


@pytest.fixture
def control(redis_server: RedisServer) -> Iterator["redis.Redis"]:
    """A plain client of the run's server."""
    with redis_server.client() as client:
        yield client


@pytest.fixture(scope="module")
def hurt_redis(redis_server: RedisServer) -> Iterator[RedisServer]:
    """A server whose settings the tests of this module change. Each test restores them."""
    # ``redis_server`` skips where there is no Redis.
    with RedisServer() as server:
        yield server


@contextmanager
def configured(server: RedisServer, **settings: str | int) -> Iterator[None]:
    with server.client() as client:
        before = {name: client.config_get(name)[name] for name in settings}
        for name, value in settings.items():
            client.config_set(name, value)
        try:
            yield
        finally:
            for name, value in before.items():
                client.config_set(name, value)


@contextmanager
def out_of_memory(server: RedisServer) -> Iterator[None]:
    with configured(server, maxmemory=1):
        yield


Operation = Callable[[Backend, bytes], Awaitable[object]]
TOKEN = bytes(16)

OPERATIONS: dict[str, Operation] = {
    "read": lambda backend, key: backend.read([key]),
    "lease": lambda backend, key: backend.lease([Lease(key)], TOKEN, MINUTE),
    "lease replacing": lambda backend, key: backend.lease([Lease(key, b"V" + TOKEN)], TOKEN, MINUTE),
    "versions": lambda backend, key: backend.lease([], TOKEN, MINUTE, [key]),
    "fill": lambda backend, key: backend.fill([Fill(key, b"L" + TOKEN, b"value", MINUTE)]),
    "mark": lambda backend, key: backend.mark([key], TOKEN, MINUTE),
    "clear": lambda backend, key: backend.clear([Clear(key)], TOKEN),
    "stamps": lambda backend, key: backend.clear([], TOKEN, [key]),
    "delete": lambda backend, key: backend.delete([key]),
}
COMMANDS_PER_KEY = {"versions": 2, "stamps": 2}

every_operation = pytest.mark.parametrize("name", OPERATIONS)


# Commands


async def test_a_hit_is_one_mget(backend: RedisBackend, control: "redis.Redis") -> None:
    await backend.read(new_keys(1))  # connects
    control.config_resetstat()
    await backend.read(new_keys(3))
    calls = {name: stats["calls"] for name, stats in control.info("commandstats").items()}
    assert {name: count for name, count in calls.items() if "config" not in name} == {"cmdstat_mget": 1}


async def test_empty_operations_send_nothing(redis_server: RedisServer, proxy: Proxy) -> None:
    async with opened(proxy.url) as backend:
        sent = len(proxy.requests)
        await backend.read([])
        await backend.lease([], TOKEN, MINUTE)
        await backend.fill([])
        await backend.mark([], TOKEN, MINUTE)
        await backend.clear([], TOKEN)
        await backend.delete([])
        assert len(proxy.requests) == sent


KEYS = new_keys(2_500)

BULK: dict[str, Callable[[Backend], Awaitable[object]]] = {
    "read": lambda backend: backend.read(KEYS),
    "lease": lambda backend: backend.lease([Lease(key, TOKEN) for key in KEYS[:-1]], TOKEN, 1, KEYS[-1:]),
    "fill": lambda backend: backend.fill([Fill(key, b"L" + TOKEN, b"value", 1) for key in KEYS]),
    "mark": lambda backend: backend.mark(KEYS, TOKEN, 1),
    "clear": lambda backend: backend.clear([Clear(key) for key in KEYS[1:]], TOKEN, KEYS[:1]),
    "delete": lambda backend: backend.delete(KEYS),
}


@pytest.mark.parametrize("name", BULK)
async def test_each_operation_is_one_round_trip(proxy: Proxy, name: str) -> None:
    async with opened(proxy.url, batch_size=1_000) as backend:
        await backend.read(new_keys(1))  # connects
        proxy.answering.clear()
        operation = asyncio.ensure_future(BULK[name](backend))
        # All commands arrive before the first reply is sent.
        await proxy.until(lambda: KEYS[-1] in proxy.requests)
        assert not operation.done()
        proxy.answering.set()
        await operation


@pytest.mark.parametrize(("count", "scripts"), [(1, 1), (4, 1), (100, 1), (101, 2), (250, 3)])
@pytest.mark.parametrize("name", ["lease", "lease replacing", "fill", "mark", "clear"])
async def test_a_script_takes_a_hundred_keys(
    backend: RedisBackend, control: "redis.Redis", name: str, count: int, scripts: int
) -> None:
    keys, token, value = new_keys(count), new_token(), new_value()
    operation: dict[str, Callable[[], Awaitable[object]]] = {
        "lease": lambda: backend.lease([Lease(key) for key in keys], token, MINUTE),
        "lease replacing": lambda: backend.lease([Lease(key, b"L" + TOKEN) for key in keys], token, MINUTE),
        "fill": lambda: backend.fill([Fill(key, b"L" + TOKEN, value, MINUTE) for key in keys]),
        "mark": lambda: backend.mark(keys, token, MINUTE),
        "clear": lambda: backend.clear([Clear(key) for key in keys], token),
    }
    if name != "lease":
        await backend.lease([Lease(key) for key in keys], TOKEN, MINUTE)
    control.config_resetstat()
    await operation[name]()
    assert control.info("commandstats")["cmdstat_evalsha"]["calls"] == scripts
    for found in await backend.read(keys):
        match name:
            case "lease" | "lease replacing":
                assert found == b"L" + token
            case "fill":
                assert found == value
            case "mark":
                assert list(writers(found)) == [token]
            case _:
                assert found is None


async def test_batch_size_limits_the_keys_of_one_mget(backend: RedisBackend, control: "redis.Redis") -> None:
    async with opened(f"redis://127.0.0.1:{control.config_get('port')['port']}", batch_size=10) as small:
        keys, token = new_keys(25), new_token()
        await backend.lease([Lease(key) for key in keys], token, MINUTE)
        control.config_resetstat()
        assert await small.read(keys) == [b"L" + token] * 25
        assert control.info("commandstats")["cmdstat_mget"]["calls"] == 3
        assert await small.delete(keys) == 25


async def test_versions_are_sent_after_leases_and_stamps_before_clears(proxy: Proxy) -> None:
    plain, replaced, version, stamp, cleared = new_keys(5)
    async with opened(proxy.url) as backend:
        leases = [Lease(plain), Lease(replaced, new_value()[:17])]
        await backend.lease(leases, new_token(), MINUTE, [version])
        await backend.clear([Clear(cleared)], new_token(), [stamp])
    order = [plain, replaced, version, stamp, cleared]
    assert [proxy.requests.rindex(key) for key in order[:2]] < [proxy.requests.index(version)] * 2
    assert proxy.requests.rindex(stamp) < proxy.requests.index(cleared)


async def test_each_operation_sets_its_time_to_live(backend: RedisBackend, control: "redis.Redis") -> None:
    leased, replaced, filled, marked, hinted, forever, version, stamp = keys = new_keys(8)
    token = new_token()
    await put(backend, replaced, b"V" + token, MINUTE)
    await put(backend, filled, b"V" + token, 20_000)
    await backend.lease([Lease(leased), Lease(replaced, b"V" + token)], token, 10_000, [version])
    await backend.mark([marked, hinted, forever], token, 30_000)
    await backend.clear([Clear(hinted, b"hint", 40_000), Clear(forever, b"hint", 0)], token, [stamp])
    limits = [10_000, 10_000, 20_000, 30_000, 40_000, 0, 0, STAMP_TTL_MS]
    for key, limit in zip(keys, limits, strict=True):
        left = control.pttl(key)
        assert limit - 5_000 < left <= limit if limit else left == -1
    now = int(time.time() * 1000)  # the server's clock is this machine's
    assert now < writers(await held(backend, marked))[token] <= now + 30_000


# Scripts that are missing from the server's script cache


@every_operation
async def test_forgotten_scripts_are_loaded_again(backend: RedisBackend, control: "redis.Redis", name: str) -> None:
    key = new_key()
    expected = await OPERATIONS[name](backend, key)
    await backend.delete([key])
    control.script_flush()
    actual = await OPERATIONS[name](backend, key)
    if name != "versions":
        assert actual == expected


async def test_scripts_forgotten_during_a_pipeline_run_once(
    redis_server: RedisServer, proxy: Proxy, control: "redis.Redis"
) -> None:
    keys, token, value = new_keys(2_000), new_token(), new_value()
    async with opened(proxy.url) as backend:
        await backend.lease([Lease(key) for key in keys], token, MINUTE)
        start = len(proxy.requests)
        proxy.cut_at, answered = start + 100_000, len(proxy.replies)
        filling = asyncio.create_task(backend.fill([Fill(key, b"L" + token, value, MINUTE) for key in keys]))
        await proxy.until(lambda: len(proxy.replies) > answered)
        control.script_flush()
        proxy.rest.set()
        assert await filling == [True] * len(keys)
        assert b"NOSCRIPT" in proxy.replies
        assert proxy.requests.count(keys[0], start) == 1, "a script that had run was sent again"
        assert await backend.read(keys) == [value] * len(keys)


async def test_versions_are_read_after_leases_that_had_to_be_repeated(
    backend: RedisBackend, control: "redis.Redis"
) -> None:
    key, token, value = new_key(), new_token(), new_value()
    await put(backend, key, value)
    control.script_flush()
    # The version key is the leased key, so only a read after the lease returns the lease.
    answer = await backend.lease([Lease(key, value[:17])], token, MINUTE, [key])
    assert answer == ([b"L" + token], [b"L" + token])


# Keys that do not hold strings


async def test_keys_of_another_type_are_never_leased_filled_or_marked(
    backend: RedisBackend, control: "redis.Redis"
) -> None:
    alien, key, version, stamp = new_keys(4)
    value, token = new_value(), new_token()

    def plant() -> None:
        for each in (alien, version, stamp):
            control.delete(each)
            control.rpush(each, b"element")

    plant()
    await put(backend, key, value)
    assert await backend.read([alien, key]) == [None, value]
    leases = [Lease(alien), Lease(alien, value[:17]), Lease(key, value[:17])]
    answer = await backend.lease(leases, token, MINUTE, [version])
    assert answer == ([b"", b"", b"L" + token], [None])
    fills = [
        Fill(alien, b"L" + token, value, MINUTE),
        Fill(alien, b"L" + token, b"", 0),
        Fill(key, b"L" + token, value, MINUTE),
    ]
    assert await backend.fill(fills) == [False, False, True]
    with pytest.raises(BackendError, match="WRONGTYPE"):
        await backend.mark([key, alien], token, MINUTE)
    assert control.llen(alien) == 1
    assert await backend.clear([Clear(alien, value, MINUTE), Clear(key)], token, [stamp]) == [False, True]
    assert control.exists(alien, key) == 0
    assert is_version(await held(backend, stamp))
    plant()
    assert await backend.delete([alien, version, stamp]) == 3


@pytest.mark.parametrize("at", [0, 1, 2])
async def test_a_key_of_another_type_does_not_affect_the_other_keys(
    backend: RedisBackend, control: "redis.Redis", at: int
) -> None:
    keys, token, value = new_keys(3), new_token(), new_value()
    control.rpush(keys[at], b"element")
    others = [key for key in keys if key != keys[at]]

    leased = await backend.lease([Lease(key) for key in keys], token, MINUTE)
    assert leased.values == [b"" if key == keys[at] else b"L" + token for key in keys]
    stored = await backend.fill([Fill(key, b"L" + token, value, MINUTE) for key in keys])
    assert stored == [key != keys[at] for key in keys]
    leased = await backend.lease([Lease(key, value[:17]) for key in keys], token, MINUTE)
    assert leased.values == [b"" if key == keys[at] else b"L" + token for key in keys]
    with pytest.raises(BackendError, match="WRONGTYPE"):
        await backend.mark(keys, token, MINUTE)
    assert [list(writers(held)) for held in await backend.read(others)] == [[token], [token]]
    assert control.llen(keys[at]) == 1
    assert await backend.clear([Clear(key, value, MINUTE) for key in keys], token) == [key != keys[at] for key in keys]
    assert await backend.read(keys) == [None if key == keys[at] else value for key in keys]


# A server that refuses


async def test_out_of_memory_refuses_single_keys(hurt_redis: RedisServer) -> None:
    absent, filled, leased, mine, shared, version, old_stamp = keys = new_keys(7)
    token, theirs, value = new_token(), new_token(), new_value()
    async with opened(hurt_redis.url) as backend:
        await put(backend, filled, value)
        await backend.lease([Lease(leased)], token, MINUTE)
        await backend.mark([mine, shared], token, MINUTE)
        await backend.mark([shared], theirs, MINUTE)
        await backend.clear([], token, [old_stamp])
        with out_of_memory(hurt_redis):
            leases = [Lease(absent), Lease(filled), Lease(filled, value[:17]), Lease(filled, theirs)]
            answer = await backend.lease(leases, token, MINUTE, [version, old_stamp])
            assert answer.values == [b"", value, b"", value]
            assert answer.versions == [None, await held(backend, old_stamp)]
            # The lease is released, so that it does not keep other readers out.
            assert await backend.fill([Fill(leased, b"L" + token, value, MINUTE)]) == [False]
            for key in (absent, filled):
                with pytest.raises(BackendError, match=r"OOM|maxmemory"):
                    await backend.mark([key], token, MINUTE)
            clears = [Clear(mine, value, MINUTE), Clear(shared, value, MINUTE)]
            assert await backend.clear(clears, token, [old_stamp]) == [True, True]
            assert await backend.read([filled, leased, mine, old_stamp]) == [value, None, None, None]
            assert list(writers(await held(backend, shared))) == [theirs]
            assert await backend.clear([Clear(filled)], token) == [False]
            assert await backend.delete(keys) == 1


async def test_out_of_memory_releases_every_lease_that_cannot_be_filled(hurt_redis: RedisServer) -> None:
    absent, leased, held = new_keys(3), new_keys(3), new_keys(3)
    token, value = new_token(), new_value()
    async with opened(hurt_redis.url) as backend:
        for key in held:
            await put(backend, key, value)
        await backend.lease([Lease(key) for key in leased], token, MINUTE)
        with out_of_memory(hurt_redis):
            answer = await backend.lease([Lease(absent[0]), Lease(held[0]), Lease(absent[1])], token, MINUTE)
            assert answer.values == [b"", value, b""]
            with pytest.raises(BackendError, match=r"OOM|maxmemory"):
                await backend.mark([*absent, *held], token, MINUTE)
            # No released lease makes room for the values after it.
            assert await backend.fill([Fill(key, b"L" + token, value, MINUTE) for key in leased]) == [False] * 3
            assert await backend.read([*absent, *leased, *held]) == [None] * 6 + [value] * 3


async def test_a_read_only_server_refuses_writes_and_answers_reads(hurt_redis: RedisServer) -> None:
    key = new_key()
    async with opened(hurt_redis.url) as backend:
        await backend.lease([Lease(key)], TOKEN, MINUTE)
        with hurt_redis.client() as client:
            client.config_set("replica-serve-stale-data", "yes")
            client.replicaof("127.0.0.1", 1)
            try:
                assert await held(backend, key) == b"L" + TOKEN
                for name, operation in OPERATIONS.items():
                    if name not in ("read", "lease replacing"):
                        with pytest.raises(BackendError, match=r"answered with an error: .*read only"):
                            await operation(backend, key)
            finally:
                client.replicaof("NO", "ONE")
        assert await backend.delete([key]) == 1


# Commands are never sent twice


@pytest.mark.parametrize("fate", ["lose", "hang up"])
@pytest.mark.parametrize("through", ["url", "client"])
async def test_commands_without_a_reply_are_not_sent_again(
    proxy: Proxy, fate: Literal["lose", "hang up"], through: str
) -> None:
    keys = dict(zip(OPERATIONS, new_keys(len(OPERATIONS)), strict=True))
    # With redis-py's default settings, a client retries ten times.
    client = Redis(port=proxy.port, socket_timeout=2) if through == "client" else None
    async with opened(client or proxy.url, socket_timeout=2) as backend:
        proxy.doomed, proxy.fate = keys["read"][:-6], fate
        results = await asyncio.gather(
            *(operation(backend, keys[name]) for name, operation in OPERATIONS.items()), return_exceptions=True
        )
        assert [type(result) for result in results] == [BackendError] * len(OPERATIONS)
        sent = {name: proxy.requests.count(key) for name, key in keys.items()}
        assert sent == {name: COMMANDS_PER_KEY.get(name, 1) for name in OPERATIONS}
        assert await backend.read([new_key()]) == [None]
    if client is not None:
        await client.aclose()


# Clients that are passed in


def plain_client(url: str, **options: Any) -> Redis:
    settings: dict[str, Any] = {"socket_timeout": PATIENT, "retry": Retry(NoBackoff(), 0)}
    return Redis.from_url(url, **(settings | options))


@pytest.mark.parametrize(
    "options", [{}, {"decode_responses": True}, {"retry": None}, {"retry": None, "retry_on_timeout": True}]
)
async def test_a_client_passed_in_works_and_is_not_closed(
    redis_url: str, control: "redis.Redis", options: dict[str, Any]
) -> None:
    client = plain_client(redis_url, client_name="handed-over", **options)
    try:
        number = await client.client_id()
        key, value = new_key(), new_value(bytes(range(256)))
        async with opened(client) as backend:
            await put(backend, key, value)
            assert await held(backend, key) == value
        assert await client.client_id() == number, "the client's connection was closed"
        left = [each["id"] for each in control.client_list() if each["name"] == "handed-over"]
        assert left == [str(number)], "a connection of the backend was not closed"
    finally:
        await client.aclose()


async def test_a_client_passed_in_keeps_its_class_and_its_connect_callback(redis_url: str) -> None:
    sent: list[str] = []
    connected: list[str] = []

    class Observed(Redis):
        async def execute_command(self, *args: Any, **options: Any) -> Any:
            sent.append(args[0])
            return await super().execute_command(*args, **options)

    async def greet(connection: Any) -> None:
        await connection.on_connect()
        connected.append("awaited")

    def greet_at_once(connection: Any) -> None:
        connection._parser.on_connect(connection)
        connected.append("called")

    for each in (greet, greet_at_once):
        client = Observed.from_url(redis_url, redis_connect_func=each)
        async with opened(client) as backend:
            await backend.read([new_key()])
            assert sent[-1] == "MGET"
        await client.aclose()
    assert connected == ["awaited", "called"]


async def test_a_client_with_a_single_connection_is_not_shared(redis_url: str) -> None:
    async with Redis.from_url(redis_url, single_connection_client=True) as client, opened(client) as backend:
        keys = new_keys(20)
        assert await asyncio.gather(*(backend.read([key]) for key in keys)) == [[None]] * 20
        assert await client.ping()


async def test_a_client_over_a_socket_works(redis_server: RedisServer) -> None:
    client = Redis(unix_socket_path=str(redis_server.socket), db=3)
    async with opened(client) as backend:
        await put(backend, key := new_key(), b"value")
        assert str(redis_server.socket) in repr(backend)
    assert await client.get(key) == b"value"
    await client.aclose()


# URLs


async def test_the_database_of_the_url_is_used(redis_server: RedisServer, backend: RedisBackend) -> None:
    key = new_key()
    async with opened(f"redis://127.0.0.1:{redis_server.port}/5") as fifth:
        await put(fifth, key, b"value")
        assert await held(backend, key) is None
        async with opened(f"unix://{redis_server.socket}?db=5") as same:
            assert await held(same, key) == b"value"


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("", "unknown"),
        ("localhost:6379", "unknown"),
        ("http://localhost", "unknown"),
        ("redis+http://localhost", "unknown"),
        ("unix+cluster:///socket", "unknown"),
        ("redis://localhost:port", "malformed"),
        ("redis://[::1", "malformed"),
        ("redis://localhost/events", "database"),
        ("redis://localhost?db=events", "Invalid value for 'db'"),
        ("redis://localhost?colour=red", "colour"),
        ("redis://localhost?protocol=7", "protocol"),
        ("redis://one,two", "several hosts"),
        ("unix://", "path"),
        ("unix://relative/path", "path"),
        ("redis+cluster://localhost/1", "database 0 only"),
        ("redis+cluster://localhost?colour=red", "colour"),
        ("redis+sentinel://localhost", "name-of-the-service"),
        ("redis+sentinel://localhost/service/events", "database"),
        ("redis+sentinel://localhost/service?colour=red", "colour"),
    ],
)
def test_a_wrong_url_is_refused_with_the_reason(url: str, complaint: str) -> None:
    with pytest.raises(CacheConfigurationError) as caught:
        RedisBackend(url)
    message = str(caught.value)
    assert repr(url.replace(":port", ":***").replace("[::1", "[:***").replace("colour=red", "colour=***")) in message
    assert complaint in message
    for scheme in ("redis://", "rediss://", "unix://", "redis+cluster://", "redis+sentinel://"):
        assert scheme in message


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("redis://", "localhost:6379"),
        ("REDIS://host", "host:6379"),
        ("redis://user:secret@[::1]:7000/3", "::1:7000"),
        ("rediss://host:1?ssl_cert_reqs=none", "host:1"),
        ("unix://user:secret@/tmp/redis.sock?db=2", "/tmp/redis.sock"),
        ("redis+cluster://one:1,two", "one:1,two:6379 (cluster)"),
        ("rediss+cluster://one:1", "one:1 (cluster)"),
        ("redis+sentinel://user:secret@one:1,two/service/2", "one:1,two:26379 (service 'service')"),
        ("rediss+sentinel://one/service", "one:26379 (service 'service')"),
    ],
)
def test_a_right_url_leads_to_its_server(url: str, where: str) -> None:
    assert repr(RedisBackend(url)) == f"<RedisBackend at {where}>"


def test_only_asyncio_clients_are_accepted() -> None:
    with pytest.raises(CacheConfigurationError, match=r"redis\.client\.Redis.*redis\.asyncio"):
        RedisBackend(redis.Redis(password="secret"))  # type: ignore[arg-type]  # what the test is about


# Unavailable servers


async def test_a_server_that_does_not_listen_is_an_error_at_opening(own_redis: RedisServer) -> None:
    own_redis.kill()
    backend = RedisBackend(own_redis.patient_url)
    with pytest.raises(BackendError, match=rf"^Redis at 127.0.0.1:{own_redis.port} cannot be reached: "):
        await backend.open()
    own_redis.restart()
    await backend.open()
    assert await held(backend, new_key()) is None
    await backend.close()


@pytest.mark.parametrize("user", [":wrong", "guest:wrong", ""])
async def test_a_wrong_password_is_an_error_that_does_not_show_it(hurt_redis: RedisServer, user: str) -> None:
    with configured(hurt_redis, requirepass="right"):
        at = f"127.0.0.1:{hurt_redis.port}"
        backend = RedisBackend(f"redis://{user}@{at}" if user else hurt_redis.url, socket_timeout=PATIENT)
        with pytest.raises(BackendError, match=f"^Redis at {at} rejected the user name or the password: ") as caught:
            await backend.open()
        assert ":wrong" not in str(caught.value)
        assert caught.value.__cause__ is not None
        async with opened(f"redis://:right@{at}") as backend:
            assert await held(backend, new_key()) is None
            assert "right" not in repr(backend)


@contextmanager
def without_permission_for_scripts(server: RedisServer) -> Iterator[None]:
    with server.client() as client:
        client.script_flush()
        client.execute_command("ACL", "SETUSER", "default", "-script")
        try:
            yield
        finally:
            client.execute_command("ACL", "SETUSER", "default", "+script")


async def test_scripts_that_must_not_be_loaded_are_an_error(hurt_redis: RedisServer) -> None:
    async with opened(hurt_redis.url) as backend:
        with without_permission_for_scripts(hurt_redis):
            with pytest.raises(BackendError, match="permissions"):
                await backend.mark([new_key()], TOKEN, MINUTE)
            with pytest.raises(BackendError, match="permissions"):
                await RedisBackend(hurt_redis.patient_url).open()
        await backend.mark([new_key()], TOKEN, MINUTE)


async def test_opening_can_be_cancelled(proxy: Proxy) -> None:
    proxy.answering.clear()
    backend = RedisBackend(proxy.url, socket_timeout=PATIENT)
    opening = asyncio.create_task(backend.open())
    await proxy.until(lambda: len(proxy.requests) > 0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    proxy.answering.set()
    await backend.open()
    await backend.close()


async def test_operations_on_a_closed_backend_are_refused(redis_url: str) -> None:
    backend = RedisBackend(redis_url, socket_timeout=PATIENT)
    await backend.open()
    await backend.close()
    for operation in OPERATIONS.values():
        with pytest.raises(BackendError, match="closed"):
            await operation(backend, new_key())


async def test_a_server_that_hangs_is_an_error_in_time(own_redis: RedisServer) -> None:
    async with opened(own_redis.url) as backend, asyncio.timeout(PATIENT):
        hurry(backend)
        own_redis.stop()
        results = await asyncio.gather(
            *(operation(backend, new_key()) for operation in OPERATIONS.values()), return_exceptions=True
        )
        assert [type(result) for result in results] == [BackendError] * len(OPERATIONS)
        assert all("did not answer in time" in str(result) for result in results)
        own_redis.cont()
        hurry(backend, PATIENT)
        assert await held(backend, new_key()) is None


async def test_a_server_that_restarts_is_used_again(own_redis: RedisServer) -> None:
    async with opened(own_redis.url, socket_timeout=10 * PATIENT) as backend:
        keys = new_keys(10)
        reading = asyncio.gather(*(backend.read([key]) for key in keys))
        assert await reading == [[None]] * 10
        own_redis.kill()
        for operation in OPERATIONS.values():
            async with asyncio.timeout(PATIENT):
                with pytest.raises(BackendError, match=f"127.0.0.1:{own_redis.port} cannot be reached"):
                    await operation(backend, keys[0])
        own_redis.restart()
        # The new process has no scripts in its cache.
        await backend.mark(keys, TOKEN, MINUTE)
        assert await backend.clear([Clear(key) for key in keys], TOKEN) == [True] * 10


# Connections


@pytest.mark.exhaustive(because="cancels every operation at each turn of the event loop")
@every_operation
@pytest.mark.parametrize("options", ["", "?max_connections=1"])
async def test_a_cancelled_operation_leaves_no_reply_behind(
    proxy: Proxy, backend: RedisBackend, name: str, options: str
) -> None:
    cancelled, key = new_keys(2)
    await put(backend, key, b"value")
    async with opened(f"{proxy.url}{options}") as slow:
        await slow.read([key])  # connects
        proxy.answering.clear()
        operation = asyncio.ensure_future(OPERATIONS[name](slow, cancelled))
        await proxy.until(lambda: cancelled in proxy.requests)
        operation.cancel()
        with pytest.raises(asyncio.CancelledError):
            await operation
        proxy.answering.set()
        assert await slow.read([key]) == [b"value"]
        assert await slow.delete([key]) == 1


async def test_cancelling_one_read_does_not_end_a_shared_connection_attempt(
    proxy: Proxy, backend: RedisBackend
) -> None:
    key = new_key()
    await put(backend, key, b"value")
    async with opened(proxy.url) as slow:
        proxy.answering.clear()
        before = len(proxy.requests)
        first, second = (asyncio.create_task(slow.read([key])) for _ in range(2))
        await proxy.until(lambda: len(proxy.requests) > before)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        proxy.answering.set()
        assert await second == [b"value"]
        assert proxy.requests.count(b"replication", before) == 1, "both reads used one connection attempt"


async def test_concurrent_reads_share_one_connection(proxy: Proxy, backend: RedisBackend) -> None:
    keys = new_keys(200)
    for key in keys[::2]:
        await put(backend, key, key)
    async with opened(proxy.url) as reader:
        found = await asyncio.gather(*[reader.read([key]) for key in keys])
        assert [values[0] for values in found] == [None if at % 2 else key for at, key in enumerate(keys)]
        assert proxy.requests.count(b"replication") == 2, "one connection for scripts and writes, one for reads"


async def test_cancelling_an_operation_that_waits_for_a_connection(proxy: Proxy) -> None:
    async with opened(f"{proxy.url}?max_connections=1") as backend:
        proxy.answering.clear()
        key = new_key()
        first = asyncio.create_task(backend.read([key]))
        await proxy.until(lambda: key in proxy.requests)
        second = asyncio.create_task(backend.read([new_key()]))
        await asyncio.sleep(0)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        proxy.answering.set()
        assert await first == [None]
        assert await backend.read([key]) == [None]


async def test_waiting_for_a_connection_times_out(proxy: Proxy) -> None:
    async with opened(f"{proxy.url}?max_connections=1&timeout=0.02") as backend:
        proxy.answering.clear()
        key = new_key()
        first = asyncio.create_task(backend.read([key]))
        await proxy.until(lambda: key in proxy.requests)
        with pytest.raises(BackendError, match="No connection available"):
            await backend.read([key])
        proxy.answering.set()
        assert await first == [None]


def test_a_backend_can_be_used_in_one_event_loop_after_another(redis_url: str) -> None:
    backend = RedisBackend(f"{redis_url}?max_connections=2", socket_timeout=PATIENT)

    async def crowd() -> None:
        await backend.open()
        await asyncio.gather(*(backend.read([key]) for key in new_keys(50)))
        await backend.close()

    for _ in range(3):
        asyncio.run(crowd())


async def test_a_started_read_reports_unexpected_replies_as_backend_errors(
    backend: RedisBackend, control: "redis.Redis"
) -> None:
    answers: list[Any] = []
    for replies in ([b"OK"], [redis.ResponseError("no")], redis.ConnectionError("gone")):
        backend._on_replies(ServerIncarnation("here").mask_stale_versions, answers.append, replies)
    assert [type(answer) for answer in answers] == [BackendError] * 3
    assert [str(answer).rpartition(": ")[2] for answer in answers] == ["<bytes> for MGET", "no", "gone"]


async def test_a_former_master_reports_it_at_the_top_of_its_replies(own_redis: RedisServer) -> None:
    """redis-py looks for this error only there, to ask the sentinels for another master."""
    async with opened(own_redis.url) as backend:
        with own_redis.client() as control:
            control.replicaof("127.0.0.1", 1)
        assert backend._endpoint is not None
        keys, token = new_keys(2), new_token()
        for commands in (
            backend._commands(backend._lease, keys, [(b"", b"L" + token, MINUTE)] * 2),
            backend._commands(backend._mark, keys, [(0,)] * 2, (token, MINUTE)),
        ):
            replies = await backend._endpoint.send(commands)
            assert [type(reply) for reply in replies] == [redis.exceptions.ReadOnlyError]
        with pytest.raises(BackendError, match="read only"):
            await backend.mark(keys, token, MINUTE)


def test_versions_among_keys_that_are_read_again_are_masked_like_others() -> None:
    """Also where a version was marked, absent or of this incarnation when the keys were read first."""
    incarnation = ServerIncarnation("here")
    incarnation._change_to(b"12345678")
    token, old = bytes(16), b"E87654321" + bytes(8)
    own = b"E12345678" + bytes(8)
    entries: list[bytes | None] = [b"V" + token + b"row", b"N" + token, b"S" + token]
    changing = [own, old, b"W" + token + b"1" * 13, None, b"", b"C", b"L" + token]
    for first in changing:
        known = KnownKeys([b"%d" % number for number in range(4)])
        for value in (first, *changing):
            values = [*entries, value]
            expected = incarnation.mask_stale_versions([*values])
            assert incarnation.mask_known(known, values) == expected
            assert incarnation.mask_known(known, values[:2]) == values[:2]
        assert known.doubtful == [3]


def test_a_short_answer_says_nothing_of_the_keys_after_it() -> None:
    incarnation, known = ServerIncarnation("here"), KnownKeys([b"1", b"2"])
    assert incarnation.mask_known(known, [b"V" + bytes(16)]) == [b"V" + bytes(16)]
    incarnation._change_to(b"12345678")
    assert incarnation.mask_known(known, [b"V" + bytes(16), b"E" + bytes(16)]) == [b"V" + bytes(16), None]
