"""The cache that the lines of a database are drained for: one at a time, as draining deletes them.

Another cache is one with another store, another namespace, or other keys, as during a deployment. What it drains is
lost to this one. So a relay that takes over clears its models, and deletes lines only while its own cache is the owner.
Each takeover has a name of its own, by which every relay notices it as a change of the catalogue.

Of two caches of one store and namespace, such as two releases, the newer one takes over. It keeps the database as long
as it has a relay. Of others it is not known whether they have one.

``tests/relay/test_owners.py`` tries every order of these steps.
"""

import hashlib
from time import monotonic
from typing import Final, cast

from aiomodelcache.backends.breaker import GuardedBackend
from aiomodelcache.backends.protocol import SupportsClaims
from aiomodelcache.encoding.keys import KeySpace
from aiomodelcache.encoding.layout import new_token
from aiomodelcache.exceptions import RelayError
from aiomodelcache.observe.stats import logger
from aiomodelcache.relay.source import Source

HOLD_OFF: Final = 60.0
"""Seconds for which a relay that lost its database leaves it alone if it cannot know whether the other one lives.

A relay that owns its database is known to live for so long, unless it ends by itself.
"""
REMEMBERED: Final = 30 * 24 * 3600 * 1000
"""Milliseconds for which the store remembers when a cache had its first relay. After it, the cache counts as new."""
_DECLARED: Final = slice(16)
"""The place of a digest of the cache's keys in the name of an owner."""
_NAME: Final = slice(_DECLARED.stop + 8)
"""The same with a digest of its store, which is another one after a restart or a failover."""
_AGE: Final = slice(_NAME.stop, _NAME.stop + 13)
"""The place of the time until which the store remembers the cache. That of a newer cache is later."""
_CACHE: Final = slice(_AGE.stop)


class Ownership:
    """The claim of one cache to the lines of one connection."""

    def __init__(self, guarded: GuardedBackend, space: KeySpace, connection: str, liveness_key: bytes) -> None:
        self._guarded = guarded
        self._space = space
        self._connection = connection
        self._key = liveness_key
        self._owned = ""
        """The owner that this cache is, or was until another one took over."""
        self._not_before = 0.0
        self._claim_at = 0.0

    async def require(self, source: Source) -> None:
        """Has lines drained for this cache.

        Raises ``RelayError`` while they are drained for another one, and ``BackendError``.
        """
        own = await self._name()
        found = await source.find_owner()
        if found is None or found[_NAME] != own[_NAME]:
            if self._owned not in ("", found):  # if it is found, the store was restarted, and no other cache is there
                self._owned, self._not_before = "", monotonic() + HOLD_OFF
            if found is not None:
                if not await self._may_replace(found, own):
                    raise self._lost()
                logger.warning(
                    "aiomodelcache: the relay takes %s over, whose lines were drained for another cache, or before the "
                    "store was restarted",
                    self._connection,
                )
            found = f"{own}{new_token().hex()[:16]}"
            await source.set_owner(found)
        self._owned = found

    async def confirm(self, source: Source) -> None:
        """Raises ``RelayError`` if lines may have been drained for another cache since ``require``.

        Called when the lines have been read: those that are not among them must have been drained for this cache.
        """
        if not await source.is_owned():
            raise self._lost()

    async def claim(self, now_ms: int) -> None:
        """Tells other caches of this store and namespace that the owner has a relay. Raises ``BackendError``."""
        now = monotonic()
        if now >= self._claim_at:
            key = self._owner_key(self._owned)
            await self._guarded.call(self._store.claim(key, now_ms + int(1000 * HOLD_OFF)), 1)
            self._claim_at = now + HOLD_OFF / 3

    async def release(self) -> None:
        """Tells them that this relay ends. Another one of the same cache says so again. Raises ``BackendError``."""
        if self._owned and self._claim_at:
            self._claim_at = 0.0
            await self._guarded.call(self._guarded.backend.delete([self._owner_key(self._owned)]), 1)

    async def _may_replace(self, found: str, own: str) -> bool:
        [alive] = await self._guarded.call(self._store.remaining([self._owner_key(found)]), 1)
        if not alive:
            return monotonic() >= self._not_before
        # The same cache in this store has had a relay before the store was restarted.
        return own[_DECLARED] == found[_DECLARED] or own[_AGE] > found[_AGE]

    def _owner_key(self, owner: str) -> bytes:
        return self._space.relay_key("owner", owner[_CACHE])

    def _lost(self) -> RelayError:
        return RelayError(
            f"{self._connection}: a relay of another cache drains this database: one with another store or namespace, "
            "or of a newer release. Stop it: lines can be drained for one cache only."
        )

    async def _name(self) -> str:
        """Returns digests of this cache's keys and of its store, and until when the store remembers the cache."""
        known = self._key + b":known"
        leased = self._guarded.backend.lease([], new_token(), 1, [self._key + b":store"])
        [store] = (await self._guarded.call(leased, 1)).versions
        now = await self._guarded.call(self._store.clock())
        [left] = await self._guarded.call(self._store.remaining([known]), 1)
        if not left:
            left = REMEMBERED
            await self._guarded.call(self._store.claim(known, now + left), 1)
        return f"{name_digest(self._key)}{name_digest(store or b'', 4)}{now + left:013d}"

    @property
    def _store(self) -> SupportsClaims:
        return cast("SupportsClaims", self._guarded.backend)


def name_digest(part: bytes, size: int = 8) -> str:
    """Returns two hexadecimal digits for each byte of ``size`` that stand for the part of a name."""
    return hashlib.blake2b(part, digest_size=size).hexdigest()
