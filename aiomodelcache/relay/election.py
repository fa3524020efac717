"""The choice of one of several relays to drain. For economy only: any number of them may drain at once.

The leader holds a lease of a key in the store, which ends soon after it does.
"""

from time import monotonic
from typing import Final

from aiomodelcache.backends.breaker import GuardedBackend
from aiomodelcache.backends.protocol import Fill, Lease
from aiomodelcache.encoding.layout import LEASE, new_token

TURNS_PER_LAG: Final = 6
"""Attempts to lead within ``relay_lag``. The leader's lease lasts for two of them."""


class Election:
    """The part of one relay in the election for one claim."""

    def __init__(self, guarded: GuardedBackend, liveness_key: bytes, lag: float) -> None:
        self.interval = lag / TURNS_PER_LAG
        """Seconds between two attempts."""
        self._guarded = guarded
        self._key = liveness_key + b":leader"
        self._token = new_token()
        self._next = 0.0
        self._leads = False

    async def lead(self) -> bool:
        """Returns True if this relay leads. Asks the store if the last answer is old. Raises ``BackendError``."""
        now = monotonic()
        if not self._leads or now >= self._next:
            own = LEASE + self._token
            leases = [Lease(self._key), Lease(self._key, own)]  # the first if it is free, the second to hold it longer
            call = self._guarded.backend.lease(leases, self._token, int(2000 * self.interval))
            answer = await self._guarded.call(call, len(leases))
            self._leads = answer.values[1] == own
            self._next = now + self.interval
        return self._leads

    async def resign(self) -> None:
        """Ends the lease, so that another relay may lead at once. Raises ``BackendError``."""
        if self._leads:
            self._leads = False
            fill = self._guarded.backend.fill([Fill(self._key, LEASE + self._token, b"", 0)])
            await self._guarded.call(fill, 1)
