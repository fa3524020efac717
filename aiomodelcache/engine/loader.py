"""The SQL of plans that miss: one statement for all values of one key.

Statements run in autocommit mode on the connection that writes go to. A fill must never come from an old snapshot or a
lagging replica. On an open transaction's connection, nothing is filled.
"""

import copy
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, cast

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.models import Model

from aiomodelcache.encoding.codec import EncodeError
from aiomodelcache.entries.indexes import IndexEntries
from aiomodelcache.entries.many_to_many import OWNER, ManyToManyEntries
from aiomodelcache.entries.results import DontCache
from aiomodelcache.entries.rows import RowEntries
from aiomodelcache.observe.stats import Stats
from aiomodelcache.orm.hydrate import fetch_instances
from aiomodelcache.orm.meta import RowValues, Values, is_partial
from aiomodelcache.orm.remembered import fetch_by_values
from aiomodelcache.orm.schema import ModelSchema
from aiomodelcache.plans.requests import Answer
from aiomodelcache.scopes.tracking import Tracked, Tracker

_MAX_COMBINATIONS: Final = 500
"""Maximum number of values of a multi-column key in one statement. Beyond it, further statements are sent.

SQLite accepts no condition that is nested deeper than 1,000.
"""


class LoadedRow:
    """A row as Tortoise loaded it."""

    __slots__ = ("_instance", "_payload", "_schema", "_taken", "fillable", "values")

    def __init__(self, schema: ModelSchema, instance: Model) -> None:
        self._schema = schema
        self._instance = instance
        self._payload: bytes | None = None
        self._taken = False
        own: dict[str, Any] = vars(instance)
        self.values: RowValues = own.copy()
        own.pop(OWNER, None)
        self.fillable = not is_partial(instance)

    def payload(self) -> bytes:
        """Returns the row as bytes. Raises ``codec.EncodeError``."""
        if self._payload is None:
            self._payload = self._schema.codec.encode(self.values)
        return self._payload

    def take(self) -> Model:
        """Returns the instance to the first caller and copies to later callers, so that no two callers share one."""
        if not self._taken:
            self._taken = True
            return self._instance
        instance: Model = _separate(self._instance)
        return instance


class LoadedPk:
    """The primary key of a row that was loaded without its other columns, for an entry that lists the row."""

    __slots__ = ("_pk", "values")
    fillable = False

    def __init__(self, pk: Any, values: RowValues) -> None:
        self._pk = pk
        self.values = values

    def payload(self) -> bytes:
        """Raises ``EncodeError``, because the row's columns are not known."""
        raise EncodeError("its columns were not loaded")

    def take(self) -> Any:
        """Returns the primary key."""
        return self._pk


class ComputedValue:
    """The value that a user's method returned, without the ``DontCache`` around it.

    ``storable``: False if the method returned ``DontCache``, or what it has read cannot be named. ``tracker``: what it
    has read, if that was recorded.
    """

    __slots__ = ("_taken", "storable", "tracker", "value")

    def __init__(self, returned: Any) -> None:
        self.tracker: Tracker | None = None
        if type(returned) is Tracked:
            returned, self.tracker = returned
        is_final = not isinstance(returned, DontCache)
        self.value: Any = returned if is_final else cast("DontCache[Any]", returned).value
        self.storable = is_final and (self.tracker is None or self.tracker.refusal is None)
        self._taken = False

    def take(self) -> Any:
        """Returns the value to the first caller and copies to later callers, so that no two callers share one."""
        if not self._taken:
            self._taken = True
            return self.value
        return _separate(self.value)


def _separate(value: Any) -> Any:
    """Returns a deep copy of a value, whose lists and dicts may be nested as deep as a JSON document ever is."""
    try:
        return copy.deepcopy(value)
    except RecursionError:
        if not issubclass(cast("Any", type(value)), list | dict | Model):
            raise
    copied: Any = copy.copy(value)
    memo: dict[int, Any] = {id(value): copied}
    is_instance = issubclass(cast("Any", type(value)), Model)
    pending: list[Any] = [vars(copied) if is_instance else copied]
    while pending:
        collection = pending.pop()
        is_dict = cast("Any", type(collection)) is dict
        pairs = cast("Iterable[tuple[Any, Any]]", collection.items() if is_dict else enumerate(collection))
        for key, item in list(pairs):
            if id(item) not in memo:
                if cast("Any", type(item)) in (list, dict):
                    memo[id(item)] = item.copy()
                    pending.append(memo[id(item)])
                else:
                    copy.deepcopy(item, memo)
            collection[key] = memo.get(id(item), item)
    return copied


def can_share_statement(entry_set: RowEntries | IndexEntries) -> bool:
    """Returns True if the rows of one statement show which of several values each row answers."""
    return entry_set.limit is None and (entry_set.unique or not entry_set.compares_loosely)


LoadedRows = Sequence[LoadedRow | LoadedPk]
ObserveStatement = Callable[[int, Awaitable[LoadedRows]], Awaitable[LoadedRows]]
"""Awaits a statement that asks for a number of values, and tells observers of it."""


async def load(
    entry_set: RowEntries | IndexEntries,
    wanted: Mapping[bytes, Values],
    client: BaseDBAsyncClient,
    stats: Stats,
    batch_size: int,
    deadline: Callable[[], float] = float,
    *,
    only_pks: bool = False,
    observe: ObserveStatement | None = None,
) -> dict[bytes, Answer]:
    """Returns the rows for each key of ``wanted``. Raises what the database raises.

    ``deadline`` is called before each statement, for its answers. By default their rows cannot be leased.

    Sends one statement for up to ``batch_size`` values. Sends one for each value if a shared statement could not show
    which value a row answers. That is so with a limit, or if the database compares loosely.
    """
    answers = {key: Answer([], True) for key in entry_set.impossible(wanted)}
    keys = [key for key in wanted if key not in answers]
    step = batch_size if len(entry_set.attributes) == 1 else min(batch_size, _MAX_COMBINATIONS)
    if not can_share_statement(entry_set):
        step = 1
    key_of = _key_getter(entry_set, wanted)
    for start in range(0, len(keys), step):
        chunk, until = keys[start : start + step], deadline()
        select = _select(entry_set, [wanted[key] for key in chunk], client, stats, only_pks=only_pks)
        rows = await (select if observe is None else observe(len(chunk), select))
        answers.update(
            _single(key_of, chunk[0], rows, until)
            if len(chunk) == 1
            else _group_rows(entry_set, key_of, chunk, rows, until)
        )
    for key in [key for key in keys if key not in answers]:
        until = deadline()
        select = _select(entry_set, [wanted[key]], client, stats, only_pks=only_pks)
        rows = await (select if observe is None else observe(1, select))
        answers.update(_single(key_of, key, rows, until))
    return answers


async def _select(
    entry_set: RowEntries | IndexEntries,
    wanted: Sequence[Values],
    client: BaseDBAsyncClient,
    stats: Stats,
    *,
    only_pks: bool,
) -> LoadedRows:
    schema = entry_set.schema
    stats.statements += 1
    if not only_pks and entry_set.limit is None and not isinstance(entry_set, ManyToManyEntries):
        found = await fetch_by_values(schema, client, entry_set.attributes, wanted, entry_set.order_by)
        if found is not None:
            return [LoadedRow(schema, instance) for instance in found]
    if isinstance(entry_set, ManyToManyEntries):
        query = entry_set.select(client, wanted)
    else:
        query = schema.queryset(client).filter(schema.matching(entry_set.attributes, wanted))
    if entry_set.order_by:
        query = query.order_by(*entry_set.order_by)
    if entry_set.limit is not None:
        query = query.limit(entry_set.limit)
    if only_pks:
        columns = await query.values(*dict.fromkeys([schema.pk, *entry_set.attributes]))
        return [LoadedPk(values[schema.pk], values) for values in columns]
    return [LoadedRow(schema, instance) for instance in await fetch_instances(schema, query)]


_KeyGetter = Callable[[Any], bytes | None]
"""Returns the key of a lookup that a row answers. None, or another key, if the row was found by a loose comparison."""


def _single(key_of: _KeyGetter, key: bytes, rows: LoadedRows, deadline: float) -> dict[bytes, Answer]:
    return {key: Answer(list(rows), all(found == key for found in map(key_of, rows)), deadline)}


def _group_rows(
    entry_set: RowEntries | IndexEntries,
    key_of: _KeyGetter,
    keys: Sequence[bytes],
    rows: LoadedRows,
    deadline: float,
) -> dict[bytes, Answer]:
    """Groups the rows of one statement by the key that each row answers.

    A row that has none of the values was found by a loose comparison. The answers of some values are then uncertain.
    They are left out, and the caller loads these values one by one.
    """
    rows_by_key: dict[bytes | None, list[Any]] = {key: [] for key in keys}
    unexpected = False
    for row in rows:
        group = rows_by_key.get(key_of(row))
        if group is None:
            unexpected = True
        else:
            group.append(row)
    uncertain = unexpected or (entry_set.compares_loosely and bool(rows))
    groups = ((key, rows_by_key[key]) for key in keys)
    return {
        key: Answer(group, True, deadline) for key, group in groups if not uncertain or (group and entry_set.unique)
    }


def _key_getter(entry_set: RowEntries | IndexEntries, wanted: Mapping[bytes, Values]) -> _KeyGetter:
    """Returns a function that returns the cache key under which a row of an entry set is found."""
    if isinstance(entry_set, ManyToManyEntries):
        return lambda row: entry_set.key(entry_set.owner_of(row.values))
    if len(entry_set.attributes) != 1:
        return lambda row: entry_set.key_of(tuple([row.values.get(name) for name in entry_set.attributes]))
    [name] = entry_set.attributes
    if not entry_set.compares_by_value:
        return lambda row: entry_set.key_of_one(row.values.get(name))
    key_by_value = {values[0]: key for key, values in wanted.items()}
    return lambda row: key_by_value.get(row.values.get(name))
