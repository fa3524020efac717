"""The values of received changes, as lines of a change table have them.

A value is a text in the server's format. The database itself turns it into the value that its column has.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from time import monotonic
from typing import Any, NamedTuple

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import BaseORMException

from aiomodelcache.relay.captured import CapturedTable
from aiomodelcache.relay.lines import DriverValues, Line, Pairs
from aiomodelcache.relay.postgres_lines import cast_values, placeholders
from aiomodelcache.relay.stream.messages import UNSENT, Relation, RowChange
from aiomodelcache.relay.triggers.definitions import select
from aiomodelcache.relay.triggers.postgres import captured_relations, relation_name

Texts = Sequence[str | None]
"""The texts of the captured columns."""
_Pair = tuple[Texts | None, Texts | None]


class Received(NamedTuple):
    """A change that was received."""

    change: RowChange | None
    """None: the table was emptied."""
    relation: Relation
    committed: float
    """The time of the COMMIT, by the monotonic clock."""


class ReceivedRows:
    """Turns the changes of one connection into lines."""

    def __init__(self, client: BaseDBAsyncClient, tables: Sequence[CapturedTable]) -> None:
        self._client = client
        self._tables = {table.name: table for table in tables}
        self._values: dict[str, str | None] = {}
        """The expressions for a table's values, by its name. None: a column is missing."""
        self._places: dict[int, list[CapturedTable]] = {}
        """The captured tables that a relation belongs to, by its number."""

    def reset(self, tables: Sequence[CapturedTable]) -> None:
        """Forgets the types of columns, and which relations are captured. Changes of these tables are read."""
        self._tables = {table.name: table for table in tables}
        self._values.clear()
        self._places.clear()

    async def lines(self, received: Mapping[int, Received], *, whole: bool) -> list[Line]:
        """Returns the lines of changes, by their ids. Several have one id if several captured tables have the row.

        With ``whole``, each names its whole table.
        """
        await self._place({each.relation.id for each in received.values()})
        found: list[tuple[int, CapturedTable, _Pair | None]] = []
        for number, each in received.items():
            places = self._places.get(each.relation.id)
            if places is None:  # a partition that is none any more, perhaps
                found += [(number, table, None) for table in self._tables.values()]
            else:
                found += [(number, table, None if whole else _texts(table, each)) for table in places]
        wanted: defaultdict[str, list[Texts]] = defaultdict(list)
        for _, table, texts in found:
            wanted[table.name] += [row for row in texts or () if row is not None]
        values: dict[str, Iterator[DriverValues] | None] = {}
        for name, rows in wanted.items():
            values[name] = await self._cast(self._tables[name], rows) if rows else None
        now = monotonic()
        return [
            Line(number, table.name, _pairs(texts, values[table.name]), now - received[number].committed)
            for number, table, texts in found
        ]

    async def _place(self, numbers: Iterable[int]) -> None:
        """Reads which captured tables relations belong to, if one is unknown."""
        if self._places.keys() >= set(numbers):
            return
        by_name = {relation_name(table): table for table in self._tables.values()}
        self._places.clear()
        for row in await captured_relations(self._client, self._tables.values()):
            if row["relation"] is not None:
                self._places.setdefault(int(row["relation"]), []).append(by_name[row["name"]])

    async def _cast(self, table: CapturedTable, rows: Sequence[Texts]) -> Iterator[DriverValues] | None:
        """Returns the values of rows; None if they cannot be read exactly."""
        if table.name not in self._values:
            self._values[table.name] = await cast_values(self._client, table)
        values = self._values[table.name]
        if values is None:
            return None
        source = f"jsonb_array_elements({placeholders(self._client)[0]}::text::jsonb) WITH ORDINALITY AS row (item, n)"
        try:
            found = await select(self._client, f"SELECT {values} FROM {source} ORDER BY n", [json.dumps(rows)])
        except BaseORMException:  # a value that its column does not take any more
            return None
        return iter([[row[f"c{at}"] for at in range(len(table.columns))] for row in found])


def _texts(table: CapturedTable, received: Received) -> _Pair | None:
    """Returns the old and the new texts; None if the change does not tell all of them."""
    change, columns = received.change, received.relation.columns
    at = {column.name: number for number, column in enumerate(columns)}
    if change is None or not at.keys() >= set(table.columns):
        return None
    places = [at[column] for column in table.columns]
    if change.kind != "I" and not all(columns[place].is_identity for place in places):
        return None
    try:
        old = None if change.old is None else [change.old[place] for place in places]
        new = None if change.new is None else [change.new[place] for place in places]
        if old is not None and new is not None:
            new = [old[n] if value is UNSENT else value for n, value in enumerate(new)]
        if change.kind == "U" and old is None:  # no column of the replica identity has changed
            old = new
        return _decoded(old), _decoded(new)
    except (IndexError, ValueError):
        return None


def _decoded(values: Sequence[Any] | None) -> Texts | None:
    """Raises ``ValueError`` for a value that was not sent, or is in another encoding."""
    if values is None:
        return None
    if UNSENT in values:
        raise ValueError("a value was not sent")
    return [None if value is None else value.decode() for value in values]


def _pairs(texts: _Pair | None, values: Iterator[DriverValues] | None) -> Pairs | None:
    if texts is None or values is None:
        return None
    old, new = [None if each is None else next(values) for each in texts]
    return [(old, new)]
