"""``ModelCache(verify=...)``: compares a fraction of the entries that lookups read with the database.

Runs in the background of the process, for no caller: the comparisons count in ``stats.verified`` alone.
"""

import asyncio
from collections.abc import Mapping
from functools import partial
from time import monotonic
from typing import Final, Literal

from aiomodelcache.backends.protocol import Clear
from aiomodelcache.engine.intent import Intent
from aiomodelcache.entries.indexes import IndexEntries
from aiomodelcache.entries.key_values import find_by_prefix, values_in
from aiomodelcache.entries.rows import RowEntries
from aiomodelcache.observe.events import Verification, safe_key
from aiomodelcache.observe.stats import VerifiedCounters, logger
from aiomodelcache.open_cache import OpenCache
from aiomodelcache.query.explain import state_of
from aiomodelcache.query.verification import ANSWERED, ReadEntry, differences, is_still_answered
from aiomodelcache.write.transactions import finish_intents

MAX_COMPARISONS: Final = 4
"""Maximum number of comparisons in flight in one cache. Beyond it, entries are skipped and counted as ``skipped``."""

EntrySets = Mapping[bytes, RowEntries | IndexEntries]
"""Entry sets by the beginning of their keys."""


class Verifier:
    """The comparisons of one cache and its views."""

    def __init__(self, fraction: float, counters: VerifiedCounters) -> None:
        self._fraction = fraction
        self._counters = counters
        self._running: dict[bytes, asyncio.Task[None]] = {}
        self._stopped = False

    def watch(self, view: OpenCache) -> None:
        """Samples the entries that lookups of a view read."""
        view.reader.sample(self._fraction, partial(self._start, view, comparable(view)))

    def stop(self) -> None:
        """Cancels the comparisons in flight, and starts no others."""
        self._stopped = True
        for task in self._running.values():
            task.cancel()

    def _start(self, view: OpenCache, entry_sets: EntrySets, key: bytes) -> None:
        """Starts the comparison of an entry, unless its kind is not compared, or it is being compared."""
        entry_set = find_by_prefix(entry_sets, key)
        if self._stopped or entry_set is None or key in self._running or view.guarded.unavailable_reason is not None:
            return
        if len(self._running) >= MAX_COMPARISONS:
            self._counters.skipped += 1
            return
        self._running[key] = task = view.tasks.start(self._run(view, entry_set, key))
        task.add_done_callback(lambda _: self._running.pop(key, None))

    async def _run(self, view: OpenCache, entry_set: RowEntries | IndexEntries, key: bytes) -> None:
        """Compares an entry with the database. Does not raise."""
        try:
            await self._compare(view, entry_set, key)
        except Exception:  # of any driver, or of a user's own field; its text may hold values
            self._counters.failed += 1
            self._notify(view, entry_set, key, "failed")

    async def _compare(self, view: OpenCache, entry_set: RowEntries | IndexEntries, key: bytes) -> None:
        view.reader.check_context()
        values = values_in(entry_set, key)
        if values is None or view.in_transaction:
            self._counters.skipped += 1
            return
        entry, epoch = await view.guarded.backend.read([key, entry_set.epoch_of(key)])
        if entry is None or state_of(entry_set, key, entry, epoch).state not in ANSWERED:
            self._counters.changed += 1
            return
        read = ReadEntry(entry_set, values, key, entry, epoch)
        [differs] = await differences(view, [read])
        compared = monotonic()
        if not differs:
            outcome: Literal["same", "stale", "changed"] = "same"
        else:
            outcome = "stale" if await is_still_answered(view, read, compared) else "changed"
        self._counters.compared += 1
        self._counters.changed += outcome == "changed"
        if outcome == "stale":
            await self._report(view, read, differs)
        self._notify(view, entry_set, key, outcome, differs if outcome == "stale" else ())

    async def _report(self, view: OpenCache, read: ReadEntry, differs: list[str]) -> None:
        """Counts and logs a stale entry, and invalidates it with the rows that it lists."""
        entry_set, rows = read.entry_set, read.entry_set.rows
        self._counters.stale += 1
        logger.warning(
            "aiomodelcache: an entry of %s differs from the database (%s), and is invalidated: %s",
            entry_set.counters.name,
            ", ".join(differs),
            _shown(view, entry_set, read.key),
        )
        intent = Intent()
        intent.add(rows, map(Clear, read.keys))
        intent.add_tables_of(rows)
        await finish_intents({view: intent}, committed=True)

    def _notify(
        self,
        view: OpenCache,
        entry_set: RowEntries | IndexEntries,
        key: bytes,
        outcome: Literal["same", "stale", "changed", "failed"],
        differs: list[str] | tuple[str, ...] = (),
    ) -> None:
        if view.guarded.observers is not None:
            name, shown = entry_set.counters.name, _shown(view, entry_set, key)
            view.guarded.observers.note(Verification(cache=name, key=shown, outcome=outcome, differs=tuple(differs)))


def comparable(view: OpenCache) -> EntrySets:
    """Returns the entry sets whose entries can be compared, by the beginning of their keys.

    Rows, indexes and lists that writes invalidate. A computed result would need a user's function to be called.
    """
    entry_sets: list[RowEntries | IndexEntries] = [*view.many_to_many]
    for entries in view.models.values():
        entry_sets += [entries.rows, *entries.indexes]
    return {each.prefix: each for each in entry_sets if not each.policy.off}


def _shown(view: OpenCache, entry_set: RowEntries | IndexEntries, key: bytes) -> str:
    return safe_key(entry_set.prefix.removesuffix(view.space.tenant or b""), key)
