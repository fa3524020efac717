"""``RedisBackend`` uses no version of an earlier incarnation of its server, in any process."""

import asyncio
import re
from collections.abc import Sequence
from typing import Any

import pytest
import redis
from redis.asyncio import Redis

from aiomodelcache.backends.protocol import Backend, Fill, Lease, Leased
from aiomodelcache.backends.redis.backend import RedisBackend
from aiomodelcache.exceptions import BackendError
from aiomodelcache.testing.conformance import MINUTE, held, is_version, new_key, new_keys, new_token, new_value, put
from tests.support.servers import RedisServer

from .opening import opened
from .proxy import Proxy
from .test_redis import OPERATIONS, configured


async def versions_of(backend: Backend, keys: Sequence[bytes]) -> list[bytes | None]:
    """Reads versions as a miss does, which creates the absent ones."""
    return (await backend.lease([], new_token(), MINUTE, keys)).versions


async def reconnect(backend: RedisBackend) -> None:
    """Connects to the new server. Connections to the old one prove broken at their next use."""
    try:
        await backend.read([new_key()])
    except BackendError:
        await backend.read([new_key()])


@pytest.fixture
def server(own_redis: RedisServer) -> RedisServer:
    """A server that was restored once from a snapshot, so that no test depends on a first time."""
    own_redis.save()
    own_redis.restore()
    return own_redis


class TestSnapshot:
    async def test_earlier_versions_are_absent_and_all_processes_get_the_same_new_ones(
        self, server: RedisServer
    ) -> None:
        keys = new_keys(3)
        async with opened(server.url) as backend:
            before = await versions_of(backend, keys)
            assert await backend.read(keys) == before
            server.save()
            server.restore()
            with server.client() as client:
                assert client.mget(keys) == before  # the snapshot restored them

            await reconnect(backend)
            async with opened(server.url) as fresh:
                assert await backend.read(keys) == await fresh.read(keys) == [None] * 3
                after = await versions_of(fresh, keys)
                assert all(map(is_version, after))
                assert not set(after) & set(before)
                assert await versions_of(backend, keys) == await backend.read(keys) == after

    async def test_values_that_are_not_versions_are_read_unchanged(self, server: RedisServer) -> None:
        # Without their version other values do no harm, and intents must be seen.
        key, marked = new_keys(2)
        async with opened(server.url) as backend:
            await put(backend, key, value := new_value())
            await backend.mark([marked], new_token(), MINUTE)
            server.save()
            server.restore()
            await reconnect(backend)
            assert await held(backend, key) == value
            assert (await held(backend, marked) or b"")[:1] == b"W"

    async def test_an_epoch_under_intents_is_not_replaced(self, server: RedisServer) -> None:
        key = new_key()
        async with opened(server.url) as backend:
            await versions_of(backend, [key])
            await backend.mark([key], new_token(), MINUTE)
            server.save()
            server.restore()
            await reconnect(backend)
            [version] = await versions_of(backend, [key])
            assert version is not None
            assert version[:1] == b"W"

    async def test_a_restored_lease_comes_with_a_new_version(self, server: RedisServer) -> None:
        key, stamp = new_keys(2)
        token = new_token()
        async with opened(server.url) as backend:
            taken = await backend.lease([Lease(key)], token, MINUTE, [stamp])
            server.save()
            server.restore()
            await reconnect(backend)
            again: Leased = await backend.lease([Lease(new_key())], new_token(), MINUTE, [stamp])
            assert again.versions != taken.versions
            assert await backend.fill([Fill(key, b"L" + token, new_value(), MINUTE)]) == [True]

    async def test_new_connections_to_the_same_process_keep_its_versions(self, server: RedisServer) -> None:
        keys = new_keys(2)
        async with opened(server.url) as backend:
            before = await versions_of(backend, keys)
            with server.client() as client:
                client.execute_command("CLIENT", "KILL", "TYPE", "normal")
            await reconnect(backend)
            assert await backend.read(keys) == before

    async def test_versions_of_the_current_incarnation_cost_no_further_commands(self, server: RedisServer) -> None:
        key, stamp = new_keys(2)
        async with Proxy(server.port) as proxy, opened(proxy.url) as backend:
            await versions_of(backend, [key, stamp])
            asked = proxy.requests.count(b"\r\nINFO\r\n")
            assert asked == 2 * 3  # for the connection, and for the first versions
            await backend.clear([], new_token(), [stamp])
            await versions_of(backend, [key, stamp])
            assert proxy.requests.count(b"\r\nINFO\r\n") == asked
            assert b"EVALSHA" not in proxy.requests

    async def test_a_new_incarnation_is_logged_once(
        self, server: RedisServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with opened(server.url) as backend:
            await asyncio.gather(*[backend.read([new_key()]) for _ in range(5)])
            assert caplog.messages == []
            server.restart()
            await reconnect(backend)
            await asyncio.gather(*[backend.read([new_key()]) for _ in range(5)])
        assert caplog.messages == [
            f"aiomodelcache: Redis at 127.0.0.1:{server.port} was restarted, replaced or restored; "
            "entries from before are not used"
        ]

    @pytest.mark.parametrize("through", ["url", "client"])
    async def test_a_new_incarnation_closes_the_connections_to_the_last(
        self, server: RedisServer, redis_server: RedisServer, through: str
    ) -> None:
        # Both servers keep running, as they do when a master is cut off. A reply of one server must not be judged by
        # the identity of the other.
        late, version = new_keys(2)
        async with Proxy(server.port) as proxy:
            client = Redis(port=proxy.port) if through == "client" else None
            async with opened(client or proxy.url) as backend:
                await versions_of(backend, [version])
                proxy.doomed, proxy.target = late, redis_server.port
                waiting = asyncio.create_task(versions_of(backend, [late]))
                await proxy.until(lambda: late in proxy.requests)
                assert await backend.read([version]) == [None]  # on the connection for reads
                with pytest.raises(BackendError, match="cannot be reached"):
                    await waiting
            if client is not None:
                await client.aclose()


class Pair:
    """Two servers at one address, of which one is the master. No sentinel, so that no test waits for its decisions."""

    def __init__(self, one: RedisServer, other: RedisServer, proxy: Proxy) -> None:
        self.master, self.replica = one, other
        self.proxy = proxy

    async def replicate(self) -> None:
        """Makes the replica follow the master, and waits until it has all of the master's data."""
        with self.replica.client() as replica, self.master.client() as master:
            replica.replicaof("127.0.0.1", self.master.port)
            async with asyncio.timeout(30):
                while (
                    replica.info("replication")["master_link_status"] != "up"
                    or replica.info("replication")["slave_repl_offset"]
                    < master.info("replication")["master_repl_offset"]
                ):
                    await asyncio.sleep(0.01)

    async def fail_over(self) -> None:
        """Swaps master and replica, and ends the clients' connections, as Sentinel does."""
        self.master, self.replica = self.replica, self.master
        self.proxy.target = self.master.port
        with self.master.client() as client:
            client.replicaof("NO", "ONE")
            client.execute_command("CLIENT", "KILL", "TYPE", "normal")
        with self.replica.client() as client:
            client.execute_command("CLIENT", "KILL", "TYPE", "normal")
        await self.replicate()


class TestFailover:
    async def test_a_master_that_returns_is_a_new_incarnation_of_the_same_process(self, server: RedisServer) -> None:
        keys = new_keys(3)
        with RedisServer() as other:
            async with Proxy(server.port) as proxy, opened(proxy.url) as backend:
                pair = Pair(server, other, proxy)
                before = await versions_of(backend, keys)
                await pair.replicate()
                with server.client() as client:
                    run_id = client.info("server")["run_id"]

                await pair.fail_over()
                await reconnect(backend)
                assert await backend.read(keys) == [None] * 3
                [during] = await versions_of(backend, keys[:1])
                assert during != before[0]

                await pair.fail_over()
                with server.client() as client:
                    assert client.info("server")["run_id"] == run_id  # so the run id alone is not enough
                    assert client.mget(keys) == [during, *before[1:]]
                await reconnect(backend)
                async with opened(proxy.url) as fresh:
                    assert await backend.read(keys) == await fresh.read(keys) == [None] * 3


def change_replication_id(server: RedisServer) -> None:
    with server.client() as client:
        client.replicaof("127.0.0.1", 1)
        client.replicaof("NO", "ONE")


class TestIncarnationsOfOneProcess:
    """The replication id changes while connections stay open."""

    async def test_a_foreign_version_makes_a_backend_check_the_identity(self, server: RedisServer) -> None:
        keys = new_keys(4)
        async with opened(server.url) as old:
            before = await versions_of(old, keys)
            assert await old.read(keys) == before
            change_replication_id(server)
            assert await old.read(keys) == before
            async with opened(server.url) as new:
                assert await new.read(keys) == [None] * 4
                after = await versions_of(new, keys[:2])
                assert await old.read(keys) == [None, None, *before[2:]]
                assert await versions_of(old, keys[:2]) == after
                # The old backend knows the new identity now.
                assert await old.read(keys) == await new.read(keys) == [*after, None, None]
                assert await versions_of(old, keys) == await versions_of(new, keys)

    async def test_concurrent_backends_agree_on_each_new_version(self, server: RedisServer) -> None:
        keys = new_keys(50)
        async with opened(server.url) as first:
            await versions_of(first, keys)
            change_replication_id(server)
            async with opened(server.url) as second, opened(server.url) as third:
                one, other = await asyncio.gather(versions_of(second, keys), versions_of(third, keys[::-1]))
                assert one == other[::-1] == await versions_of(first, keys) == await first.read(keys)

    async def test_a_full_server_gets_no_new_versions(self, server: RedisServer) -> None:
        key = new_key()
        async with opened(server.url) as backend:
            await versions_of(backend, [key])
            change_replication_id(server)
            async with opened(server.url) as fresh:
                with configured(server, maxmemory=1):
                    assert await versions_of(fresh, [key]) == [None]
                assert is_version((await versions_of(fresh, [key]))[0])


class TestServerWithoutInfo:
    @pytest.fixture
    def silent(self, server: RedisServer) -> RedisServer:
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", "default", "-info")
            client.execute_command("ACL", "SETUSER", "teller", "on", "nopass", "~*", "+@all")
        return server

    async def test_all_operations_work_and_all_versions_are_used(
        self, silent: RedisServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        keys = new_keys(2)
        async with opened(silent.url) as backend:
            before = await versions_of(backend, keys)
            with silent.client() as client:
                client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "no")
            await reconnect(backend)
            assert await backend.read(keys) == before
            for operation in OPERATIONS.values():
                await operation(backend, new_key())
        [message] = caplog.messages
        assert re.match(r"aiomodelcache: Redis at 127\.0\.0\.1:\d+ does not answer INFO, so that ", message)

    async def test_users_with_and_without_the_permission_agree_on_versions(self, silent: RedisServer) -> None:
        keys = new_keys(3)
        async with (
            opened(silent.url) as deaf,
            opened(f"redis://teller:any@127.0.0.1:{silent.port}/0") as hearing,
        ):
            await versions_of(deaf, keys)
            after = await versions_of(hearing, keys)
            assert await versions_of(deaf, keys) == await deaf.read(keys) == await hearing.read(keys) == after
            stamped = await versions_of(hearing, keys[:1])
            await deaf.clear([], new_token(), keys[:1])
            assert await versions_of(hearing, keys[:1]) != stamped


def ping_for_ever(client: "redis.Redis") -> None:
    while client.ping():
        pass


async def test_a_server_too_busy_for_info_is_asked_again(server: RedisServer) -> None:
    key = new_key()
    async with Proxy(server.port) as proxy, opened(proxy.url) as backend:
        await versions_of(backend, [key])
        server.save()
        server.restore()
        await reconnect(backend)
        with server.client() as endless, server.client() as client:
            client.config_set("lua-time-limit", 1)
            running = asyncio.create_task(asyncio.to_thread(endless.execute_command, "EVAL", "while true do end", 0))
            with pytest.raises(redis.ResponseError, match="BUSY"):
                await asyncio.to_thread(ping_for_ever, client)
            proxy.cut()
            proxy.mend()
            for _ in range(2):
                with pytest.raises(BackendError):
                    await backend.read([key])
            client.script_kill()
            with pytest.raises(redis.ResponseError, match="killed"):
                await running
        assert await backend.read([key]) == [None]


@pytest.mark.parametrize("through", ["url", "socket", "client"])
async def test_every_kind_of_source_asks_for_the_identity(server: RedisServer, through: str) -> None:
    key = new_key()
    client: Any = Redis(port=server.port) if through == "client" else None
    source = client or {"url": server.url, "socket": f"unix://{server.socket}"}[through]
    async with opened(source) as backend:
        [before] = await versions_of(backend, [key])
        server.save()
        server.restore()
        await reconnect(backend)
        assert await held(backend, key) is None
        assert await versions_of(backend, [key]) != [before]
    if client is not None:
        await client.aclose()


def swap(server: RedisServer) -> None:
    with server.client() as client:
        client.execute_command("SWAPDB", 0, 1)


def end_connections(server: RedisServer) -> None:
    with server.client() as client:
        client.execute_command("CLIENT", "KILL", "TYPE", "normal")


class TestContentsThatComeBack:
    """Commands that bring other or older contents into a database while the server runs on."""

    @pytest.mark.parametrize("through", ["url", "client"])
    async def test_versions_of_another_database_are_absent_to_open_connections(
        self, server: RedisServer, through: str
    ) -> None:
        keys = new_keys(3)
        client = Redis(port=server.port) if through == "client" else None
        async with opened(client or server.url) as backend, opened(f"redis://127.0.0.1:{server.port}/1") as other:
            mine, theirs = await versions_of(backend, keys), await versions_of(other, keys)
            swap(server)
            with server.client() as plain:
                assert plain.mget(keys) == theirs
            assert await backend.read(keys) == await other.read(keys) == [None] * 3
            after = await versions_of(backend, keys)
            assert not {*after} & {*mine, *theirs}
            assert await backend.read(keys) == after
        if client is not None:
            await client.aclose()

    async def test_a_backend_that_made_a_version_meanwhile_does_not_use_those_of_before(
        self, server: RedisServer
    ) -> None:
        keys = new_keys(3)
        async with opened(server.url) as backend, opened(server.url) as idle:
            before = await versions_of(backend, keys)
            assert await backend.read(keys) == await idle.read(keys) == before
            swap(server)
            [during] = await versions_of(backend, keys[:1])
            swap(server)
            with server.client() as client:
                assert client.mget(keys) == before
            assert await backend.read(keys) == [None] * 3
            after = await versions_of(backend, keys)
            assert not {*after} & {*before, during}
            assert await idle.read(keys) == [None] * 3
            assert await versions_of(idle, keys) == after

    @pytest.mark.parametrize("how", ["SWAPDB", "RESTORE", "DEBUG RELOAD"])
    async def test_new_connections_do_not_use_versions_that_came_back(self, server: RedisServer, how: str) -> None:
        keys = new_keys(2)
        async with opened(server.url) as backend:
            before = await versions_of(backend, keys)
            with server.client() as client:
                client.save()
                dumps = [client.dump(key) for key in keys]
                if how == "SWAPDB":
                    swap(server)
                    swap(server)
                else:
                    client.flushall()
                if how == "RESTORE":
                    for key, dump in zip(keys, dumps, strict=True):
                        client.restore(key, 0, dump)
                elif how == "DEBUG RELOAD":
                    client.execute_command("DEBUG", "RELOAD", "NOSAVE", "NOFLUSH")
                assert client.mget(keys) == before
            async with opened(server.url) as fresh:
                assert await fresh.read(keys) == [None] * 2
            end_connections(server)
            await reconnect(backend)
            assert await backend.read(keys) == [None] * 2
