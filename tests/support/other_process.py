"""A second process with an open cache over the same database and store, which reads when it is told to.

Run as a program it obeys lines of JSON: ``["open", …]``, ``["look"]``, ``["close"]``. What it looks at, ``look``,
is for the test's own process, too.
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
Seen = dict[str, Any]


async def look(organizer: int, ids: list[int]) -> Seen:
    """What the cache and then the database say about everything that these tests write."""
    single = [{"slug": slug} for slug in SLUGS] + [{"id": number} for number in ids]
    *rows, listed, count, user = await asyncio.gather(
        *[Event.cache.get_or_none(**key) for key in single],
        Event.cache.filter(organizer=organizer),
        Event.cache.count(organizer=organizer),
        User.cache.get(id=organizer),
    )
    cached = [*map(_shown, rows), list(map(_shown, listed)), count, user.team]
    stored = await Event.all()
    found = [next((row for row in stored if vars(row).items() >= key.items()), None) for key in single]
    return {
        "cache": cached,
        "database": [*map(_shown, found), list(map(_shown, stored)), len(stored), (await User.get(id=organizer)).team],
    }


def _shown(event: Event | None) -> Any:
    return event and [event.id, event.slug, event.title, event.position]


async def obey() -> None:
    async with AsyncExitStack() as stack:
        while line := await asyncio.to_thread(sys.stdin.readline):
            command, *args = json.loads(line)
            answer: Any = None
            if command == "look":
                answer = await look(*args)
            elif command == "open":
                database, dialect, store, settings = args
                await stack.enter_async_context(
                    tortoise_on(DatabaseUrl(database, dialect), "tests.support.models.models", create=False)
                )
                for patience in range(9, -1, -1):  # the machine may be busy
                    try:
                        await stack.enter_async_context(ModelCache(store, **settings))
                        break
                    except BackendError:
                        if not patience:
                            raise
            else:
                await stack.aclose()
            print(json.dumps(answer), flush=True)


class OtherProcess:
    """The other process, to be told what to do. ``with`` it."""

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
        self._tell("open", str(database), database.dialect, store, settings)

    async def look(self, organizer: int, ids: list[int]) -> Seen:
        """What the process sees, while this one goes on."""
        return await asyncio.to_thread(self._tell, "look", organizer, ids)

    def close(self) -> None:
        self._tell("close")

    def _tell(self, *command: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the other process has ended: see its traceback above"
        return json.loads(answer)


def other_process() -> Iterator[OtherProcess]:
    """For a fixture."""
    with OtherProcess() as process:
        yield process


if __name__ == "__main__":
    asyncio.run(obey())
