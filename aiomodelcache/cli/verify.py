"""``aiomodelcache verify``: compares what the cache would answer with the database."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final, cast

import click

from aiomodelcache.cli.explain import VALUES
from aiomodelcache.cli.keys import owner_of
from aiomodelcache.cli.output import counted
from aiomodelcache.cli.session import FOUND, CommandSession, command, opened
from aiomodelcache.entries.indexes import IndexEntries
from aiomodelcache.entries.key_values import values_in
from aiomodelcache.entries.rows import RowEntries
from aiomodelcache.inspection.keyspace import KeyMap, Place
from aiomodelcache.inspection.store import connected
from aiomodelcache.inspection.survey import FoundKey, sample_keys, survey_keys
from aiomodelcache.inspection.targets import find_target
from aiomodelcache.open_cache import OpenCache
from aiomodelcache.query.verification import ANSWERED, ReadEntry, differences, is_still_answered

ENTRIES_AT_ONCE: Final = 200
"""Number of entries that are compared at once. Their rows are read with one statement for each kind of key."""
_COMPARED: Final = ("row", "index", "list", "many-to-many")


@dataclass(slots=True)
class Verified:
    """The result of a comparison."""

    compared: int = 0
    changed: int = 0
    """Entries that differed, and were replaced or invalidated meanwhile: no fault."""
    not_compared: dict[str, int] = field(default_factory=dict[str, int])
    """Entries that were left out, by the reason."""
    stale: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    @property
    def bound(self) -> float:
        """The fraction of all entries that may be stale, with a confidence of 95 %, by those that were compared."""
        return upper_bound(len(self.stale), self.compared)

    def leave_out(self, reason: str) -> None:
        """Counts an entry that cannot be compared."""
        self.not_compared[reason] = self.not_compared.get(reason, 0) + 1


@command("verify", short_help="Compare entries with the database, and name stale ones.")
@click.argument("target", required=False)
@click.option("--sample", "number", type=click.IntRange(min=1), help="Compare so many entries, chosen at random.")
@VALUES
async def verify_command(session: CommandSession, target: str | None, number: int | None, values: bool) -> int:
    """Compares the entries of a model, or of all models, with the database. Ends with status 1 if one is stale.

    By default all of them. Of a sample, the bound says how many of all may be stale, with a confidence of 95 %.

    An entry is read, compared with its rows in the database, and read again. It is stale only if it would still be
    answered and has the same token, so writes meanwhile do no harm. Computed results are not compared.
    """
    verified = Verified()
    async with session.cache() as cache, connected(session.settings.store_url()) as store:
        view = opened(cache)
        key_map = KeyMap(view)
        owner = owner_of(find_target(view, target)) if target is not None else None
        chunks = (
            survey_keys(view, store, key_map, owner)
            if number is None
            else sample_keys(view, store, key_map, number, owner)
        )
        async for chunk in chunks:
            for at in range(0, len(chunk), ENTRIES_AT_ONCE):
                await compare(view, key_map, chunk[at : at + ENTRIES_AT_ONCE], verified, values=values)
    data = {
        "compared": verified.compared,
        "stale": verified.stale,
        "stale_at_most": verified.bound,
        "changed_meanwhile": verified.changed,
        "not_compared": verified.not_compared,
    }

    def show() -> None:
        output = session.output
        if verified.stale:
            names = ("cache", "kind", "differs in", "key")
            output.table(names, [[e["cache"], e["kind"], ", ".join(e["differs"]), e["key"]] for e in verified.stale])
            output.line()
            text = f"{len(verified.stale)} of {verified.compared} entries are stale"
            output.line("error", f"{text}, so at most {percent(verified.bound)} of all (95 % confidence)")
        else:
            text = f"{counted(verified.compared, 'entry agrees', 'entries agree')} with the database"
            bound = f", so fewer than {percent(verified.bound)} of all are stale (95 % confidence)"
            output.line("ok", text + (bound if verified.compared else ""))
        for reason, number in sorted(verified.not_compared.items()):
            output.line(f"{number} not compared: {reason}")

    session.output.emit(data, show)
    return FOUND if verified.stale else 0


def upper_bound(found: int, number: int) -> float:
    """Returns the largest fraction of which finding so few in a sample has a chance of 5 % (Clopper and Pearson)."""
    if found >= number:
        return 1.0
    below, above = found / number, 1.0
    for _ in range(50):
        middle = (below + above) / 2
        below, above = (middle, above) if _chance(found, number, middle) > 0.05 else (below, middle)
    return above


def _chance(found: int, number: int, fraction: float) -> float:
    """Returns the chance of at most ``found`` in a sample of ``number``, of which each has the chance ``fraction``."""
    term = number * math.log1p(-fraction) if fraction < 1 else -math.inf
    total = math.exp(term)
    for each in range(1, found + 1):
        term += math.log((number - each + 1) / each * fraction / (1 - fraction)) if fraction < 1 else 0.0
        total += math.exp(term)
    return total


def percent(fraction: float) -> str:
    """Returns a fraction above zero in percent, rounded up to two digits, because it is a bound."""
    unit = 10.0 ** (math.floor(math.log10(100 * fraction)) - 1)
    return f"{math.ceil(100 * fraction / unit - 1e-6) * unit:.3g} %"


async def compare(
    view: OpenCache, key_map: KeyMap, chunk: Sequence[FoundKey], verified: Verified, *, values: bool
) -> None:
    """Compares entries, as they were when the survey read them, with the database. Adds the result to ``verified``."""
    read: dict[ReadEntry, Place] = {}
    for found in chunk:
        if found.state not in ANSWERED or found.place is None:
            continue
        if found.place.kind not in _COMPARED:
            verified.leave_out("computed results")
            continue
        entry_set = cast("RowEntries | IndexEntries", found.place.entry_set)
        if entry_set.policy.off:
            verified.leave_out("writes do not invalidate them (InvalidationType.OFF)")
            continue
        asked = values_in(entry_set, found.key)
        if asked is None:
            verified.leave_out("the key does not tell its values")
            continue
        read[ReadEntry(entry_set, asked, found.key, found.entry, found.epoch)] = found.place
    differing, compared_at = await differences(view, list(read)), monotonic()
    for (each, place), differs in zip(read.items(), differing, strict=True):
        verified.compared += 1
        if not differs:
            continue
        if await is_still_answered(view, each, compared_at):
            key = key_map.shown(each.key, values=values)
            verified.stale.append({"key": key, "cache": place.label, "kind": place.kind, "differs": differs})
        else:
            verified.changed += 1
