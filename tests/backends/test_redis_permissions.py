"""The restricted users of ``docs/guide/deploy.md``: what they are granted suffices, and nothing of it is superfluous.

The server's own log says what it refused, because scripts and redis-py hide some refusals.
"""

import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import pytest
from redis.crc import key_slot
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache import ModelCache
from aiomodelcache.backends.redis import backend as backend_module
from aiomodelcache.backends.redis.backend import RedisBackend
from aiomodelcache.exceptions import BackendError
from aiomodelcache.inspection.store import connected
from aiomodelcache.testing.claims import ClaimConformance
from aiomodelcache.testing.conformance import MINUTE, held, new_key, put
from aiomodelcache.testing.write_through import WriteThroughConformance
from tests.support.gates import until
from tests.support.models.models import Event, User
from tests.support.servers import RedisServer
from tests.support.servers.redis_cluster import Cluster, ClusterNode

from .opening import PATIENT, opened
from .test_redis import OPERATIONS

PAGE = (Path(__file__).parents[2] / "docs" / "guide" / "deploy.md").read_text("utf-8")
KEYS = "~shop:amc:*"
"""The keys of the page's application."""
OWN_NAME = "client|setinfo"
"""The command by which redis-py names itself to Redis 7.2 and newer. It ignores a refusal."""


def documented() -> Mapping[str, list[str]]:
    """Returns the arguments of each ACL SETUSER on the page, by the comment above the command."""
    section = PAGE.split("## A restricted Redis user")[1].split("\n## ")[0]
    [block] = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    commands = re.findall(r"^# (.*)\nredis-cli ACL SETUSER shop (.*)$", block.replace("\\\n", " "), re.MULTILINE)
    return {comment: shlex.split(rules) for comment, rules in commands}


CACHE, NEAR, DATABASE, WAIT, CLUSTER, SHELL, WATCH = documented()


def grant(server: RedisServer, *features: str, keys: str = KEYS) -> None:
    """Creates the user ``shop`` as the page does, for some features, and empties the server's log of refusals."""
    rules = [keys if rule == KEYS else rule for feature in features for rule in documented()[feature]]
    with server.client() as client:
        client.execute_command("ACL", "DELUSER", "shop")
        client.execute_command("ACL", "SETUSER", "shop", "resetchannels", *rules)
        client.execute_command("ACL", "LOG", "RESET")


def refused(server: RedisServer) -> list[str]:
    """Returns the commands and keys that the server has refused."""
    with server.client() as client:
        log: list[Any] = client.execute_command("ACL", "LOG")
    entries: list[dict[Any, Any]] = [
        entry if isinstance(entry, dict) else dict(zip(entry[::2], entry[1::2], strict=True)) for entry in log
    ]
    texts = [{_text(name): _text(value) for name, value in entry.items()}["object"] for entry in entries]
    return [text for text in texts if not text.startswith(OWN_NAME.partition("|")[0])]


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def url_of(server: RedisServer) -> str:
    return server.url.replace("redis://", "redis://shop:secret@")


@pytest.fixture(scope="module")
def server(redis_server: RedisServer) -> Iterator[RedisServer]:
    # ``redis_server`` skips where there is no Redis.
    with RedisServer() as own:
        yield own


@pytest.fixture(scope="module")
def cluster(redis_server: RedisServer) -> Iterator[Cluster]:
    with ExitStack() as stack:
        yield Cluster([stack.enter_context(ClusterNode()) for _ in range(2)])


class TestConformance(WriteThroughConformance, ClaimConformance):
    @pytest.fixture(autouse=True)
    def store(self, server: RedisServer) -> Iterator[None]:
        grant(server, CACHE, keys="~conformance:*")
        self.url = url_of(server)
        yield
        assert refused(server) == []

    async def make_backend(self) -> RedisBackend:
        backend = RedisBackend(self.url, socket_timeout=PATIENT)
        await backend.open()
        return backend


@pytest.mark.parametrize("name", OPERATIONS)
async def test_a_cluster_needs_few_more(cluster: Cluster, name: str) -> None:
    for node in cluster.nodes:
        grant(node, CACHE, CLUSTER)
    async with opened(cluster.url.replace("redis+cluster://", "redis+cluster://shop:secret@")) as backend:
        for node in (0, 1):
            [key] = cluster.keys(node, 1, b"shop:amc:r:")
            await OPERATIONS[name](backend, key)
    assert [refused(node) for node in cluster.nodes] == [[], []]


async def test_a_cluster_that_moves_keys_needs_no_more(cluster: Cluster) -> None:
    for node in cluster.nodes:
        grant(node, CACHE, CLUSTER)
    [key] = cluster.keys(0, 1, b"shop:amc:r:")
    slot = key_slot(key)
    async with opened(cluster.url.replace("redis+cluster://", "redis+cluster://shop:secret@")) as backend:
        with cluster.nodes[0].client() as giver, cluster.nodes[1].client() as taker:
            taker.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", giver.execute_command("CLUSTER", "MYID"))
            giver.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", taker.execute_command("CLUSTER", "MYID"))
            try:
                await put(backend, key, b"value")
                assert "cmdstat_asking" in taker.info("commandstats")
            finally:
                for each in (giver, taker):
                    each.execute_command("CLUSTER", "SETSLOT", slot, "STABLE")
    assert [refused(node) for node in cluster.nodes] == [[], []]


@pytest.mark.only_on("redis", because="permissions are those of Redis")
@pytest.mark.only_on("sqlite", because="permissions are those of Redis")
@pytest.mark.usefixtures("near_server")
async def test_a_cache_needs_all_that_is_granted_and_no_more(
    database: BaseDBAsyncClient, server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    grant(server, CACHE, NEAR)
    with server.client() as control:
        control.config_resetstat()
    async with (
        opened(url_of(server)) as backend,
        ModelCache(backend, namespace="shop", near=True, publish_stats=True) as cache,
    ):
        event = await Event.create(slug="pycon", title="old", organizer=await User.create(username="kim"))
        for title in ("new", "newer"):
            event.title = title
            await event.save()
            for _ in range(3):
                assert (await Event.cache.get(slug="pycon")).title == title
        await cache.invalidate_tags("a tag")
        assert cache.stats.near.hits
        near = cache.open_cache.guarded.near
        assert near is not None
        near.ping()  # as after a silence
        for later in (1_000, 2_000):
            await backend.claim(b"shop:amc:l:here", await backend.clock() + later)
    assert refused(server) == []
    assert [record.message for record in caplog.records if record.name == "aiomodelcache"] == []
    with server.client() as control:
        used = {name.removeprefix("cmdstat_") for name in control.info("commandstats")}
    granted = {rule[1:] for feature in (CACHE, NEAR) for rule in documented()[feature] if rule[0] == "+"}
    assert {name for name in granted if not used & {name, name.partition("|")[0]}} == set()


@pytest.mark.only_on("no store", because="permissions are those of Redis")
@pytest.mark.only_on("sqlite", because="permissions are those of Redis")
@pytest.mark.usefixtures("near_server")
async def test_near_entries_of_a_cluster_need_no_more(database: BaseDBAsyncClient, cluster: Cluster) -> None:
    for node in cluster.nodes:
        grant(node, CACHE, NEAR, CLUSTER)
    url = cluster.url.replace("redis+cluster://", "redis+cluster://shop:secret@")
    user = await User.create(username="kim")
    async with ModelCache(url, namespace="shop", near=True, near_lag=60.0, socket_timeout=PATIENT) as cache:
        for _ in range(4):
            await User.cache.get(id=user.id)
        assert cache.stats.near.hits
        for channel in cache.open_cache.guarded.near.channels:
            channel.check(channel.ping_at)  # as after a silence
        await cast("Any", cache.open_cache.guarded.backend)._endpoint._topology.require()
    assert [refused(node) for node in cluster.nodes] == [[], []]


async def test_other_keys_are_refused(server: RedisServer) -> None:
    grant(server, CACHE)
    async with opened(url_of(server)) as backend:
        await put(backend, b"shop:amc:r:own", b"value")
        assert await held(backend, b"shop:amc:r:own") == b"value"
        for key in (b"amc:r:1", b"shop:session", new_key()):
            with pytest.raises(BackendError, match="permission"):
                await backend.read([key])
            with pytest.raises(BackendError, match="permission"):
                await backend.mark([key], bytes(16), MINUTE)


async def test_another_database_needs_a_rule_of_its_own(server: RedisServer) -> None:
    grant(server, CACHE, DATABASE)
    async with opened(f"{url_of(server).removesuffix('/0')}/1") as backend:
        await put(backend, b"shop:amc:r:1", b"value")
    assert refused(server) == []


@pytest.mark.parametrize("features", [(CACHE,), (CACHE, WAIT)], ids=["without", "with"])
async def test_waiting_for_replicas_needs_a_rule_of_its_own(
    server: RedisServer, features: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend_module, "MAX_WAIT", PATIENT)  # a busy machine may need longer
    grant(server, *features)
    with RedisServer() as replica, replica.client() as client:
        client.execute_command("REPLICAOF", "127.0.0.1", server.port)
        await until(lambda: client.info("replication")["master_link_status"] == "up")
        async with opened(url_of(server), wait_replicas=1) as backend:
            key = b"shop:amc:r:waited"
            if WAIT in features:
                await backend.mark([key], bytes(16), MINUTE)
                assert client.exists(key)
            else:
                with pytest.raises(BackendError, match=r"(?i)wait"):
                    await backend.mark([key], bytes(16), MINUTE)
    assert refused(server) == ([] if WAIT in features else ["wait"])


async def test_the_shell_sees_all_that_it_shows(server: RedisServer) -> None:
    grant(server, CACHE, SHELL, WATCH)
    async with opened(url_of(server)) as backend, connected(url_of(server)) as store:
        key = b"shop:amc:r:shell"
        await put(backend, key, b"value")
        assert key in [found async for chunk in store.scan(b"shop:amc:") for found in chunk]
        assert await store.values([key]) == [b"value"]
        assert await store.heat([key]) != [None]
        assert await store.watch_reads(0.01) is not None
        assert await store.config("maxmemory-policy") == "noeviction"
        with server.client() as control:
            control.config_set("maxmemory-policy", "allkeys-lfu")
            assert await store.heat([key]) != [None]
            control.config_set("maxmemory-policy", "noeviction")
        assert await store.info()
        assert await store.clock()
        assert await store.expires_in([key]) != [None]
        await store.route()
    assert refused(server) == []
