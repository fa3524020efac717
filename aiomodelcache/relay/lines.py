"""A line of the change table, before its values are those of fields, and what change tables have in common."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple

from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache.relay.triggers.definitions import CHANGES, select

POLL_INTERVAL: Final = 0.05
"""Seconds between two looks at a change table whose database does not notify."""
CHECK_INTERVAL: Final = 0.5
"""The longest wait in seconds of such a database, so that the catalogue is compared again."""
ALWAYS: Final = "1 = 1"
"""The condition that holds for any deletion, such as of lines that another line stands for."""
MAX_READ_ROWS: Final = 50_000
"""Maximum number of rows that one read returns. Beyond it, further lines name their whole tables."""

DriverValues = Sequence[Any]
"""The values of a captured table's columns, in the order of ``CapturedTable.columns``, as the driver returns them."""
Pairs = Sequence[tuple[DriverValues | None, DriverValues | None]]
"""The old and the new values of rows."""


class Line(NamedTuple):
    """A line of the change table."""

    id: int
    source: str
    """The name of the captured table."""
    pairs: Pairs | None
    """None: the line names the whole table."""
    age: float
    """Seconds since the line was written, by the database's clock."""


def paired(olds: Sequence[DriverValues], news: Sequence[DriverValues], pk: int | None) -> Pairs:
    """Returns the rows of one statement, whose old and new values are in no order, joined by the primary key.

    ``pk``: the place of the primary key's column, or None if there is none.
    """
    if pk is None or not olds or not news:
        return [*[(old, None) for old in olds], *[(None, new) for new in news]]
    left = {new[pk]: new for new in news}
    pairs: list[tuple[DriverValues | None, DriverValues | None]] = [(old, left.pop(old[pk], None)) for old in olds]
    return [*pairs, *[(None, new) for new in left.values()]]


async def poll(has_lines: Callable[[], Awaitable[bool]], timeout: float) -> None:
    """Waits until there are lines, at most ``timeout`` seconds."""
    loop = asyncio.get_running_loop()
    end = loop.time() + min(timeout, CHECK_INTERVAL)
    while (left := end - loop.time()) > 0:
        await asyncio.sleep(min(left, POLL_INTERVAL))
        if await has_lines():
            return


async def delete_lines(client: Any, ids: Sequence[int], condition: str) -> None:
    """Deletes lines by their numbers if the condition holds, which is SQL."""
    await client.execute_query(f"DELETE FROM {CHANGES} WHERE id IN ({', '.join(map(str, ids))}) AND {condition}")


class PolledLines:
    """The change table of a database that does not notify."""

    def __init__(self, client: BaseDBAsyncClient, age: str) -> None:
        self._client = client
        self._age = age
        """The expression of SQL for the age of a line."""

    async def rows(self, limit: int, *, whole: bool) -> Any:
        """Returns up to ``limit`` rows of the table, by number, each with its ``age``. ``whole``: without values."""
        columns = "id, source" if whole else f"{CHANGES}.*"
        statement = f"SELECT {columns}, {self._age} AS age FROM {CHANGES} ORDER BY id LIMIT {limit}"
        return await select(self._client, statement)

    async def delete(self, ids: Sequence[int], condition: str = ALWAYS) -> None:
        """Deletes lines, in one short transaction."""
        await delete_lines(self._client, ids, condition)

    async def wait(self, timeout: float) -> None:
        """Waits until there are lines, or until the catalogue is to be compared again."""
        await poll(self._has_lines, timeout)

    async def close(self) -> None:
        """Does nothing: no connection was opened."""

    async def _has_lines(self) -> bool:
        return bool(await select(self._client, f"SELECT 1 FROM {CHANGES} LIMIT 1"))
