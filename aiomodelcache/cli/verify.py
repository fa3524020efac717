"""``aiomodelcache verify``: compares what the cache would answer with the database."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

import click
from tortoise.models import Model

from aiomodelcache.cli.explain import VALUES
from aiomodelcache.cli.keys import owner_of
from aiomodelcache.cli.keyspace import KeyMap, values_in
from aiomodelcache.cli.session import FOUND, Session, command, opened
from aiomodelcache.cli.store import connected
from aiomodelcache.cli.survey import Found, survey
from aiomodelcache.cli.targets import find_target
from aiomodelcache.client import ModelCache
from aiomodelcache.encoding.layout import PREFIX_SIZE
from aiomodelcache.entries.base import NoValue
from aiomodelcache.entries.model import EntrySet
from aiomodelcache.entries.rows import RowEntries
from aiomodelcache.open_cache import OpenCache
from aiomodelcache.orm.meta import Values
from aiomodelcache.query.explain import explain_key
from aiomodelcache.query.lookups import LocatedKey, LookupQuery

BATCH: Final = 200
"""Number of entries that are compared at once. Their rows are read with one statement for each kind of key."""
_COMPARED: Final = ("row", "index", "list", "many-to-many")
_ANSWERED: Final = ("hit", "negative")


class EntryQuery(LookupQuery[list[Model]]):
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


@dataclass(slots=True)
class Verified:
    """The result of a comparison."""

    compared: int = 0
    changed: int = 0
    """Entries that differed, and were replaced or invalidated meanwhile: no fault."""
    not_compared: dict[str, int] = field(default_factory=dict[str, int])
    """Entries that were left out, by the reason."""
    stale: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def leave_out(self, reason: str) -> None:
        """Counts an entry that cannot be compared."""
        self.not_compared[reason] = self.not_compared.get(reason, 0) + 1


@command("verify", short_help="Compare entries with the database, and name stale ones.")
@click.argument("target", required=False)
@VALUES
async def verify_command(session: Session, target: str | None, values: bool) -> int:
    """Compares the entries of a model, or of all models, with the database. Ends with status 1 if one is stale.

    An entry is read, compared with its rows in the database, and read again. It is stale only if it would still be
    answered and has the same token, so writes meanwhile do no harm. Computed results are not compared.
    """
    verified = Verified()
    async with session.cache() as cache, connected(session.settings.store_url()) as store:
        view = opened(cache)
        key_map = KeyMap(view)
        owner = owner_of(find_target(view, target)) if target is not None else None
        async for chunk in survey(view, store, key_map, owner):
            for at in range(0, len(chunk), BATCH):
                await compare(cache, view, key_map, chunk[at : at + BATCH], verified, values=values)
    data = {
        "compared": verified.compared,
        "stale": verified.stale,
        "changed_meanwhile": verified.changed,
        "not_compared": verified.not_compared,
    }

    def show() -> None:
        output = session.output
        if verified.stale:
            names = ("cache", "kind", "differs in", "key")
            output.table(names, [[e["cache"], e["kind"], ", ".join(e["differs"]), e["key"]] for e in verified.stale])
            output.line()
            output.line("error", f"{len(verified.stale)} of {verified.compared} entries are stale")
        else:
            output.line("ok", f"{verified.compared} entries agree with the database")
        for reason, number in sorted(verified.not_compared.items()):
            output.line(f"{number} not compared: {reason}")

    session.output.emit(data, show)
    return FOUND if verified.stale else 0


async def compare(
    cache: ModelCache, view: OpenCache, key_map: KeyMap, chunk: Sequence[Found], verified: Verified, *, values: bool
) -> None:
    """Compares entries, as they were when the survey read them, with the database. Adds the result to ``verified``."""
    queries: dict[bytes, tuple[Found, EntryQuery, Values]] = {}
    for found in chunk:
        if found.state not in _ANSWERED or found.place is None:
            continue
        if found.place.kind not in _COMPARED:
            verified.leave_out("computed results")
            continue
        entry_set = cast("EntrySet", found.place.entry_set)
        if entry_set.policy.off:
            verified.leave_out("writes do not invalidate them (InvalidationType.OFF)")
            continue
        asked = values_in(found.place, found.key)
        if asked is None:
            verified.leave_out("the key does not tell its values")
            continue
        queries[found.key] = found, EntryQuery(LocatedKey(view, entry_set, asked, found.key)), asked
    with cache.disabled():
        answers = await asyncio.gather(*[query for _, query, _ in queries.values()])
    suspects: list[tuple[Found, EntryQuery, Values, list[str]]] = []
    for (found, query, asked), rows in zip(queries.values(), answers, strict=True):
        verified.compared += 1
        differs = _difference(found, rows)
        if differs:
            suspects.append((found, query, asked, differs))
    for found, query, asked, differs in suspects:
        if await _is_still_answered(view, found, query, asked):
            assert found.place is not None, "only entries of a place are compared"
            key = key_map.shown(found.key, values=values)
            place = found.place
            verified.stale.append({"key": key, "cache": place.label, "kind": place.kind, "differs": differs})
        else:
            verified.changed += 1


def _difference(found: Found, rows: Sequence[Model]) -> list[str]:
    """Returns in what an entry differs from the rows in the database: names of columns, or "rows"."""
    assert found.place is not None, "only entries of a place are compared"
    entry_set = cast("EntrySet", found.place.entry_set)
    content: Any = entry_set.read(found.entry, found.epoch)
    if content is NoValue.ABSENT or not rows:
        listed: Any = [] if content is NoValue.ABSENT or isinstance(content, dict) else content
        same = not rows and (content is NoValue.ABSENT or content == [])
        return [] if same else ["the row exists" if not listed and rows else "the rows exist no longer"]
    if isinstance(entry_set, RowEntries):
        schema = entry_set.schema
        own, stored = cast("dict[str, Any]", content), vars(rows[0])
        if schema.codec.encode({name: stored[name] for name in schema.columns}) == schema.codec.encode(own):
            return []
        return [name for name in sorted(schema.columns) if own[name] != stored[name]] or ["the form of a value"]
    return [] if entry_set.rows.same_pks(list(content), [row.pk for row in rows]) else ["the rows, or their order"]


async def _is_still_answered(cache: OpenCache, found: Found, query: EntryQuery, values: Values) -> bool:
    """Returns True if a lookup would be answered by the very entry that was compared."""
    assert found.place is not None, "only entries of a place are compared"
    entry_set = cast("EntrySet", found.place.entry_set)
    explanation = await explain_key(cache, query, entry_set, values, found.key)
    if explanation.source != "cache":
        return False
    entry, epoch = await cache.guarded.backend.read([found.key, found.place.epoch_key])
    return entry is not None and entry[:PREFIX_SIZE] == found.entry[:PREFIX_SIZE] and epoch == found.epoch
