"""Reads together what is asked for in one tick: one MGET for all, whoever asks.

Knows keys and bytes, not what they mean. A read is begun and answered without a task of its own, where the backend can
do so (``Prompt``): a hit is on its way for two turns of the event loop.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final

from aiomodelcache.backends.breaker import GuardedBackend, GuardedReadCallback
from aiomodelcache.backends.near import Ticket
from aiomodelcache.engine.tasks import BackgroundTasks
from aiomodelcache.exceptions import BackendError

MAX_READS_IN_FLIGHT: Final = 2
"""Reads that are under way: one that the server works on, and one whose answers are handed out."""

EntriesByKey = Mapping[bytes, bytes | None]
"""What was read, by key."""
CollectKeys = Callable[[dict[bytes, None]], None]
"""Adds the keys to read; called when the read is about to be sent."""
Deliver = Callable[[EntriesByKey], Iterator[None]]
"""Told what was read. It yields where it has told enough for one turn of the event loop; it may ask for more."""


class ReadBatcher:
    """What is read over one link.

    At most ``MAX_READS_IN_FLIGHT`` reads are in flight at a time. Keys that are asked for meanwhile go together as soon
    as one read is done, so batches grow under load instead of waiting for each other.
    """

    __slots__ = ("_asked", "_begins", "_breaks", "_guarded", "_sliced", "_tasks", "_under_way", "_waiting")

    def __init__(self, guarded: GuardedBackend, tasks: BackgroundTasks, begins: Callable[[], None]) -> None:
        self._begins = begins
        """Called before each read."""
        self._guarded = guarded
        self._tasks = tasks
        self._asked: list[tuple[CollectKeys, Deliver]] = []
        self._breaks = 0
        """How often the link had failed when the first of these was asked for."""
        self._under_way = 0
        self._sliced = 0
        """Reads that have so much to answer that what comes meanwhile shall wait, and go together."""
        self._waiting = False

    def add(self, ask: CollectKeys, take: Deliver) -> None:
        """Adds to what is read at the end of this tick."""
        if not self._asked:
            self._breaks = self._guarded.failures
            self._tasks.schedule(self._send)
        self._asked.append((ask, take))

    def _send(self) -> None:
        if self._under_way == MAX_READS_IN_FLIGHT or self._sliced:
            self._waiting = True
            self._tasks.done()
            return
        asked, self._asked = self._asked, []
        self._under_way += 1
        try:
            self._begins()
            wanted: dict[bytes, None] = {}
            for ask, _ in asked:
                ask(wanted)
            keys, near = list(wanted), self._guarded.near
            taker = partial(self._take, partial(self._slices, asked, keys, near.expect(keys) if near.on else []))
            if self._breaks != self._guarded.failures:  # it broke while this waited its turn, and would only fail again
                taker(None)
            elif not self._guarded.start_read(keys, taker):
                self._tasks.start(self._read(keys, taker))
        except BaseException:
            self._end()
            raise

    async def _read(self, keys: list[bytes], taker: GuardedReadCallback) -> None:
        """The same in a task: where a connection has to be made first, and for backends that know no other way."""
        try:
            read = await self._guarded.call(self._guarded.backend.read(keys))
        except BackendError:
            taker(None)
        except BaseException:  # cancelled: the cache closes
            self._end()
            raise
        else:
            taker(read)

    def _take(
        self, slices: Callable[[Sequence[bytes | None] | None], Iterator[None]], read: Sequence[bytes | None] | None
    ) -> None:
        self._tasks.run(partial(self._hand_out, slices(read)))

    def _slices(
        self,
        asked: list[tuple[CollectKeys, Deliver]],
        keys: list[bytes],
        ticket: Ticket,
        read: Sequence[bytes | None] | None,
    ) -> Iterator[None]:
        found: dict[bytes, bytes | None] = dict.fromkeys(keys) if read is None else dict(zip(keys, read, strict=True))
        if ticket:
            self._guarded.near.keep(ticket, found)
        for _, take in asked:
            yield from take(found)

    def _hand_out(self, slices: Iterator[None], goes_on: bool = False) -> None:
        """One slice in each turn: who was answered goes on, and who else waits for the loop, before the rest."""
        more = False
        try:
            for _ in slices:
                more = True
                break
        finally:
            self._sliced += more - goes_on
            if not more:
                self._end()
        if more:
            self._tasks.call_soon(partial(self._hand_out, slices, True))

    def _end(self) -> None:
        self._under_way -= 1
        if self._waiting:
            self._waiting = False
            self._tasks.schedule(self._send)
        self._tasks.done()
