"""Saves of all columns that leave a row where it is, so that the lists which hold it need no invalidation.

That an instance was not changed is not enough. Another writer may have moved the row since it was loaded, and the save
moves it back. So the UPDATE itself names the expected values in its WHERE. If the row has them, no list can change. If
it has not, nothing was written: the writer marks every key and sends Tortoise's own UPDATE.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, cast

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.models import Model

from aiomodelcache.entries.indexes import IndexEntries
from aiomodelcache.entries.model import ModelEntries
from aiomodelcache.orm.changes import changed_attributes
from aiomodelcache.orm.key_values import compares_exactly
from aiomodelcache.orm.meta import is_partial, is_saved, meta_of, pk_of
from aiomodelcache.orm.statements import equality_condition
from aiomodelcache.write.affected import AllBut, ChangedColumns
from aiomodelcache.write.calls import WriteCall, current_write
from aiomodelcache.write.executors import StatementConnection, on_connection


def _unmoved_columns(instance: Model, written: Sequence[ModelEntries]) -> frozenset[str]:
    """Returns the columns of those indexes in which a save of all columns seems to leave the row where it is."""
    if not is_saved(instance) or is_partial(instance):
        return frozenset()
    changed = changed_attributes(instance)
    model = type(instance)
    names = [
        name
        for entries in written
        if not entries.schema.hides_rows
        for index in entries.indexes
        if changed.isdisjoint(index.watched) and _comparable(index, instance)
        for name in index.watched
    ]
    columns = frozenset(names) - {pk_of(model)}
    if not columns and any(_is_unordered(entries, instance) for entries in written):
        return frozenset({pk_of(model)})  # the UPDATE compares it anyway
    return columns


def _is_unordered(entries: ModelEntries, instance: Model) -> bool:
    """Returns True if a model has a list of all rows, in no order that a save could change."""
    schema = entries.schema
    exact = compares_exactly(meta_of(schema.model).fields_map[schema.pk], instance.pk)
    indexes = [index for index in entries.indexes if index.watched <= {schema.pk}]
    return exact and not schema.hides_rows and bool(indexes) and not entries.rows.compares_loosely


def _comparable(index: IndexEntries, instance: Model) -> bool:
    """Returns True if SQL can tell whether the row has the instance's values of an index and of its order."""
    schema, values = index.schema, vars(instance)
    fields = meta_of(schema.model).fields_map
    return not index.compares_loosely and all(
        name in values and compares_exactly(fields[name], values[name]) and schema.kept(name, values[name])
        for name in index.watched
    )


def expect_unmoved(instance: Model, written: Sequence[ModelEntries]) -> AllBut | None:
    """Makes the current write of all columns of an instance expect unmoved columns, and returns what it changes."""
    write = current_write(instance)
    if write is not None:
        write.unmoved = _unmoved_columns(instance, written)
    return AllBut(write.unmoved) if write is not None and write.unmoved else None


def without_unmoved(write: WriteCall | None, changed: ChangedColumns) -> ChangedColumns:
    """Returns the columns that a write changes, if the row has what the write expects."""
    return AllBut(write.unmoved) if changed is None and write is not None and write.unmoved else changed


def confirmed_columns(write: WriteCall | None, changed: ChangedColumns) -> ChangedColumns:
    """Returns the columns that a write has changed. Without a check, they may be all columns."""
    return without_unmoved(write, changed) if write is not None and write.unmoved_confirmed else changed


def prepare_update(instance: Model, client: BaseDBAsyncClient, collect: Callable[[], Awaitable[None]]) -> None:
    """Prepares the current write of an instance for an UPDATE that finds the row moved."""
    write = current_write(instance)
    if write is not None:
        write.collect = collect
        if not issubclass(client.executor_class, CheckingExecutor):  # the model's own ``save`` took another connection
            write.unmoved = frozenset()


class CheckingExecutor:
    """An executor of Tortoise's whose UPDATE of an instance checks unmoved columns."""

    async def execute_update(self: Any, instance: Any, update_fields: Iterable[str] | None) -> int:
        """See ``BaseExecutor.execute_update``."""
        write = current_write(instance)
        if write is not None and write.unmoved:
            if update_fields is None and write.unmoved.isdisjoint(changed_attributes(instance)):
                conditional = _ConditionalConnection(self, instance, write.unmoved)
                executor: Any = super(CheckingExecutor, on_connection(self, conditional))
                number = await executor.execute_update(instance, None)
                if number:
                    write.unmoved_confirmed = True
                    return cast("int", number)
            await write.expect_a_move()  # the row has other values, or a listener has just changed the instance
        return cast("int", await cast("Any", super()).execute_update(instance, update_fields))


class _ConditionalConnection(StatementConnection):
    """A connection for one UPDATE, which is executed only if the row has the instance's values of these columns."""

    def __init__(self, executor: Any, instance: Model, columns: Iterable[str]) -> None:
        super().__init__(executor.db, instance)
        self._executor = executor
        self._columns = sorted(columns)

    async def execute_query(self, sql: str, values: list[Any]) -> Any:
        conditions, parameters = equality_condition(self._instance, self._executor, self._columns, at=len(values))
        return await self._client.execute_query(f"{sql} AND {conditions}", [*values, *parameters])
