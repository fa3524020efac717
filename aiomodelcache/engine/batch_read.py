"""Batched reads: all keys of one tick in one MGET.

Knows keys and bytes, not what they mean. Where the backend implements ``SupportsStartRead``, a read starts and ends
without a task of its own. A hit then takes two turns of the event loop.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

from aiomodelcache.backends.breaker import GuardedBackend, GuardedReadCallback
from aiomodelcache.backends.covered import Ticket
from aiomodelcache.backends.protocol import PartialFailure
from aiomodelcache.encoding.together import KeysTogether, KnownKeys, WantedKeys
from aiomodelcache.engine.observing import HasOperations, operations_of
from aiomodelcache.engine.tasks import BackgroundTasks
from aiomodelcache.exceptions import BackendError
from aiomodelcache.observe.events import Lookup

MAX_READS_IN_FLIGHT: Final = 2
"""Maximum number of reads in flight: one that the server works on, and one whose answers are delivered.

Beyond it, keys wait until a read is done.
"""

EntriesByKey = Mapping[bytes, bytes | None]
"""The values that were read, by key."""
CollectKeys = Callable[[dict[bytes, Any]], KnownKeys | None]
"""A callback that adds the keys to read. It is called when the read is about to be sent.

It may return the first keys that were added. If there are no others, they are read as they are known.

If the keys are divided, the value of a key is the epoch with which it shares its node, or None.
"""
Unread = Collection[bytes]
"""The keys whose values must not be believed: they could not be read, although others were."""
Deliver = Callable[[EntriesByKey, Unread], Iterator[None]]
"""A callback that delivers the values that were read.

It yields when it has delivered enough for one turn of the event loop. It may add keys to a later read.
"""

_Request = tuple[CollectKeys, Deliver, HasOperations]


class ReadBatcher:
    """The reads over one guarded backend.

    At most ``MAX_READS_IN_FLIGHT`` reads are in flight at a time. Keys that are added in the meantime are read together
    as soon as one read is done. So batches grow under load instead of waiting for each other.
    """

    __slots__ = (
        "_apart",
        "_before_read",
        "_failures_before",
        "_guarded",
        "_in_flight",
        "_requests",
        "_send_deferred",
        "_sliced",
        "_splits_before",
        "_tasks",
        "_together",
        "_wanted",
    )

    def __init__(self, guarded: GuardedBackend, tasks: BackgroundTasks, before_read: Callable[[], None]) -> None:
        self._before_read = before_read
        """A callback that is called before each read."""
        self._guarded = guarded
        divided = guarded.keys_read_together == 1
        self._together = -1 if divided else guarded.keys_read_together
        """The number of keys that are read as they come."""
        self._wanted: type[dict[bytes, Any]] = WantedKeys if divided else dict
        self._tasks = tasks
        self._requests: list[_Request] = []
        self._failures_before = 0
        """The number of failures of the backend when the first of ``_requests`` was added."""
        self._in_flight = 0
        self._apart = False
        """True if the values that are being delivered may not be of one moment, as there are too many keys."""
        self._splits_before = 0
        """The number of reads that were split before the first of those that are in flight."""
        self._sliced = 0
        """The number of reads that are delivered in several slices.

        Until they are done, added keys wait and are read together.
        """
        self._send_deferred = False

    def add(self, collect_keys: CollectKeys, deliver: Deliver, source: HasOperations) -> None:
        """Adds a request to the read at the end of this tick. ``source``: the lookups that it is for."""
        if not self._requests:
            self._failures_before = self._guarded.failures
            self._tasks.schedule(self._send)
        self._requests.append((collect_keys, deliver, source))

    def reads_apart(self) -> bool:
        """Returns True if the values that are being delivered may not be of one moment."""
        return self._apart or (self._in_flight > 0 and self._guarded.near.splits != self._splits_before)

    def _expect(self, keys: Sequence[bytes]) -> Ticket:
        near = self._guarded.near
        if self._in_flight == 1:
            self._splits_before = near.splits
        return near.expect(keys)

    def _send(self) -> None:
        if self._in_flight == MAX_READS_IN_FLIGHT or self._sliced:
            self._send_deferred = True
            self._tasks.done()
            return
        requests, self._requests = self._requests, []
        self._in_flight += 1
        try:
            self._before_read()
            wanted = self._wanted()
            known: KnownKeys | None = None
            for request in requests:
                known = request[0](wanted) or known
            keys: Sequence[bytes]
            keys = known if known and len(known) == len(wanted) else [*wanted]
            guarded = self._guarded
            if len(keys) > self._together:
                keys = self._arranged(keys, wanted)
            ticket = self._expect(keys) if guarded.near.expecting else []
            callback = partial(self._on_read, partial(self._slices, requests, keys, ticket))
            if not keys:  # the lookups have gone on without the store
                callback([])
            elif self._failures_before != guarded.failures:  # failed in the meantime, and would only fail again
                callback(None)
            elif not guarded.start_read(keys, callback, partial(_lookups, requests)):
                self._tasks.start(self._read(keys, callback, requests))
        except BaseException:
            self._end()
            raise

    def _arranged(self, keys: Sequence[bytes], wanted: dict[bytes, Any]) -> Sequence[bytes]:
        """Returns the keys in the order in which they are read, if the backend takes them at less cost then."""
        arrange = getattr(self._guarded.backend, "arrange", None)  # see ``RedisBackend``
        if isinstance(wanted, WantedKeys):
            pairs = wanted.only_pairs()
            if pairs is not None:
                self._apart |= len(pairs.keys) > 1
                return arrange(pairs) if arrange is not None else list(pairs.by_key())
            if len(wanted) > len(keys):  # the pairs are among them now
                keys = list(wanted)
        if len(keys) > self._guarded.keys_read_together:
            self._apart = True
            if arrange is not None and len(keys) > 2 and any(wanted.values()):  # else it would save nothing
                keys = arrange(wanted)
        return keys

    async def _read(self, keys: Sequence[bytes], callback: GuardedReadCallback, requests: list[_Request]) -> None:
        """Reads in a task: where a connection must be made first, and for backends without ``start_read``."""
        try:
            read = await self._guarded.read(keys, partial(_lookups, requests))
        except PartialFailure as failure:
            callback(failure)
        except BackendError:
            callback(None)
        except BaseException:  # cancelled: the cache closes
            self._end()
            raise
        else:
            callback(read)

    def _on_read(
        self,
        slices: Callable[[Sequence[bytes | None] | None, Unread], Iterator[None]],
        read: Sequence[bytes | None] | PartialFailure | None,
    ) -> None:
        found = slices(read.result, read.failed) if isinstance(read, PartialFailure) else slices(read, ())
        self._tasks.run(partial(self._deliver_slices, found))

    def _slices(
        self,
        requests: list[_Request],
        keys: Sequence[bytes],
        ticket: Ticket,
        read: Sequence[bytes | None] | None,
        unread: Unread,
    ) -> Iterator[None]:
        entries: EntriesByKey
        if read is None:
            entries = dict.fromkeys(keys)
        elif isinstance(keys, KeysTogether) and len(read) == len(keys):
            entries = keys.found(read)
        else:
            entries = dict(zip(keys, read, strict=True))
        if ticket:
            self._guarded.near.keep(ticket, entries)
        if read is None and self._guarded.observers is not None:
            for operation in _lookups(requests):
                operation.outcome = "fault"
        for _, deliver, _ in requests:
            yield from deliver(entries, unread)

    def _deliver_slices(self, slices: Iterator[None], resumed: bool = False) -> None:
        """Delivers one slice in each turn of the event loop.

        The callers that were answered and other tasks run before the next slice.
        """
        more = False
        try:
            for _ in slices:
                more = True
                break
        finally:
            self._sliced += more - resumed
            if not more:
                self._end()
        if more:
            self._tasks.call_soon(partial(self._deliver_slices, slices, True))

    def _end(self) -> None:
        self._in_flight -= 1
        self._apart &= self._in_flight > 0
        if self._send_deferred:
            self._send_deferred = False
            self._tasks.schedule(self._send)
        self._tasks.done()


def _lookups(requests: Sequence[_Request]) -> Iterator[Lookup]:
    return operations_of(source for _, _, source in requests)
