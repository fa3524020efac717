"""The values that a save sends to the database, as they are at the moment of its statement.

An instance may change while its statement is in flight, by another task or a listener. So the statement's connection
copies the values when Tortoise has just made the statement of them.
"""

from collections.abc import Iterable
from typing import Any, Final, cast

from tortoise.models import Model

from aiomodelcache.orm.meta import RowValues, column_names, pk_of
from aiomodelcache.write.calls import current_write
from aiomodelcache.write.executors import StatementConnection, on_connection

_NO_VALUE: Final = object()


class RecordingExecutor:
    """An executor of Tortoise's that notes the values of one row, once the database has taken them."""

    async def execute_insert(self: Any, instance: Any) -> None:
        """See ``BaseExecutor.execute_insert``."""
        sent = _SentValues(self.db, instance)
        await cast("Any", super(RecordingExecutor, on_connection(self, sent))).execute_insert(instance)
        pk = pk_of(cast("Any", type(instance)))
        if sent.values is not None and sent.values[pk] is None:  # made by the database
            sent.values[pk] = instance.pk
        _note(instance, sent.values)

    async def execute_update(self: Any, instance: Any, update_fields: Iterable[str] | None) -> int:
        """See ``BaseExecutor.execute_update``."""
        sent = _SentValues(self.db, instance)
        executor: Any = super(RecordingExecutor, on_connection(self, sent))
        number = await executor.execute_update(instance, update_fields)
        _note(instance, sent.values if number == 1 and update_fields is None else None)
        return cast("int", number)


def _note(instance: Model, values: RowValues | None) -> None:
    write = current_write(instance)
    if write is not None:
        write.sent = values


class _SentValues(StatementConnection):
    """A connection for one statement, which copies the instance's values when the statement is made."""

    values: RowValues | None = None

    async def execute_query(self, sql: str, values: list[Any]) -> Any:
        self._copy()
        return await self._client.execute_query(sql, values)

    async def execute_insert(self, sql: str, values: list[Any]) -> Any:
        self._copy()
        return await self._client.execute_insert(sql, values)

    def _copy(self) -> None:
        instance = self._instance
        self.values = {name: getattr(instance, name, _NO_VALUE) for name in column_names(type(instance))}
