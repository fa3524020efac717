"""The comparison of entries with the database, for the command ``verify`` and for ``ModelCache(verify=...)``.

An entry is read, then its rows in the database, then the entry again. It is stale only if it differs, would still be
answered, and has the same token: a writer would have marked or replaced it meanwhile.
"""

import asyncio
from collections.abc import Sequence
from time import monotonic
from typing import Any, Final, NamedTuple, cast

from tortoise.models import Model

from aiomodelcache.encoding.layout import PREFIX_SIZE
from aiomodelcache.engine.loader import load
from aiomodelcache.entries.base import NoValue
from aiomodelcache.entries.indexes import IndexEntries
from aiomodelcache.entries.rows import RowEntries
from aiomodelcache.observe.stats import Stats
from aiomodelcache.open_cache import OpenCache
from aiomodelcache.orm.meta import RowValues, Values
from aiomodelcache.query.explain import explain_key
from aiomodelcache.query.lookups import LocatedKey, LookupQuery

ANSWERED: Final = ("hit", "negative")
"""The states of entries that are compared. A stale copy is known to differ."""


class ReadEntry(NamedTuple):
    """An entry of a row, an index or a list, as it was read before the database."""

    entry_set: RowEntries | IndexEntries
    values: Values
    key: bytes
    entry: bytes
    epoch: bytes | None

    @property
    def keys(self) -> list[bytes]:
        """The keys of the entry and of the rows that it lists."""
        content: Any = self.entry_set.read(self.entry, self.epoch)
        if isinstance(self.entry_set, RowEntries) or isinstance(content, NoValue):
            return [self.key]
        return [self.key, *map(self.entry_set.rows.key, content)]


class _EntryQuery(LookupQuery[list[Model]]):
    """The rows that the entry under one key stands for."""

    __slots__ = ("_located",)

    def __init__(self, located: LocatedKey) -> None:
        super().__init__(located.entry_set.schema.model, located.cache)
        self._located = located

    def __repr__(self) -> str:
        return f"<EntryQuery of {self._located.entry_set.schema.name}>"

    def locate(self, cache: OpenCache) -> LocatedKey:
        return self._located

    def finish(self, found: Sequence[Any]) -> list[Model]:
        return list(found)


async def differences(cache: OpenCache, read: Sequence[ReadEntry]) -> list[list[str]]:
    """Returns in what each entry differs from the database: names of columns, or a description. Nothing if it agrees.

    Sends one statement for each kind of key, which is counted nowhere. Raises what the database raises.
    """
    found: dict[bytes, list[RowValues]] = {}
    for entry_set in dict.fromkeys(each.entry_set for each in read):
        wanted = {each.key: each.values for each in read if each.entry_set is entry_set}
        client = entry_set.schema.client  # the primary, because a replica may lag behind
        answers = await load(entry_set, wanted, client, Stats(), cache.config.batch_size)
        found.update({key: [row.values for row in answer.rows] for key, answer in answers.items()})
    return [_difference(each, found[each.key]) for each in read]


def _difference(read: ReadEntry, rows: Sequence[RowValues]) -> list[str]:
    entry_set = read.entry_set
    content: Any = entry_set.read(read.entry, read.epoch)
    if content is NoValue.ABSENT or not rows:
        listed: Any = [] if content is NoValue.ABSENT or isinstance(content, dict) else content
        same = not rows and (content is NoValue.ABSENT or content == [])
        return [] if same else ["the row exists" if not listed and rows else "the rows exist no longer"]
    schema = entry_set.schema
    if isinstance(entry_set, RowEntries):
        own, stored = cast("dict[str, Any]", content), rows[0]
        if schema.codec.encode({name: stored[name] for name in schema.columns}) == schema.codec.encode(own):
            return []
        return [name for name in sorted(schema.columns) if own[name] != stored[name]] or ["the form of a value"]
    same = entry_set.rows.same_pks(list(content), [row[schema.pk] for row in rows])
    return [] if same else ["the rows, or their order"]


async def is_still_answered(cache: OpenCache, read: ReadEntry, compared: float) -> bool:
    """Returns True if a lookup would be answered by the very entry that was compared. Its requests are not counted.

    ``compared``: the time of the comparison, by ``time.monotonic``. An entry of a relayed table may be old for
    ``relay_lag``, so this waits until that time has passed.
    """
    entry_set = read.entry_set
    relayed = cache.reader.relayed
    if relayed is not None and relayed.covers((read.key, entry_set.epoch_of(read.key))):
        await asyncio.sleep(max(0.0, compared + cache.config.relay_lag - monotonic()))
    query = _EntryQuery(LocatedKey(cache, entry_set, read.values, read.key))
    explanation = await explain_key(cache, query, entry_set, read.values, read.key, counted=False)
    if explanation.source != "cache":
        return False
    entry, epoch = await cache.guarded.backend.read([read.key, entry_set.epoch_of(read.key)])
    return entry is not None and entry[:PREFIX_SIZE] == read.entry[:PREFIX_SIZE] and epoch == read.epoch
