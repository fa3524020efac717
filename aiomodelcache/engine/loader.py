"""Rows from the database for the plans that miss them: one statement for all values of one key.

Statements run in autocommit mode on the connection that writes go to (a fill must never come from an
old snapshot or a lagging replica), or on an open transaction's connection, and then nothing is filled.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.models import Model

from aiomodelcache.entries.indexes import IndexEntries
from aiomodelcache.entries.many_to_many import OWNER, ManyToManyEntries
from aiomodelcache.entries.results import DontCache
from aiomodelcache.entries.rows import RowEntries
from aiomodelcache.observe.stats import Stats
from aiomodelcache.orm.hydrate import fetch
from aiomodelcache.orm.meta import RowValues, Values, is_partial
from aiomodelcache.orm.schema import ModelSchema
from aiomodelcache.plans.requests import Answer

_COMBINATIONS: Final = 500
"""Of the values of several columns, in one statement at most: SQLite takes no condition nested deeper than 1,000."""


class LoadedRow:
    """A row as Tortoise loaded it."""

    __slots__ = ("_instance", "_payload", "_schema", "_taken", "fillable", "values")

    def __init__(self, schema: ModelSchema, instance: Model) -> None:
        self._schema = schema
        self._instance = instance
        self._payload: bytes | None = None
        self._taken = False
        self.values: RowValues = dict(instance.__dict__)
        vars(instance).pop(OWNER, None)
        self.fillable = not is_partial(instance)

    def payload(self) -> bytes:
        """The row as bytes. Raises ``codec.EncodeError``."""
        if self._payload is None:
            self._payload = self._schema.codec.encode(self.values)
        return self._payload

    def take(self) -> Model:
        """Returns the instance to the first taker and copies to the others: nobody shares one."""
        if not self._taken:
            self._taken = True
            return self._instance
        return copy.deepcopy(self._instance)


class ComputedValue:
    """What a user's method returned; ``value`` is without the ``DontCache`` around it that makes it not ``kept``."""

    __slots__ = ("_taken", "kept", "value")

    def __init__(self, returned: Any) -> None:
        self.kept = not isinstance(returned, DontCache)
        self.value: Any = returned if self.kept else cast("DontCache[Any]", returned).value
        self._taken = False

    def take(self) -> Any:
        """Returns the value to the first taker and copies to the others: nobody shares one."""
        if not self._taken:
            self._taken = True
            return self.value
        return copy.deepcopy(self.value)


def answers_many(entry_set: RowEntries | IndexEntries) -> bool:
    """Whether one statement can tell which of several values each row answers."""
    return entry_set.limit is None and (entry_set.unique or not entry_set.uses_loose_collation)


async def load(
    entry_set: RowEntries | IndexEntries,
    wanted: Sequence[Values],
    client: BaseDBAsyncClient,
    stats: Stats,
    batch_size: int,
) -> dict[Values, Answer]:
    """Returns the rows for each of ``wanted``. Raises what the database raises.

    One statement for up to ``batch_size`` values; one for each value where a shared one could not tell
    which value a row answers: with a limit, or where the database compares loosely.
    """
    answers: dict[Values, Answer] = {}
    step = batch_size if len(entry_set.attributes) == 1 else min(batch_size, _COMBINATIONS)
    if not answers_many(entry_set):
        step = 1
    for start in range(0, len(wanted), step):
        some = wanted[start : start + step]
        rows = await _select(entry_set, some, client, stats)
        answers.update(_single(entry_set, some[0], rows) if len(some) == 1 else _share_out(entry_set, some, rows))
    for values in [values for values in wanted if values not in answers]:
        answers.update(_single(entry_set, values, await _select(entry_set, [values], client, stats)))
    return answers


async def _select(
    entry_set: RowEntries | IndexEntries, wanted: Sequence[Values], client: BaseDBAsyncClient, stats: Stats
) -> list[LoadedRow]:
    schema = entry_set.schema
    if isinstance(entry_set, ManyToManyEntries):
        query = entry_set.select(client, wanted)
    else:
        query = schema.queryset(client).filter(schema.matching(entry_set.attributes, wanted))
    if entry_set.order_by:
        query = query.order_by(*entry_set.order_by)
    if entry_set.limit is not None:
        query = query.limit(entry_set.limit)
    stats.statements += 1
    return [LoadedRow(schema, instance) for instance in await fetch(schema, query)]


def _single(entry_set: RowEntries | IndexEntries, values: Values, rows: list[LoadedRow]) -> dict[Values, Answer]:
    return {values: Answer(list(rows), all(key == values for key in map(_key_of(entry_set), rows)))}


def _share_out(
    entry_set: RowEntries | IndexEntries, wanted: Sequence[Values], rows: list[LoadedRow]
) -> dict[Values, Answer]:
    """Sorts the rows of one statement by the value that each answers.

    A row that has none of the values was found by a loose comparison: then some value's answer is not
    known and is left out, to be asked for alone.
    """
    shares: dict[Values, list[Any]] = {values: [] for values in wanted}
    astray = False
    for row, key in zip(rows, map(_key_of(entry_set), rows), strict=True):
        share = shares.get(key)
        if share is None:
            astray = True
        else:
            share.append(row)
    doubtful = astray or (entry_set.uses_loose_collation and bool(rows))
    return {
        values: Answer(share, True) for values, share in shares.items() if not doubtful or (share and entry_set.unique)
    }


def _key_of(entry_set: RowEntries | IndexEntries) -> Callable[[LoadedRow], Values]:
    """Returns what tells by which values a row of a source was found."""
    if isinstance(entry_set, ManyToManyEntries):
        return lambda row: entry_set.owner_of(row.values)
    if len(entry_set.attributes) == 1:
        [name] = entry_set.attributes
        return lambda row: (row.values.get(name),)
    return lambda row: tuple([row.values.get(name) for name in entry_set.attributes])
