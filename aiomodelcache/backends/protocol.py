"""What the cache needs of a store, and nothing about any store.

A backend keeps bytes under keys and offers six bulk operations, each one round trip however many
keys it takes. It knows the state byte and the token of an entry (see ``entries``), because it compares
and sets by them; it never looks at fingerprints, epochs or payloads. Two implementations, Redis and
memory, are held to one conformance suite.

Every operation raises ``BackendError`` when the store cannot be reached or refuses; the caller then
does not know whether the operation took effect. A backend never resends a command: a duplicated lease
breaks the protocol.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol

from aiomodelcache.backends.near import Near


class Lease(NamedTuple):
    """A request for the right to fill ``key``.

    With ``replacing`` empty it is granted if the key is absent. Otherwise it is granted if the stored
    value still begins with ``replacing`` (state and token, 17 bytes; all of a shorter value).
    """

    key: bytes
    replacing: bytes = b""


class Leased(NamedTuple):
    """The answer to ``Backend.lease``, each list in the order asked.

    ``values``: what each key holds now. Equal to ``b"L" + token`` where the lease was granted;
    ``b""`` where the store holds something that is not a string, or refused to store.
    ``versions``: the current value of each version key, read after the leases were taken.
    """

    values: list[bytes | None]
    versions: list[bytes | None]


class Fill(NamedTuple):
    """Replace what stands under ``key`` by ``value``; by nothing if that is empty.

    ``standing`` is how that begins, state and token: this reader's own lease, or an entry that it refreshes.
    """

    key: bytes
    standing: bytes
    value: bytes
    ttl_ms: int


class Kept(NamedTuple):
    """An entry that a mark replaced, and until when it may be served as a stale one.

    ``until_ms`` is by the store's own clock, and never later than the entry would have expired.
    """

    entry: bytes
    until_ms: int


class Clear(NamedTuple):
    """Withdraw one writer's intent on ``key``.

    The last intent to go leaves ``hint`` (for ``ttl_ms``; 0: for ever; or until the moment ``until_ms`` by the
    store's own clock, if that is given and not past) or, if that is empty, nothing.
    """

    key: bytes
    hint: bytes = b""
    ttl_ms: int = 0
    until_ms: int = 0


NOTHING_ALLOWED: Final[Mapping[bytes, int]] = MappingProxyType({})


class Backend(Protocol):
    """A store for cache entries. See the module's docstring for what all operations share.

    >>> async with ModelCache(MyBackend()):
    ...     event = await Event.cache.get(slug="pycon")

    ``aiomodelcache.testing.conformance`` is the suite that one must pass.
    """

    async def open(self) -> None:
        """Connects, and proves it with a round trip. Raises ``BackendError`` in one clear sentence."""

    async def close(self) -> None:
        """Releases what ``open`` took. Does nothing the second time."""

    async def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Returns the value of each key, None where it is absent, expired or not a string."""
        ...

    async def lease(self, leases: Sequence[Lease], token: bytes, ttl_ms: int, versions: Sequence[bytes] = ()) -> Leased:
        """Tries to put ``b"L" + token`` under each key, then reads ``versions``.

        A version key that is absent is created with a fresh random value and never expires.
        """
        ...

    async def fill(self, fills: Sequence[Fill]) -> list[bool]:
        """Stores each value only if its key still holds what ``standing`` says. Returns which were stored."""
        ...

    async def mark(
        self, keys: Sequence[bytes], token: bytes, ttl_ms: int, allow: Mapping[bytes, int] = NOTHING_ALLOWED
    ) -> dict[bytes, Kept]:
        """Adds the intent ``token`` to each key, replacing any value or lease. Raises unless all took it.

        The intent expires ``ttl_ms`` from now by the store's own clock; other writers' intents stay.
        Marking again with the same token renews its expiry.

        Returns the values and stale entries (``V``, ``N``, ``S``) that it replaced under keys in ``allow``, each to
        be served for as many milliseconds from now, at most.
        """
        ...

    async def clear(self, clears: Sequence[Clear], token: bytes, stamps: Sequence[bytes] = ()) -> list[bool]:
        """First gives every key in ``stamps`` a fresh version, then withdraws the intent from each key.

        Where other live intents remain they stay and no hint is left. Where the key holds no intent
        at all (it was evicted, or never arrived), whatever is there is deleted. Returns, for each
        key, whether this token was found.
        """
        ...

    async def delete(self, keys: Sequence[bytes]) -> int:
        """Deletes the keys outright and returns how many existed."""
        ...


ReadCallback = Callable[[list[bytes | None] | Exception], None]
"""Called once with what ``Backend.read`` would return or raise. Does not raise."""


class SupportsStartRead(Protocol):
    """What a backend can do beside, so that a hit needs no task to wait for its reply."""

    def start_read(self, keys: Sequence[bytes], taker: ReadCallback) -> bool:
        """Begins what ``read`` does, if nothing has to be waited for before that. Returns whether it has begun.

        Only then, ``taker`` is called, as soon as the answer is known, even at once.
        """
        ...


class SupportsTracking(Protocol):
    """What a backend can do beside, so that entries may be kept near, in this process."""

    def track(self, near: Near | None) -> None:
        """Has ``near`` told of every change of what ``read`` returns from now on; None: nobody. No I/O.

        To be called: ``begin``, ``invalidate``, ``answered`` and ``lost``, each as soon as it is known, and
        ``invalidate`` before whatever the store answers later. Raises ``CacheConfigurationError`` if it cannot.
        """
        ...
