"""The rows that a writer may store after its COMMIT, and what it must have read before (``write_through``).

A writer does not know the order in which others have committed. So it stores a row only in place of its own intent, if
that is the only one, and in time. No other writer may have changed the model's stamp since before its own COMMIT. The
backend compares these (``clear_and_save``). Must not know where rows come from: see ``write.through``.
"""

from collections.abc import Collection, Mapping
from contextvars import Context
from typing import Any, NamedTuple, cast

from aiomodelcache.backends.breaker import GuardedBackend
from aiomodelcache.backends.protocol import Clear, ReplacedEntry, Save, SupportsWriteThrough
from aiomodelcache.encoding.layout import VALUE, new_token
from aiomodelcache.entries.base import is_version
from aiomodelcache.entries.rows import RowEntries
from aiomodelcache.observe.events import Fill, Refusal


class SavedRow(NamedTuple):
    """A row as its writer knows it: its bytes, or None if the writer does not know what the database has."""

    rows: RowEntries
    payload: bytes | None
    pk: Any


class _Versions(NamedTuple):
    epoch: bytes | None
    stamp: bytes | None


class RowSaves:
    """The rows that one write, or one transaction, may store."""

    __slots__ = ("_marked_ms", "_models", "_versions", "rows")

    def __init__(self) -> None:
        self.rows: dict[bytes, SavedRow] = {}
        """The rows that were saved, by key."""
        self._models: dict[bytes, RowEntries] = {}
        self._versions: dict[bytes, _Versions] = {}
        self._marked_ms: dict[bytes, int] = {}

    def expect(self, rows: RowEntries) -> None:
        """Has the versions of a model's rows read with their mark."""
        self._models[rows.prefix] = rows

    def withdraw(self) -> None:
        """Has no row stored: they are counted as unknown."""
        self.rows = {key: saved._replace(payload=None) for key, saved in self.rows.items()}

    async def mark(
        self,
        guarded: GuardedBackend,
        keys: list[bytes],
        token: bytes,
        ttl_ms: int,
        allow: Mapping[bytes, int],
        context: Context | None,
    ) -> dict[bytes, ReplacedEntry]:
        """Marks keys, and reads the versions that were not read yet. Raises ``BackendError``."""
        epochs = {
            rows.partitions.stamp_of(key): rows.epoch_of(key)
            for prefix, rows in self._models.items()
            for key in keys
            if key.startswith(prefix)
        }
        epochs = {stamp: epoch for stamp, epoch in epochs.items() if stamp not in self._versions}
        versions = [*epochs, *epochs.values()]
        mark = _backend(guarded).mark_for_save(keys, token, ttl_ms, allow, versions)
        marked = await guarded.call(mark, len(keys) + len(versions), context=context)
        self._marked_ms |= marked.marked_ms
        for at, stamp in enumerate(epochs):
            self._versions[stamp] = _Versions(marked.versions[at + len(epochs)], marked.versions[at])
        return marked.replaced

    async def clear(
        self,
        guarded: GuardedBackend,
        clears: list[Clear],
        token: bytes,
        stamps: list[bytes],
        fill_ttl: float,
        context: Context | None,
    ) -> set[bytes]:
        """Ends the write in one round trip. Returns the keys whose rows it has stored. Raises ``BackendError``.

        ``clears``: all keys of the write. ``fill_ttl``: the seconds from a mark until which a row may be stored.
        """
        saves = self._requests({clear.key for clear in clears}, fill_ttl)
        sizes = {save.key: len(save.value) for save in saves}
        clears = [clear for clear in clears if clear.key not in sizes]
        stored: set[bytes] | None = None
        try:
            if saves:
                request = _backend(guarded).clear_and_save(saves, clears, token, stamps)
                answers = await guarded.call(request, len(clears) + len(saves), context=context)
                stored = {key for key, done in zip(sizes, answers, strict=True) if done}
            else:
                await guarded.call(guarded.backend.clear(clears, token, stamps), len(clears), context=context)
                stored = set()
        finally:
            for note in self._finish(sizes, stored):
                if guarded.observers is not None:
                    guarded.observers.note(note, context)
        return stored or set()

    def _requests(self, cleared: Collection[bytes], fill_ttl: float) -> list[Save]:
        found = [self._request(key, cleared, int(fill_ttl * 1000)) for key in self.rows]
        return [save for save in found if save is not None]

    def _request(self, key: bytes, cleared: Collection[bytes], fill_ttl_ms: int) -> Save | None:
        rows, payload, _ = self.rows[key]
        stamp_key = rows.partitions.stamp_of(key)
        epoch, stamp = self._versions.get(stamp_key, (None, None))
        if payload is None or epoch is None or stamp is None or key not in self._marked_ms or key not in cleared:
            return None
        if not (is_version(epoch) and is_version(stamp)) or rows.epoch_of(key) in cleared:  # all rows are affected
            return None
        entry = rows.entry(new_token(), epoch, payload)
        until_ms = self._marked_ms[key] + fill_ttl_ms
        return Save(key, entry, rows.lifetimes.ttl_ms(VALUE), until_ms, stamp_key, stamp)

    def _finish(self, sizes: Mapping[bytes, int], stored: Collection[bytes] | None) -> list[Fill]:
        """Counts the rows of the write. Returns a note for each. ``stored``: the keys; None: the backend failed."""
        notes: list[Fill] = []
        for key, (rows, payload, _) in self.rows.items():
            reason: Refusal | None = None
            if stored is not None and key in stored:
                rows.counters.written_through += 1
            elif payload is None or key not in self._marked_ms:
                rows.counters.unknown_rows += 1
                reason = "released"
            else:
                rows.counters.contended_rows += 1
                reason = "fault" if stored is None else "replaced"
            notes.append(Fill(cache=rows.counters.name, accepted=reason is None, reason=reason, size=sizes.get(key, 0)))
        return notes


def _backend(guarded: GuardedBackend) -> SupportsWriteThrough:
    return cast("SupportsWriteThrough", guarded.backend)
