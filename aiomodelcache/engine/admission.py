"""The admission of loads to the database: no more statements in flight than a connection bears.

A batch that waits takes in the items that come meanwhile, so the longer it waits, the more its one statement answers.
Batches are admitted in the order in which they began to wait. Must not know statements or plans.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar
from weakref import WeakKeyDictionary

from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache.config import CacheConfig
from aiomodelcache.engine.load_limit import LoadLimit
from aiomodelcache.observe.stats import Stats

PROBE_INTERVAL: Final = 0.5
"""Seconds of waiting after which the limit is probed: raised by one, unless the database is known to be slow."""
SHORTEST_WAIT: Final = 0.001
"""Seconds that a batch waits at least, as a clock may round the rest of ``load_wait`` to nothing."""
T = TypeVar("T")
Sample = tuple[Hashable, int, float, int]
"""The arguments of ``LoadLimit.sample``."""


class _Batch(Generic[T]):
    """Items that wait for one statement, and when each of them came."""

    __slots__ = ("came", "items", "turn")

    def __init__(self, items: list[T]) -> None:
        self.items = items
        self.came = [time.monotonic()] * len(items)
        self.turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Admission(Generic[T]):
    """The statements in flight on one connection, and the batches that wait."""

    def __init__(self, connection: str, limit: LoadLimit | None, load_wait: float, stats: Stats) -> None:
        self.connection = connection
        self._limit = limit
        self._load_wait = load_wait
        self._stats = stats
        self._waiting: OrderedDict[Hashable, _Batch[T]] = OrderedDict()
        """The batches that wait, in order."""
        self._probing: asyncio.TimerHandle | None = None
        self.in_flight = 0
        self._show_limit()

    @property
    def limit(self) -> int | None:
        """The number of statements that may be in flight now, or None if there is no limit."""
        return None if self._limit is None else self._limit.value

    @property
    def saturated(self) -> bool:
        """True if loads wait, or would wait."""
        return self._limit is not None and (bool(self._waiting) or self.in_flight >= self._limit.value)

    async def enter(
        self, key: Hashable, items: list[T], on_overdue: Callable[[list[T]], None], *, first: bool = False
    ) -> bool:
        """Waits until these items may be loaded by one statement. Adds those with the same ``key`` that come meanwhile.

        Returns False if the caller has nothing to load: the items were added to a batch that waits already, or have
        waited too long. ``on_overdue`` gets the items that have waited too long, and they are removed. Each call that
        returns True needs a ``leave``. ``first``: before all batches that wait.
        """
        if not self.saturated:
            self.in_flight += 1
            return True
        self._stats.queued_loads += len(items)
        batch = self._waiting.get(key)
        if batch is not None:
            batch.came += [time.monotonic()] * len(items)
            batch.items += items
            return False
        batch = self._waiting[key] = _Batch(items)
        self._probe_later()
        if first:
            self._waiting.move_to_end(key, last=False)
        try:
            while not batch.turn.done():
                left = batch.came[0] + self._load_wait - time.monotonic()
                await asyncio.wait([batch.turn], timeout=max(SHORTEST_WAIT, left))
                if not batch.turn.done() and not self._drop_overdue(batch, on_overdue):
                    return False
        except BaseException:  # cancelled: the cache closes
            if batch.turn.done():
                self.leave()
            raise
        finally:
            if self._waiting.get(key) is batch:
                del self._waiting[key]
        return True

    def _drop_overdue(self, batch: _Batch[T], on_overdue: Callable[[list[T]], None]) -> bool:
        """Removes the items that have waited too long. Returns True if others remain."""
        latest = time.monotonic() - self._load_wait
        number = sum(came <= latest for came in batch.came)
        late = batch.items[:number]
        del batch.items[:number], batch.came[:number]
        if late:
            self._stats.overloaded_loads += len(late)
            on_overdue(late)
        return bool(batch.items)

    def leave(self, sample: Sample | None = None) -> None:
        """Ends a statement, and admits batches that wait. ``sample``: what it tells of the database, if anything."""
        if self._limit is not None and sample is not None:
            self._limit.sample(*sample)
            self._show_limit()
        self.in_flight -= 1
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self._limit is not None and self.in_flight < self._limit.value:
            key = next(iter(self._waiting))
            self.in_flight += 1
            self._waiting.pop(key).turn.set_result(None)

    def _probe_later(self) -> None:
        if self._probing is None:
            self._probing = asyncio.get_running_loop().call_later(PROBE_INTERVAL, self._probe)

    def _probe(self) -> None:
        self._probing = None
        if self._waiting and self._limit is not None:
            self._limit.probe()
            self._show_limit()
            self._admit()
            self._probe_later()

    def _show_limit(self) -> None:
        if self._limit is not None:
            self._stats.load_limits[self.connection] = self._limit.value


class Admissions(Generic[T]):
    """The admission to each connection of one open cache, which all of its views share."""

    def __init__(self, config: CacheConfig, stats: Stats) -> None:
        self._config = config
        self._stats = stats
        self._by_client: WeakKeyDictionary[BaseDBAsyncClient, Admission[T]] = WeakKeyDictionary()

    def admission_to(self, client: BaseDBAsyncClient) -> Admission[T]:
        """Returns the admission to a connection."""
        found = self._by_client.get(client)
        if found is None:
            limit = None if self._config.load_limit is None else LoadLimit(self._config.load_limit)
            found = self._by_client[client] = Admission(
                client.connection_name, limit, self._config.load_wait, self._stats
            )
        return found

    def saturated(self) -> bool:
        """Returns True if loads wait for any connection."""
        return any(each.saturated for each in self._by_client.values())
