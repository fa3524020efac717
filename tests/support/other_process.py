"""A second process with an open cache over the same database and backend, which reads on command.

Run as a program, it executes lines of JSON: ``["open", …]``, ``["read", …]``, ``["close"]``. The test's own process
can make the same lookups by ``read_all``.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self

from aiomodelcache import BackendError, ModelCache
from tests.support.databases import DatabaseUrl, tortoise_on
from tests.support.models.models import Event, User

SLUGS = ("e0", "e1", "e2", "moved", "new")
Answers = dict[str, Any]


async def read_all(organizer: int, ids: list[int]) -> Answers:
    """Returns the answers of the cache and of the database for everything that these tests write."""
    single = [{"slug": slug} for slug in SLUGS] + [{"id": number} for number in ids]
    *rows, listed, count, user = await asyncio.gather(
        *[Event.cache.get_or_none(**key) for key in single],
        Event.cache.filter(organizer=organizer),
        Event.cache.count(organizer=organizer),
        User.cache.get(id=organizer),
    )
    cached = [*map(_columns, rows), list(map(_columns, listed)), count, user.team]
    stored = await Event.all()
    found = [next((row for row in stored if vars(row).items() >= key.items()), None) for key in single]
    return {
        "cache": cached,
        "database": [
            *map(_columns, found),
            list(map(_columns, stored)),
            len(stored),
            (await User.get(id=organizer)).team,
        ],
    }


def _columns(event: Event | None) -> Any:
    return event and [event.id, event.slug, event.title, event.position]


async def execute_commands() -> None:
    async with AsyncExitStack() as stack:
        while line := await asyncio.to_thread(sys.stdin.readline):
            command, *args = json.loads(line)
            answer: Any = None
            if command == "read":
                answer = await read_all(*args)
            elif command == "open":
                database, dialect, store, settings = args
                await stack.enter_async_context(
                    tortoise_on(DatabaseUrl(database, dialect), "tests.support.models.models", create=False)
                )
                for attempts_left in range(9, -1, -1):  # a busy machine may time out
                    try:
                        await stack.enter_async_context(ModelCache(store, **settings))
                        break
                    except BackendError:
                        if not attempts_left:
                            raise
            else:
                await stack.aclose()
            print(json.dumps(answer), flush=True)


class OtherProcess:
    """The other process, controlled by the test. A context manager."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def open(self, database: DatabaseUrl, store: str, **settings: Any) -> None:
        self._request("open", str(database), database.dialect, store, settings)

    async def read_all(self, organizer: int, ids: list[int]) -> Answers:
        """Returns the answers of the other process without blocking the event loop."""
        return await asyncio.to_thread(self._request, "read", organizer, ids)

    def close(self) -> None:
        self._request("close")

    def _request(self, *command: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the other process has ended: see its traceback above"
        return json.loads(answer)


def other_process() -> Iterator[OtherProcess]:
    """Runs an ``OtherProcess`` for the life of a fixture."""
    with OtherProcess() as process:
        yield process


if __name__ == "__main__":
    asyncio.run(execute_commands())
