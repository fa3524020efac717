"""Intents that could not be sent, kept until the store takes them. Readers must not believe their keys until then.

Must not know how intents are sent: ``deliver`` is handed in.
"""

import threading
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from aiomodelcache.backends.breaker import GuardedBackend
from aiomodelcache.backends.protocol import PartialFailure
from aiomodelcache.engine.intent import Intent

NO_NODES: Final = frozenset[str]()


class UndeliveredIntents:
    """The kept intents of one writer. Writers of any thread add to them."""

    def __init__(self, guarded: GuardedBackend, limit: int) -> None:
        self.keys = 0
        """The number of keys whose invalidation is kept."""
        self._guarded = guarded
        self._limit = limit
        """Maximum number of keys. Beyond it, whole models are invalidated instead."""
        self._intents: list[Intent] = []
        self._lock = threading.Lock()
        self.delivering = False
        """True from the first kept intent until all are delivered."""

    def __len__(self) -> int:
        return len(self._intents)

    def keep(self, intent: Intent) -> bool:
        """Keeps an intent. Returns True if the caller must begin to deliver."""
        with self._lock:
            self._guarded.set_undelivered(self, True)
            self._guarded.stats.undelivered += 1
            self._add(intent)
            if self.keys > self._limit:
                self._collapse_to_models()
            begins, self.delivering = not self.delivering, True
            return begins

    async def deliver(self, send: Callable[[Intent], Awaitable[None]]) -> bool:
        """Sends every kept intent once, in order. Returns True if none is left, so that readers may go on.

        If one fails, the others are left, except for those of other nodes. Raises ``BackendError``.
        """
        left = 0
        failing: frozenset[str] = NO_NODES
        while (intent := self._at(left)) is not None:
            if failing & self._nodes_of(intent.clears):
                left += 1
                continue
            try:
                await send(intent)
            except PartialFailure as failure:
                failing |= self._nodes_of(failure.failed)
                left += 1
                continue
            with self._lock:
                if self._intents[left : left + 1] == [intent]:  # else it was collapsed into whole models
                    self._remove(intent)
        return not left

    def _at(self, position: int) -> Intent | None:
        with self._lock:
            if position < len(self._intents):
                return self._intents[position]
            if not self._intents:
                self.delivering = False
                self._guarded.set_undelivered(self, False)
            return None

    def _nodes_of(self, keys: Iterable[bytes]) -> frozenset[str]:
        nodes = self._guarded.nodes
        return NO_NODES if nodes is None else frozenset(map(nodes.node_of, keys))

    def _collapse_to_models(self) -> None:
        combined = Intent()
        combined.unknown = any(intent.unknown for intent in self._intents)
        for rows in {name: rows for intent in self._intents for name, rows in intent.rows.items()}.values():
            combined.add_model(rows)
        combined.add_tables({key for intent in self._intents for key in intent.tables})
        former = list(self._intents)
        self._add(combined)  # first, so that a reader of another thread never believes its keys
        for intent in former:
            self._remove(intent)

    def _add(self, intent: Intent) -> None:
        self._intents.append(intent)
        self.keys += len(intent.clears)
        if self._guarded.nodes is not None:
            self._guarded.nodes.add_undelivered(intent.clears)

    def _remove(self, intent: Intent) -> None:
        self._intents.remove(intent)
        self.keys -= len(intent.clears)
        if self._guarded.nodes is not None:
            self._guarded.nodes.remove_undelivered(intent.clears)
