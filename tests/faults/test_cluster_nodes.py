"""One node of a Cluster fails: lookups of its keys go to the database, and those of other keys stay hits."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import replace
from typing import Any, Literal

import pytest
from redis.crc import key_slot
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache import CacheWriteError, ModelCache, cached, no_invalidation
from aiomodelcache.backends.protocol import ReadCallback
from aiomodelcache.backends.redis.backend import RedisBackend
from aiomodelcache.observe.events import Breaker
from aiomodelcache.observe.stats import VerifiedCounters
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.observe.recorder import Recorder
from tests.support.gates import PATIENCE, gated_sql
from tests.support.models.models import User
from tests.support.servers import RedisServer
from tests.support.servers.redis_cluster import SLOTS, Cluster, ClusterNode

pytestmark = [
    pytest.mark.only_on("no store", because="its stores are its own"),
    pytest.mark.only_on("sqlite", because="it is about the store"),
]

TIMEOUT = 1.0
"""Seconds until a request to a frozen node times out."""
NODES = 3
USERS = 40


@pytest.fixture(scope="module")
def shared(redis_server: RedisServer) -> Iterator[Cluster]:
    # ``redis_server`` skips where there is no Redis.
    with ExitStack() as stack:
        yield Cluster([stack.enter_context(ClusterNode()) for _ in range(NODES)])


class Spy(RedisBackend):
    """A backend that records which nodes each read needs."""

    nodes: frozenset[int] = frozenset()

    def start_read(self, keys: Sequence[bytes], callback: ReadCallback) -> bool:
        self.nodes = frozenset(key_slot(key) * NODES // SLOTS for key in keys)
        self._can_start_read = True
        return super().start_read(keys, callback)


class Scene:
    """A warm cache on a Cluster, and the users whose lookups need a certain node, or do not."""

    def __init__(self, cluster: Cluster, backend: Spy, counted: CountingBackend, cache: ModelCache) -> None:
        self.cluster = cluster
        self.backend = backend
        self.counted = counted
        self.cache = cache
        self.needed: dict[int, frozenset[int]] = {}
        self.dead = False

    async def warm(self) -> None:
        for _ in range(2):
            for number in range(1, USERS + 1):
                await User.cache.get(id=number)
                self.needed[number] = self.backend.nodes
        by_node = {node: [n for n, nodes in self.needed.items() if node in nodes] for node in range(NODES)}
        [self.victim, *_] = [node for node, users in by_node.items() if 0 < len(users) < USERS]
        self.lost = by_node[self.victim]
        self.healthy = [number for number in self.needed if number not in self.lost]
        self.node = self.cluster.nodes[self.victim]

    async def fail(self, fate: Literal["dead", "frozen"]) -> None:
        """Ends or freezes the node, and has one lookup find out."""
        self.dead = fate == "dead"
        (self.node.kill if self.dead else self.node.stop)()
        assert (await User.cache.get(id=self.lost[0])).username == f"user{self.lost[0]}"

    async def assert_hits(self, numbers: list[int]) -> None:
        async with assert_ops(self.counted, sql=0):
            users = await asyncio.gather(*[User.cache.get(id=number) for number in numbers])
        assert [user.username for user in users] == [f"user{number}" for number in numbers]


@pytest.fixture
async def make_scene(shared: Cluster, database: BaseDBAsyncClient) -> AsyncIterator[Callable[..., Awaitable[Scene]]]:
    async with AsyncExitStack() as stack:
        scenes: list[Scene] = []

        async def make(**settings: Any) -> Scene:
            for node in shared.nodes:
                node.flush()
            await User.bulk_create([User(id=number, username=f"user{number}") for number in range(1, USERS + 1)])
            backend = Spy(shared.url, socket_timeout=TIMEOUT)
            stack.push_async_callback(backend.close)
            counted = CountingBackend(backend)
            cache = await stack.enter_async_context(ModelCache(counted, **({"breaker_cooldown": 1_000} | settings)))
            scene = Scene(shared, backend, counted, cache)
            scenes.append(scene)
            await scene.warm()
            return scene

        try:
            yield make
        finally:
            for scene in scenes:
                (scene.node.restart if scene.dead else scene.node.cont)()
            shared.wait()


def logged(caplog: pytest.LogCaptureFixture, text: str) -> int:
    return sum(text in record.getMessage() for record in caplog.records if record.name == "aiomodelcache")


OPENED, CLOSED = "not used for now for the keys of one node", "used again for the keys of"


@pytest.mark.parametrize("fate", ["dead", "frozen"])
async def test_lookups_of_other_nodes_stay_hits(
    make_scene: Callable[..., Awaitable[Scene]], fate: Literal["dead", "frozen"], caplog: pytest.LogCaptureFixture
) -> None:
    scene = await make_scene()
    await scene.fail(fate)
    assert scene.cache.stats.bypassed >= 1
    for _ in range(3):
        await scene.assert_hits(scene.healthy)
        before = scene.cache.stats.bypassed
        everyone = [*scene.healthy, *scene.lost]
        async with assert_ops(scene.counted, redis=["read"], sql=1):
            users = await asyncio.gather(*[User.cache.get(id=number) for number in everyone])
        assert [user.id for user in users] == everyone
        assert scene.cache.stats.bypassed == before + len(scene.lost)
        async with assert_ops(scene.counted, sql=1):
            await asyncio.gather(*[User.cache.get(id=number) for number in scene.lost])
    assert logged(caplog, OPENED) == 1
    assert scene.cache.stats.backend_errors == 1


async def test_every_kind_of_lookup_is_answered_without_the_node(make_scene: Callable[..., Awaitable[Scene]]) -> None:
    scene = await make_scene()

    @cached
    async def names() -> list[str]:
        return [(await User.cache.get(id=number)).username for number in range(1, USERS + 1)]

    expected = [f"user{number}" for number in range(1, USERS + 1)]
    queries: list[Callable[[], Awaitable[Any]]] = [
        lambda: User.cache.get_many(list(range(1, USERS + 1))),
        lambda: User.cache.filter(team=0),
        lambda: asyncio.gather(*[User.cache.get(username=name) for name in expected]),
    ]
    for _ in range(2):
        assert await names() == expected
        for query in queries:
            await query()
    await scene.fail("dead")
    for _ in range(2):
        assert await names() == expected
        for query in queries:
            assert sorted(user.id for user in await query()) == list(range(1, USERS + 1))
    assert await User.cache.get_or_none(username="nobody") is None
    assert [await User.cache.count(team=team) for team in (0, 1)] == [USERS, 0]


async def test_the_node_is_tried_again_after_the_cooldown(
    make_scene: Callable[..., Awaitable[Scene]], caplog: pytest.LogCaptureFixture
) -> None:
    scene = await make_scene(breaker_cooldown=0.05)
    recorder = Recorder()
    scene.cache.open_cache.guarded.add_observer(recorder)
    await scene.fail("frozen")
    scene.node.cont()
    async with asyncio.timeout(PATIENCE):
        while scene.cache.open_cache.guarded.failing:
            await User.cache.get(id=scene.lost[0])
            await asyncio.sleep(0.01)
    await scene.assert_hits(scene.lost)
    assert logged(caplog, OPENED) >= logged(caplog, CLOSED) == 1
    states = [note.state for note in recorder.notes if isinstance(note, Breaker)]
    assert states[0] == "open"
    assert states[-1] == "closed"


async def test_what_a_frozen_node_missed_is_not_believed_until_it_is_delivered(
    make_scene: Callable[..., Awaitable[Scene]], caplog: pytest.LogCaptureFixture
) -> None:
    scene = await make_scene(breaker_cooldown=0.05)
    guarded = scene.cache.open_cache.guarded
    written = scene.lost[-1]
    scene.node.stop()
    user = await User.get(id=written)
    user.email = "new@example.org"
    await user.save()
    assert guarded.has_undelivered
    async with assert_ops(scene.counted, sql=0):  # however long the invalidation is kept
        for number in scene.healthy:
            assert (await User.cache.get(id=number)).id == number
    scene.node.cont()
    asked = 0
    async with asyncio.timeout(PATIENCE):
        while guarded.has_undelivered or asked < 5:
            assert (await User.cache.get(id=written)).email == "new@example.org"
            asked += 1
    async with asyncio.timeout(PATIENCE):
        while scene.cache.open_cache.guarded.failing:
            assert (await User.cache.get(id=written)).email == "new@example.org"
    for _ in range(2):
        assert (await User.cache.get(id=written)).email == "new@example.org"
    async with assert_ops(scene.counted, sql=0):
        assert (await User.cache.get(id=written)).email == "new@example.org"
    assert logged(caplog, "all invalidations are delivered") == 1


async def test_undelivered_keys_are_refused_although_their_node_answers(
    make_scene: Callable[..., Awaitable[Scene]],
) -> None:
    scene = await make_scene()
    nodes = scene.cache.open_cache.guarded.nodes
    assert nodes is not None
    [number, other] = scene.healthy[:2]
    key = scene.cache.open_cache.models[User].rows.key(number)
    nodes.add_undelivered([key])
    nodes.add_undelivered([key])
    nodes.remove_undelivered([key])
    async with assert_ops(scene.counted, sql=1):
        await asyncio.gather(User.cache.get(id=number), User.cache.get(id=other))
    nodes.remove_undelivered([key])
    await scene.assert_hits([number, other])


async def test_undelivered_keys_are_explained_as_such(make_scene: Callable[..., Awaitable[Scene]]) -> None:
    scene = await make_scene()
    guarded = scene.cache.open_cache.guarded
    assert guarded.nodes is not None
    [number, other] = scene.healthy[:2]
    guarded.nodes.add_undelivered([scene.cache.open_cache.models[User].rows.key(number)])
    explained = await User.cache.explain(id=number)
    assert (explained.source, explained.reason) == ("database", "undelivered")
    assert (await User.cache.explain(id=other)).source == "cache"


async def test_keys_of_a_node_that_has_failed_are_explained_as_such(
    make_scene: Callable[..., Awaitable[Scene]],
) -> None:
    scene = await make_scene()
    await scene.fail("frozen")
    scene.node.cont()
    async with assert_ops(scene.counted, sql=1):
        await User.cache.get(id=scene.lost[0])
    explained = await User.cache.explain(id=scene.lost[0])
    assert (explained.source, explained.reason) == ("database", "unreachable")
    assert (await User.cache.explain(id=scene.healthy[0])).source == "cache"


async def test_an_entry_with_an_undelivered_invalidation_raises_no_alarm(
    make_scene: Callable[..., Awaitable[Scene]], database: BaseDBAsyncClient
) -> None:
    """No lookup of this process would be answered by it, although its node answers again."""
    scene = await make_scene(verify=1.0)
    opened = scene.cache.open_cache
    [number] = scene.healthy[:1]

    async def settled() -> VerifiedCounters:
        async with asyncio.timeout(PATIENCE):
            while opened.busy:
                await asyncio.sleep(0.001)
        return scene.cache.stats.verified

    for _ in range(3):  # the last one is a hit by the index
        assert (await User.cache.get(username=f"user{number}")).id == number
        await settled()
    entries = opened.entries_of(User)
    [by_name] = [index for index in entries.indexes if index.attributes == ("username",)]
    keys = [entries.rows.key(number), by_name.key_of((f"user{number}",))]
    before = replace(scene.cache.stats.verified)
    with gated_sql(database) as gates:
        held = [gates.hold("SELECT"), gates.hold("SELECT")]
        await User.cache.get(username=f"user{number}")
        for gate in held:
            await gate.reached()
        guarded = opened.guarded
        assert guarded.nodes is not None
        guarded.nodes.add_undelivered(keys)  # as by a writer whose marks were lost with a connection
        with no_invalidation():
            await User.filter(id=number).update(username="moved")
        for gate in held:
            gate.open()
        verified = await settled()
    assert (verified.compared, verified.changed) == (before.compared + 2, before.changed + 2)
    assert verified.stale == before.stale == 0
    assert await User.cache.get_or_none(username=f"user{number}") is None


async def test_a_write_to_the_node_is_refused_or_kept(make_scene: Callable[..., Awaitable[Scene]]) -> None:
    scene = await make_scene(on_write_error="raise")
    await scene.fail("dead")
    user = await User.get(id=scene.lost[0])
    user.team = 7
    with pytest.raises(CacheWriteError):
        await user.save()
    await scene.assert_hits(scene.healthy)
