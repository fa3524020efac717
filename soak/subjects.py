"""``Subject``: the common interface of the caches under test, the library and caches that are known to be broken.

A subject looks rows up and is notified of writes. The writes themselves are Tortoise's, the same for all subjects. The
library notices writes by itself. The controls are caches written by hand, and more careful than most: they invalidate
all keys under which a row may ever be found.
"""

import asyncio
import json
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from typing import Any, ClassVar, Final, Self, cast

import anyio
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from aiomodelcache import BatchCacheQuery, InvalidationType, ModelCache, RedisBackend
from aiomodelcache.backends.breaker import GuardedBackend
from aiomodelcache.backends.channels import Channel
from aiomodelcache.backends.protocol import Clear, Fill, Lease
from aiomodelcache.backends.redis.cluster.tracking import NodeTracking
from aiomodelcache.backends.redis.connection import PipelinedConnection
from aiomodelcache.backends.redis.incarnation import ServerIncarnation
from aiomodelcache.config import CacheConfig
from aiomodelcache.encoding.layout import LEASE
from aiomodelcache.orm import transactions
from soak.model import Item
from soak.world import World, slug_text

Seen = tuple[int, int]
"""Version and nonce of a row, or ``ABSENT``."""
ABSENT: Final = (0, 0)
POINTS: Final = ("before mark", "between mark and COMMIT", "between COMMIT and clear")
"""Points at which a writer can be told to wait until it is killed."""


LIBRARY: Final = (
    "aiomodelcache", "near", "derived", "responses", "through", "cluster", "cluster-near", "relayed", "relayed-near",
)  # fmt: skip
"""Subjects that are the library: without and with entries kept near, with answers derived by cached functions, with
whole responses, with rows that writers store, on a Redis Cluster, without and with entries near, and with other
programs that write, without and with entries near."""
CLUSTERED: Final = ("cluster", "cluster-near", "unmasked", "hoarding")
"""Subjects on a Redis Cluster."""
RELAYED: Final = ("relayed", "relayed-near", "notified", "hasty")
"""Subjects with other programs that write, and with relays."""
VERIFIED: Final = (*LIBRARY, "unmarked")
"""Subjects that compare entries with the database, in half of their processes."""
NEAR: Final = ("near", "deaf", "relayed-near", "cluster-near", "hoarding")
"""Subjects that keep entries in each process."""
REPEATING: Final = (*NEAR, "responses", "agreeing", "notified", "hasty")
"""Subjects whose clients must ask for the same things again. They have few rows."""
WRITE_THROUGH: Final = ("through", "blind")
"""Subjects whose writers store rows."""

BATCHES: Final[tuple[int, ...]] = (1, 8, 64, 256, 512, 1_024)
"""Numbers of lookups in one batch. A reader picks one at random."""
SMALL_BATCHES: Final[tuple[int, ...]] = (1, 1, 1, 2, 4, 32)
"""Numbers of lookups in one batch, for subjects that keep entries near."""


class Subject(ABC):
    """One cache in one process. Use it by ``async with``."""

    def __init__(self, url: str, world: World, chance: random.Random) -> None:
        self.url = url
        self.world = world
        self.chance = chance
        self.batches = BATCHES
        self.pages = 0.0
        """Fraction of the reads that are of pages."""
        self.on_undelivered: Callable[[bool], None] = lambda undelivered: None
        """Callback for the state of invalidations: True if some cannot be delivered, False when all have been."""
        self.on_mark_failed: Callable[[int], None] = lambda start: None
        """Callback for an intent that could not be marked, with the start of the attempt."""
        self.on_open: Callable[[ModelCache], None] = lambda cache: None
        """Callback for the library's cache, when it has been opened."""
        self._armed: str | None = None
        self._reached: Callable[[str], None] = lambda point: None
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        while True:
            try:
                await self.open()
                return self
            except Exception:  # Redis may be away just now
                await self._stack.aclose()
                await anyio.sleep(0.2)

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @abstractmethod
    async def open(self) -> None:
        """Connects."""

    @abstractmethod
    async def by_pk(self, pks: Sequence[int]) -> list[Seen]:
        """Returns the rows with these primary keys."""

    @abstractmethod
    async def by_slug(self, slugs: Sequence[int]) -> list[Seen]:
        """Returns the rows with these slugs."""

    @abstractmethod
    async def by_team(self, teams: Sequence[int]) -> list[list[Seen]]:
        """Returns the lists of the rows in these teams."""

    async def by_pair(self, pks: Sequence[int]) -> tuple[list[Seen], bool]:
        """Returns two rows, and True if they must have been in the database at one moment."""
        return await self.by_pk(pks), False

    async def by_page(self, pks: range, way: float) -> tuple[list[Seen], bool]:
        """Returns the rows of a page, and True if they must have been in the database at one moment.

        ``way``, from 0 to 1, chooses one of the ways to ask for them.
        """
        return await self.by_pk(pks), False

    async def statement_done(self, pks: Iterable[int]) -> None:
        """Notifies the cache of a statement that wrote rows. It may be inside a transaction."""
        return

    async def committed(self, pks: Iterable[int]) -> None:
        """Notifies the cache of a COMMIT."""
        return

    draws_versions: ClassVar[bool] = False
    """True if writers draw the versions of the rows that they save, so that they know the whole row."""

    def near_hits(self) -> int:
        """Returns the number of rounds of reading that sent no request."""
        return 0

    def rows_stored(self) -> int:
        """Returns the number of rows that writers have stored."""
        return 0

    def verified(self) -> tuple[int, int]:
        """Returns the numbers of entries that were compared with the database, and of failed comparisons."""
        return 0, 0

    def relayed(self) -> tuple[int, int]:
        """Returns the numbers of lookups that the cache answered, and of those that no relay allowed it to answer."""
        return 0, 0

    def not_modified(self) -> int:
        """Returns the number of answers that a client had already."""
        return 0

    def arm(self, point: str, reached: Callable[[str], None]) -> None:
        """Makes the next write that comes to ``point`` wait there for ever."""
        self._armed, self._reached = point, reached

    async def pass_point(self, point: str) -> None:
        """Waits for ever if ``point`` is armed, else returns at once."""
        if self._armed == point:
            self._armed = None
            self._reached(point)
            await anyio.sleep_forever()


# The library -----------------------------------------------------------------------------------------


class PointedBackend:
    """A backend with points at which a writer can be killed."""

    def __init__(self, backend: Any, subject: Subject) -> None:
        self._backend = backend
        self._subject = subject

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    async def mark(self, *args: Any, **kwargs: Any) -> Any:
        return await self._mark(self._backend.mark, *args, **kwargs)

    async def mark_for_save(self, *args: Any) -> Any:
        return await self._mark(self._backend.mark_for_save, *args)

    async def _mark(self, mark: Any, *args: Any, **kwargs: Any) -> Any:
        await self._subject.pass_point("before mark")
        start = time.monotonic_ns()
        try:
            answer = await mark(*args, **kwargs)
        except BaseException:
            self._subject.on_mark_failed(start)
            raise
        await self._subject.pass_point("between mark and COMMIT")
        return answer

    async def clear(self, *args: Any, **kwargs: Any) -> Any:
        await self._subject.pass_point("between COMMIT and clear")
        return await self._backend.clear(*args, **kwargs)

    async def clear_and_save(self, *args: Any) -> Any:
        await self._subject.pass_point("between COMMIT and clear")
        return await self._backend.clear_and_save(*args)


class WatchedBackend(GuardedBackend):
    """A guarded backend that reports when invalidations cannot be delivered, and when they have been."""

    on_undelivered: Callable[[bool], None]

    @property
    def has_undelivered(self) -> bool:
        """See ``GuardedBackend``."""
        return bool(self.__dict__.get("has_undelivered", False))

    @has_undelivered.setter
    def has_undelivered(self, undelivered: bool) -> None:
        before = self.has_undelivered
        self.__dict__["has_undelivered"] = undelivered
        if undelivered is not before:
            self.on_undelivered(undelivered)


class Library(Subject):
    """aiomodelcache as a subject."""

    backend: ClassVar[type[PointedBackend]] = PointedBackend

    def __init__(
        self, url: str, world: World, chance: random.Random, config: CacheConfig, allowtime: float = 0
    ) -> None:
        super().__init__(url, world, chance)
        self._config = config
        if config.near:
            self.batches = SMALL_BATCHES  # a batch is answered near only if all its entries are near
        if allowtime:
            Item.CacheMeta.invalidation = InvalidationType.DYNAMIC
            Item.CacheMeta.allowtime = allowtime

    async def open(self) -> None:
        backend = RedisBackend(self.url, socket_timeout=self._config.socket_timeout)
        await backend.open()
        self._stack.push_async_callback(backend.close)
        pointed: Any = self.backend(backend, self)
        self._cache = cache = await self._stack.enter_async_context(ModelCache(pointed, config=self._config))
        guarded: Any = cache.open_cache.guarded
        guarded.__class__ = WatchedBackend
        guarded.on_undelivered = lambda undelivered: self.on_undelivered(undelivered)

        self.on_open(cache)

    def near_hits(self) -> int:
        return self._cache.stats.near.hits

    def rows_stored(self) -> int:
        return self._cache.stats.by_cache["Item"].written_through

    def verified(self) -> tuple[int, int]:
        counters = self._cache.stats.verified
        return counters.compared, counters.failed

    def relayed(self) -> tuple[int, int]:
        stats = self._cache.stats
        return sum(counters.hits for counters in stats.by_cache.values()), stats.relay_bypassed

    async def by_pk(self, pks: Sequence[int]) -> list[Seen]:
        way = self.chance.random()
        if way < 0.7 or len(pks) > 64:
            found: Any = await Item.cache.in_bulk(pks)
            return [seen(found.get(pk)) for pk in pks]
        if way < 0.85:
            return [seen(item) for item in await asyncio.gather(*[Item.cache.get_or_none(id=pk) for pk in pks])]
        batch = BatchCacheQuery({pk: Item.cache.get_or_none(id=pk) for pk in pks})
        return [seen(item) for item in (await batch).values()]

    async def by_pair(self, pks: Sequence[int]) -> tuple[list[Seen], bool]:
        found = await BatchCacheQuery({pk: Item.cache.get_or_none(id=pk) for pk in pks}).get(snapshot=True)
        return [seen(found[pk]) for pk in pks], True

    async def by_slug(self, slugs: Sequence[int]) -> list[Seen]:
        texts = [slug_text(slug) for slug in slugs]
        if self.chance.random() < 0.5 or len(slugs) > 64:
            found: Any = await Item.cache.in_bulk(texts, key="slug")
            return [seen(found.get(text)) for text in texts]
        return [seen(item) for item in await asyncio.gather(*[Item.cache.get_or_none(slug=text) for text in texts])]

    async def by_team(self, teams: Sequence[int]) -> list[list[Seen]]:
        lists = await asyncio.gather(*[Item.cache.filter(team=team) for team in teams])
        return [list(map(seen, items)) for items in lists]


def seen(item: Item | None) -> Seen:
    """Returns the result of a lookup in the form of the log."""
    return ABSENT if item is None else (item.version, item.nonce)


class Relayed(Library):
    """The library with a relay for the writes of other programs. The controls differ in their relays."""

    def __init__(
        self, url: str, world: World, chance: random.Random, config: CacheConfig, allowtime: float = 0
    ) -> None:
        super().__init__(url, world, chance, config, allowtime)
        Item.CacheMeta.relay = True


class Through(Library):
    """The library with writers that store the rows that they save, in every second process."""

    draws_versions = True


class BlindBackend(PointedBackend):
    """A backend that stores saved rows wherever it finds nothing, whether or not another writer was there."""

    async def clear_and_save(self, saves: Any, clears: Any, token: bytes, stamps: Any = ()) -> Any:
        await self.clear([*clears, *[Clear(save.key) for save in saves]], token, stamps)
        own = LEASE + token
        leased = await self._backend.lease([Lease(save.key) for save in saves], token, 1_000)
        fills = [Fill(save.key, own, save.value, save.ttl_ms) for save in saves]
        return await self._backend.fill(fills) if own in leased.values else [False for _ in saves]


class Blind(Through):
    """The library with writers that do not look for other writers."""

    backend = BlindBackend


class Unmarked(Library):
    """The library with a backend that forgets a twentieth of the invalidations, for ``verify`` to find."""

    async def open(self) -> None:
        await super().open()
        backend: Any = self._cache.open_cache.guarded.backend
        mark, clear = backend.mark, backend.clear

        async def mark_most(keys: Sequence[bytes], token: bytes, *args: Any, **kwargs: Any) -> Any:
            return {} if self._is_forgotten(token) else await mark(keys, token, *args, **kwargs)

        async def clear_most(clears: Sequence[Any], token: bytes, *args: Any, **kwargs: Any) -> Any:
            return [True] * len(clears) if self._is_forgotten(token) else await clear(clears, token, *args, **kwargs)

        backend.mark, backend.clear = mark_most, clear_most

    @staticmethod
    def _is_forgotten(token: bytes) -> bool:
        return token[-1] < 13


class Deaf(Library):
    """The library with entries kept near, but without the server's invalidations: as broken as a dict per process."""

    async def open(self) -> None:
        connection: Any = PipelinedConnection
        connection._on_push = lambda self, message: None
        await super().open()


class Unshielded(Library):
    """The library with Tortoise's own context managers for its transactions, which do not survive a cancellation."""

    async def open(self) -> None:
        module: Any = transactions
        module._safe = lambda manager: manager
        await super().open()


class Unmasked(Library):
    """The library on a Cluster, without the identities of the nodes: versions of every incarnation are used."""

    async def open(self) -> None:
        incarnation: Any = ServerIncarnation
        incarnation._identity_of = lambda self, replies: b""
        await super().open()


class Hoarding(Library):
    """The library on a Cluster with entries near, which stay when a node's connection is lost or a slot moves."""

    async def open(self) -> None:
        channel, tracking = cast("Any", Channel), cast("Any", NodeTracking)
        channel.drop_all = tracking._leave_moved = lambda *_: None
        await super().open()


# Controls ----------------------------------------------------------------------------------------------


class Control(Subject):
    """A cache written by hand: GET, else SELECT and SET. Each key under which rows are looked up has an entry."""

    ttl_ms: ClassVar[int] = 3_600_000

    async def open(self) -> None:
        self.redis: Any = Redis.from_url(self.url, socket_timeout=0.5, retry=Retry(NoBackoff(), 0))
        self._stack.push_async_callback(self.redis.aclose)

    async def by_pk(self, pks: Sequence[int]) -> list[Seen]:
        return [(version, nonce) for version, nonce in await self._read([f"pk:{pk}" for pk in pks])]

    async def by_slug(self, slugs: Sequence[int]) -> list[Seen]:
        return [(version, nonce) for version, nonce in await self._read([f"slug:{slug}" for slug in slugs])]

    async def by_team(self, teams: Sequence[int]) -> list[list[Seen]]:
        lists = await self._read([f"team:{team}" for team in teams])
        return [[(version, nonce) for version, nonce in rows] for rows in lists]

    async def _read(self, keys: Sequence[str]) -> list[Any]:
        stored = dict(zip(keys, await self.redis.mget(keys), strict=True))
        missing = [key for key, value in stored.items() if self.is_miss(value)]
        loaded = await load(missing)
        if missing:
            await self.fill({key: json.dumps(value) for key, value in loaded.items() if stored[key] is None})
        return [loaded[key] if key in loaded else json.loads(stored[key]) for key in keys]

    def is_miss(self, value: bytes | None) -> bool:
        """Returns True if the stored value does not answer a lookup."""
        return value is None

    async def fill(self, values: dict[str, str]) -> None:
        """Stores loaded values."""
        async with self.redis.pipeline(transaction=False) as pipeline:
            for key, value in values.items():
                pipeline.set(key, value, px=self.ttl_ms)
            await pipeline.execute()

    def keys(self, pks: Iterable[int]) -> list[str]:
        """Returns all keys under which these rows may ever be found."""
        keys: dict[str, None] = {}
        for pk in pks:
            keys[f"pk:{pk}"] = None
            keys.update(dict.fromkeys([f"slug:{slug}" for slug in self.world.slugs(pk)]))
            keys.update(dict.fromkeys([f"team:{team}" for team in self.world.teams_of(pk)]))
        return list(keys)

    async def invalidate(self, pks: Iterable[int]) -> None:
        """Invalidates rows."""
        await self.pass_point(POINTS[2])
        await self.redis.delete(*self.keys(pks))


async def load(keys: Iterable[str]) -> dict[str, Any]:
    """Loads the values of keys of one kind from the database: a row, or a list of rows, for each key."""
    wanted = {int(key.partition(":")[2]): key for key in keys}
    if not wanted:
        return {}
    kind = next(iter(wanted.values())).partition(":")[0]
    if kind == "team":
        lists: dict[str, Any] = {key: [] for key in wanted.values()}
        for item in await Item.filter(team__in=list(wanted)):
            lists[wanted[item.team]].append(seen(item))
        return lists
    if kind == "pk":
        rows = {item.id: item for item in await Item.filter(id__in=list(wanted))}
    else:
        rows = {int(item.slug[1:]): item for item in await Item.filter(slug__in=list(map(slug_text, wanted)))}
    return {key: seen(rows.get(number)) for number, key in wanted.items()}


class LookAside(Control):
    """Deletes right after the statement, like a signal handler: in a transaction, before its COMMIT."""

    async def statement_done(self, pks: Iterable[int]) -> None:
        await self.invalidate(pks)


class DeleteAfterCommit(Control):
    """Deletes after the COMMIT."""

    async def committed(self, pks: Iterable[int]) -> None:
        await self.invalidate(pks)


class Tombstone(Control):
    """Stores a tombstone for a second after the COMMIT, and fills by SET NX, which does not replace a tombstone."""

    tombstone: ClassVar[bytes] = b"T"
    tombstone_ms: ClassVar[int] = 1_000

    def is_miss(self, value: bytes | None) -> bool:
        return value is None or value == self.tombstone

    async def fill(self, values: dict[str, str]) -> None:
        async with self.redis.pipeline(transaction=False) as pipeline:
            for key, value in values.items():
                pipeline.set(key, value, px=self.ttl_ms, nx=True)
            await pipeline.execute()

    async def committed(self, pks: Iterable[int]) -> None:
        await self.pass_point(POINTS[2])
        async with self.redis.pipeline(transaction=False) as pipeline:
            for key in self.keys(pks):
                pipeline.set(key, self.tombstone, px=self.tombstone_ms)
            await pipeline.execute()
