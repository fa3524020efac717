"""The last good value of a result: read, kept and returned when computing the result fails or takes long.

A copy of each stored value lies under a key of its own, which writers do not know. It outlives the entry by
``stale_if_error``. Only the value of a later computation replaces it: the fill compares what the key held when the
computation began. Must not know how results are computed.
"""

from typing import Any

from aiomodelcache.encoding.layout import LEASE
from aiomodelcache.entries.base import Miss, NoValue
from aiomodelcache.entries.copies import COPY_SUFFIX, Copies
from aiomodelcache.entries.raised import Raised
from aiomodelcache.entries.results import ResultEntries
from aiomodelcache.plans.requests import LeaseResult, Plan, PlannedFill, StaleAnswer, StoreFills
from aiomodelcache.plans.steps import replaceable_prefix


def copies_to_lease(result: ResultEntries, key: bytes) -> list[tuple[bytes, bytes]]:
    """Returns the key of a result's copy, for ``AcquireLeases``: it is leased if absent, else read. Empty if unused."""
    return [(key + COPY_SUFFIX, b"")] if result.copies is not None else []


class LastGood:
    """The copy of one result as a computation found it. ``acquired``: the answer to a request with its key last."""

    __slots__ = ("_acquired", "_copies", "_held", "_key", "_soft_timeout")

    def __init__(self, result: ResultEntries, key: bytes, acquired: LeaseResult) -> None:
        self._copies: Copies | None = result.copies
        self._soft_timeout = result.resilience.soft_timeout
        self._key = key + COPY_SUFFIX
        self._acquired = acquired
        self._held = acquired.values[-1] if self._copies is not None else None

    @property
    def soft_timeout(self) -> float | None:
        """The class's ``soft_timeout``, or None if there is no copy to return."""
        has_copy = self._copies is not None and self._copies.is_copy(self._held, self._acquired.versions[0])
        return self._soft_timeout if has_copy else None

    def answer(self) -> Plan[Any | Miss]:
        """Returns the value of the copy as the plan's answer, with its instances marked as stale, or a miss."""
        value: Any = NoValue.MISS
        if self._copies is not None:
            value = self._copies.read(self._held, self._acquired.versions[0])
        if value is not NoValue.MISS:
            yield StaleAnswer(self._key)
        return value

    def fills(self, entry: bytes = b"", value: Any = None, ttl_ms: int = 1) -> list[PlannedFill]:
        """Returns the fill that puts a copy of this entry and its value in the place of the former copy.

        An empty entry, and an exception, leave the former copy, and give back the lease if there was none.
        """
        held, attempt = self._held, self._acquired.attempt
        if self._copies is None or not held:
            return []
        copy = self._copies.pack(entry, value) if entry and type(value) is not Raised else b""
        ttl_ms += self._copies.extra_ms
        if held == LEASE + attempt.token:
            return [(attempt, self._key, copy, ttl_ms)]
        replaces = replaceable_prefix(held)
        return [(attempt._replace(replaces=replaces), self._key, copy, ttl_ms)] if copy and replaces else []

    def release(self) -> Plan[None]:
        """Gives back the lease, if there was no copy."""
        if fills := self.fills():
            yield StoreFills(fills)
