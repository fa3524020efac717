"""The cache that the lines of a database are drained for: one at a time, as draining deletes them.

Another cache is one with another store, another namespace, or other keys, as during a deployment. What it drains is
lost to this one. So a relay that takes over clears its models, and deletes lines only while its own cache is the owner.
Each takeover has a name of its own, by which every relay notices it as a change of the catalogue.
"""

import hashlib
from time import monotonic
from typing import Final

from aiomodelcache.backends.breaker import GuardedBackend
from aiomodelcache.encoding.layout import new_token
from aiomodelcache.exceptions import RelayError
from aiomodelcache.observe.stats import logger
from aiomodelcache.relay.source import TriggerSource

HOLD_OFF: Final = 60.0
"""Seconds for which a relay that lost its database to another cache leaves it alone. Then it takes over again."""
_DIGEST_SIZE: Final = 8


class Ownership:
    """The claim of one cache to the lines of one connection."""

    def __init__(self, guarded: GuardedBackend, connection: str, liveness_key: bytes) -> None:
        self._guarded = guarded
        self._connection = connection
        self._key = liveness_key
        self._owned = False
        self._not_before = 0.0

    async def require(self, source: TriggerSource) -> None:
        """Has lines drained for this cache.

        Raises ``RelayError`` while they are drained for another one, and ``BackendError``.
        """
        own = await self._name()
        found = await source.find_owner()
        if found is not None and found.startswith(own):
            self._owned = True
            return
        if self._owned:
            self._owned = False
            self._not_before = monotonic() + HOLD_OFF
        if found is not None:
            if monotonic() < self._not_before:
                raise self._lost()
            logger.warning("aiomodelcache: the relay takes %s over from that of another cache", self._connection)
        await source.set_owner(f"{own}{new_token().hex()}")
        self._owned = True

    async def confirm(self, source: TriggerSource) -> None:
        """Raises ``RelayError`` if lines may have been drained for another cache since ``require``.

        Called when the lines have been read: those that are not among them must have been drained for this cache.
        """
        if not await source.is_owned():
            raise self._lost()

    def _lost(self) -> RelayError:
        return RelayError(
            f"{self._connection}: a relay of another cache drains this database: one with another store or namespace, "
            "or of another release. Stop it: lines can be drained for one cache only."
        )

    async def _name(self) -> str:
        """Returns the beginning of the names of this cache's takeovers: a digest of its keys and of its store."""
        leased = self._guarded.backend.lease([], new_token(), 1, [self._key + b":store"])
        [store] = (await self._guarded.call(leased, 1)).versions
        return hashlib.blake2b(self._key + (store or b""), digest_size=_DIGEST_SIZE).hexdigest()
