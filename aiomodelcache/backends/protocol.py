"""The contract between the cache and a store. Must not know any particular store.

A backend keeps bytes under keys and offers six bulk operations, and optionally more (the ``Supports...`` classes).
Each is one round trip, however many keys it takes. A backend knows the state byte and the token of an entry (see
``encoding.layout``), because it compares and sets by them. It never looks at fingerprints, epochs or payloads. Redis
and memory are held to one conformance suite.

Every operation raises ``BackendError`` when the store cannot be reached or refuses. The caller then does not know
whether the operation took effect. A backend never resends a command, because a duplicated lease breaks the protocol.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Protocol

from aiomodelcache.backends.near import Near
from aiomodelcache.exceptions import BackendError


class Lease(NamedTuple):
    """A request for the right to fill ``key``.

    If ``replacing`` is empty, the lease is granted if the key is absent. Otherwise it is granted if the stored value
    still begins with ``replacing`` (state and token, 17 bytes; all of a shorter value).
    """

    key: bytes
    replacing: bytes = b""


class Leased(NamedTuple):
    """The answer to ``Backend.lease``, each list in the order of the request.

    ``values``: the value that each key holds now. It is ``b"L" + token`` where the lease was granted. It is ``b""``
    where the store holds a value that is not a string, or refused to store. ``versions``: the current value of each
    version key, read after the leases were taken.
    """

    values: list[bytes | None]
    versions: list[bytes | None]


class Fill(NamedTuple):
    """A request to replace the value under ``key`` by ``value``, or to delete the key if ``value`` is empty.

    ``expected``: the state and token with which the present value must begin. It is this reader's own lease, or an
    entry that the reader refreshes.
    """

    key: bytes
    expected: bytes
    value: bytes
    ttl_ms: int


class ReplacedEntry(NamedTuple):
    """An entry that a mark replaced, and the time until which it may be served as a stale copy.

    ``until_ms`` is by the store's own clock, and never later than the entry would have expired.
    """

    entry: bytes
    until_ms: int


class Clear(NamedTuple):
    """A request to withdraw one writer's intent on ``key``.

    When the last intent is withdrawn, the key is deleted if ``hint`` is empty, and otherwise holds ``hint`` for
    ``ttl_ms`` milliseconds (0: forever). If ``until_ms`` is not 0, the hint expires at that time by the store's own
    clock instead. If that time is past, no hint is left.
    """

    key: bytes
    hint: bytes = b""
    ttl_ms: int = 0
    until_ms: int = 0


NOTHING_ALLOWED: Final[Mapping[bytes, int]] = MappingProxyType({})
"""The value of ``allow`` with which ``mark`` returns no replaced entries."""


class Backend(Protocol):
    """A store for cache entries. The module's docstring defines what all operations share.

    >>> async with ModelCache(MyBackend()):
    ...     event = await Event.cache.get(slug="pycon")

    Every backend must pass the suite ``aiomodelcache.testing.conformance``.
    """

    async def open(self) -> None:
        """Connects, and proves it with a round trip. Raises ``BackendError`` in one clear sentence.

        Called again after it has raised, until it succeeds.
        """

    async def close(self) -> None:
        """Releases what ``open`` acquired. Idempotent."""

    async def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Returns the value of each key, or None if the key is absent, expired or not a string."""
        ...

    async def lease(self, leases: Sequence[Lease], token: bytes, ttl_ms: int, versions: Sequence[bytes] = ()) -> Leased:
        """Tries to put ``b"L" + token`` under each key, then reads ``versions``.

        A version key that is absent is created with a fresh random value and never expires.
        """
        ...

    async def fill(self, fills: Sequence[Fill]) -> list[bool]:
        """Stores each value whose key still holds the ``expected`` value. Returns True for each stored value."""
        ...

    async def mark(
        self, keys: Sequence[bytes], token: bytes, ttl_ms: int, allow: Mapping[bytes, int] = NOTHING_ALLOWED
    ) -> dict[bytes, ReplacedEntry]:
        """Adds the intent ``token`` to each key, replacing any value or lease. Raises unless every key was marked.

        The intent expires ``ttl_ms`` from now by the store's own clock. Other writers' intents stay. Marking again with
        the same token renews the expiry.

        Returns the values and stale copies (``V``, ``N``, ``S``) that it replaced under keys in ``allow``. Each may be
        served for at most as many milliseconds from now as ``allow`` has for its key.
        """
        ...

    async def clear(self, clears: Sequence[Clear], token: bytes, stamps: Sequence[bytes] = ()) -> list[bool]:
        """Gives every key in ``stamps`` a fresh version, and then withdraws the intent from each key.

        Where other live intents remain, they stay and no hint is left. Where the key holds no intent at all (it was
        evicted, or never arrived), its value is deleted. Returns, for each key, True if this token's intent was there.
        """
        ...

    async def delete(self, keys: Sequence[bytes]) -> int:
        """Deletes the keys and returns how many existed."""
        ...


ReadCallback = Callable[[list[bytes | None] | Exception], None]
"""A callback that is called once, with what ``Backend.read`` would return or raise. It does not raise."""


class SupportsStartRead(Protocol):
    """An optional extension of a backend, with which a hit needs no task to wait for its reply."""

    def start_read(self, keys: Sequence[bytes], callback: ReadCallback) -> bool:
        """Starts a ``read`` if it can be sent at once. Returns True if it was started.

        Only then ``callback`` is called, as soon as the answer is known, which may be before this method returns.
        """
        ...


class PartialFailure(BackendError):
    """Some servers of a backend have failed, and the others have done their part of an operation.

    ``failed``: for each key that was not served, the reason. ``result``: what ``read``, ``lease`` or ``fill`` returns,
    with None, ``b""`` and False for keys that were not served. None for other operations.
    """

    def __init__(self, failed: Mapping[bytes, str], result: Any = None) -> None:
        super().__init__(next(iter(failed.values())))
        self.failed = failed
        self.result = result


class SupportsNodes(Protocol):
    """An optional extension of a backend of several servers, which fail apart.

    Its operations raise ``PartialFailure`` if some of them have failed.
    """

    def node_of(self, key: bytes) -> str:
        """Returns the name of the server that holds a key now, or "" if none does. No I/O."""
        ...


class ReadsTogether(Protocol):
    """An optional extension of a backend whose ``read`` returns what several keys held at one moment.

    Without it, cached functions that another process has computed again take one more ``read``.
    """

    keys_read_together: int
    """Maximum number of keys that one ``read`` reads at one moment. Beyond it, they may be read one after another."""


def keys_read_together(backend: Backend) -> int:
    """Returns the number of keys that a backend reads at one moment, 1 if it does not say."""
    return int(getattr(backend, "keys_read_together", 1))


class Marked(NamedTuple):
    """The answer to ``mark_for_save``.

    ``replaced``: as ``Backend.mark`` returns it. ``marked_ms``: the time of each mark, by the store's own clock.
    ``versions``: the current value of each version key, read after the marks.
    """

    replaced: dict[bytes, ReplacedEntry]
    marked_ms: dict[bytes, int]
    versions: list[bytes | None]


class Save(NamedTuple):
    """A request to store the row that a writer has saved under ``key``, in place of the writer's intent.

    ``value``: the entry, with a token of its own. ``until_ms``: the time by the store's own clock until which the
    intent may be replaced. ``stamp``: the key of the model's stamp. ``expected``: the stamp as it was read before the
    COMMIT.
    """

    key: bytes
    value: bytes
    ttl_ms: int
    until_ms: int
    stamp: bytes
    expected: bytes


class SupportsWriteThrough(Protocol):
    """An optional extension of a backend, with which writers may store the rows that they save."""

    async def mark_for_save(
        self,
        keys: Sequence[bytes],
        token: bytes,
        ttl_ms: int,
        allow: Mapping[bytes, int] = NOTHING_ALLOWED,
        versions: Sequence[bytes] = (),
    ) -> Marked:
        """Marks keys like ``Backend.mark``, then reads ``versions`` like ``Backend.lease``."""
        ...

    async def clear_and_save(
        self, saves: Sequence[Save], clears: Sequence[Clear], token: bytes, stamps: Sequence[bytes] = ()
    ) -> list[bool]:
        """Ends a write like ``Backend.clear``, and stores rows. Returns, for each of ``saves``, True if it was stored.

        First gives every stamp a fresh version. Then withdraws the intents from the keys of ``clears`` and ``saves``.
        A row is stored only if its stamp was the expected one at first and has not changed again since. Its key must
        hold this token's intent and no other live one, and its ``until_ms`` must not be past. Otherwise its key is left
        as by a ``Clear`` without a hint.
        """
        ...


class TimedLease(NamedTuple):
    """The answer to ``lease_timed``. ``now_ms``: a time by the store's own clock, after the leases were taken."""

    leased: Leased
    now_ms: int


class LateFill(NamedTuple):
    """A request to store a row that was read without a lease of its own.

    If ``replacing`` is empty, the key must be absent. Otherwise its value must begin with ``replacing``, a state and a
    token. ``stamp``: the key of the model's stamp. ``expected``: the stamp as it was read before the row was.
    ``until_ms``: the time by the store's own clock until which the row may be stored.
    """

    key: bytes
    replacing: bytes
    value: bytes
    ttl_ms: int
    stamp: bytes
    expected: bytes
    until_ms: int


class SupportsLateFills(Protocol):
    """An optional extension of a backend, with which a row that an index leads to is stored without a lease.

    It needs a store that compares a stamp, and the time, at the same moment as it stores a row.
    """

    async def lease_timed(
        self, leases: Sequence[Lease], token: bytes, ttl_ms: int, versions: Sequence[bytes]
    ) -> TimedLease:
        """Does the same as ``Backend.lease``, and returns the time by the store's own clock."""
        ...

    async def fill_late(self, fills: Sequence[Fill], late: Sequence[LateFill]) -> tuple[list[bool], list[bytes | None]]:
        """Does the same as ``Backend.fill``, and stores rows.

        Each row is stored only if, at the same moment, its stamp is the expected one, its ``until_ms`` is not past, and
        its key may be replaced. Returns for each of ``late`` None if it was stored, else the value that its key holds.
        That is ``b""`` if the stamp or the time forbids it, or where ``lease`` would return it. No two of ``late`` have
        both the same key and the same value.
        """
        ...


class SupportsClaims(Protocol):
    """An optional extension of a backend, with which entries are believed only while a claim about them lives.

    A claim is a key that ends at a time by the store's own clock. A claim that the store loses ends early.
    """

    async def clock(self) -> int:
        """Returns the time by the store's own clock, in milliseconds.

        A store of several servers returns the earliest time of all, so that a claim never lives too long.
        """
        ...

    async def claim(self, key: bytes, until_ms: int) -> None:
        """Makes ``key`` live until ``until_ms`` by the store's own clock, or longer if it is claimed for longer.

        Does nothing if that time is past. Raises ``BackendError`` if the store refuses.
        """
        ...

    async def remaining(self, keys: Sequence[bytes]) -> list[int]:
        """Returns the milliseconds that each claim has left, or 0 for a key without a claim."""
        ...


class SupportsTracking(Protocol):
    """An optional extension of a backend, with which entries may be kept near, in this process."""

    def track(self, near: Near | None) -> None:
        """Reports every change of what ``read`` returns to ``near`` from now on, or to no ``Near`` if it is None.

        No I/O.

        The backend calls ``begin``, ``invalidate``, ``answered`` and ``lost``, each as soon as the event is known. It
        calls ``invalidate`` before it delivers any later answer of the store. Raises ``CacheConfigurationError`` if it
        cannot track.
        """
        ...
