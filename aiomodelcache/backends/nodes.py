"""The servers of a backend that fail apart: a circuit breaker for each, and the keys that must not be read.

A read goes to the nodes that work. After a failed request, the keys of that node are refused for ``breaker_cooldown``
seconds. Then one read, the half-open probe, tries again. Keys whose invalidation is undelivered are refused until it is
delivered, whichever node holds them by then. Must not know how requests are sent.
"""

import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from typing import Final, Literal

from aiomodelcache.backends.protocol import PartialFailure
from aiomodelcache.observe.events import Breaker
from aiomodelcache.observe.stats import logger

REFUSED: Final = "the node fails, or an invalidation is not delivered yet"
"""The reason why a key is not read."""
FORGOTTEN_AFTER: Final = 60.0
"""Seconds after a node's cooldown until the node is forgotten, if no key has led to it: it was replaced."""


class NodeBreakers:
    """The failing nodes of one backend, and the keys with undelivered invalidations."""

    def __init__(self, node_of: Callable[[bytes], str], cooldown: float, notify: Callable[[Breaker], None]) -> None:
        self.node_of = node_of
        """Returns the name of the node that holds a key now."""
        self.active = False
        """True if any key may be refused."""
        self._cooldown = cooldown
        self._notify = notify
        self._retry_at: dict[str, float] = {}
        """The failing nodes, and the time from which one read may try each again."""
        self._undelivered: Counter[bytes] = Counter()
        self._lock = threading.Lock()
        """Guards the undelivered keys, which writers of any thread add to."""

    @property
    def failing(self) -> list[str]:
        """The names of the nodes whose last request failed."""
        return list(self._retry_at)

    def refused(self, keys: Collection[bytes], *, probe: bool = False) -> set[bytes]:
        """Returns the keys that must not be asked for now.

        ``probe``: the caller reads, and may try a node whose cooldown is over. No other caller may then, until it is
        over again.
        """
        if not self.active:
            return set()
        refused = {key for key in keys if key in self._undelivered}
        if self._retry_at:
            now = time.monotonic()
            tried: set[str] = set()
            for key in keys:
                node = self.node_of(key)
                retry_at = self._retry_at.get(node)
                if retry_at is None or key in refused:
                    continue
                if probe and now >= retry_at:
                    tried.add(node)
                else:
                    refused.add(key)
            self._retry_at.update(dict.fromkeys(tried, now + self._cooldown))
            self._retry_at = {node: at for node, at in self._retry_at.items() if now < at + FORGOTTEN_AFTER}
            self._find_active()
        return refused

    def refusal(self, keys: Collection[bytes]) -> Literal["unreachable", "undelivered"] | None:
        """Returns the reason why some of these keys must not be read now, or None."""
        refused = self.refused(keys)
        if not refused:
            return None
        return "unreachable" if refused.isdisjoint(self._undelivered) else "undelivered"

    async def read(
        self, keys: Sequence[bytes], read: Callable[[Sequence[bytes]], Awaitable[list[bytes | None]]]
    ) -> list[bytes | None]:
        """Reads the keys that are not refused. Raises ``PartialFailure`` if there are others."""
        refused = self.refused(keys, probe=True)
        asked = [key for key in keys if key not in refused]
        failed: dict[bytes, str] = dict.fromkeys(refused, REFUSED)
        try:
            values = await read(asked) if asked else []
        except PartialFailure as failure:
            values = failure.result
            failed |= failure.failed
        self.answered(key for key in asked if key not in failed)
        if not failed:
            return values
        found = dict(zip(asked, values, strict=True))
        raise PartialFailure(failed, [found.get(key) for key in keys])

    def record(self, failure: PartialFailure) -> None:
        """Opens the breakers of the nodes that have failed, and logs each opening."""
        for key, text in failure.failed.items():
            node = self.node_of(key)
            if node not in self._retry_at:
                logger.warning("aiomodelcache: the cache is not used for now for the keys of one node: %s", text)
                self._notify(Breaker(state="open", reason=text))
            self._retry_at[node] = time.monotonic() + self._cooldown
        self._find_active()

    def answered(self, keys: Iterable[bytes]) -> None:
        """Closes the breakers of the nodes that have answered a read of these keys."""
        for node in {self.node_of(key) for key in keys} & self._retry_at.keys():
            del self._retry_at[node]
            logger.warning("aiomodelcache: the cache is used again for the keys of %s", node or "all nodes")
            self._notify(Breaker(state="closed"))
        self._find_active()

    def add_undelivered(self, keys: Iterable[bytes]) -> None:
        """Refuses keys until they are removed as often as they were added."""
        with self._lock:
            self._undelivered.update(list(keys))  # a mapping would give its values as counts
            self._find_active()

    def remove_undelivered(self, keys: Iterable[bytes]) -> None:
        """Ends one refusal of each of these keys."""
        with self._lock:
            self._undelivered -= Counter(list(keys))  # drops those that remain zero times
            self._find_active()

    def _find_active(self) -> None:
        self.active = bool(self._retry_at or self._undelivered)
