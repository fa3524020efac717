"""The common base of the private SQL servers, which give every test a database of its own."""

import abc
import asyncio
import itertools
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, ClassVar

from tests.support.servers.server import HOST, Server


def _in_own_loop(coroutine: Coroutine[Any, Any, None]) -> None:
    """Runs ``coroutine`` to its end, even if this thread is inside an event loop."""
    with ThreadPoolExecutor(max_workers=1) as executor:
        executor.submit(asyncio.run, coroutine).result()


class DatabaseServer(Server):
    """A SQL server that gives every test a database of its own."""

    scheme: ClassVar[str]
    user: ClassVar[str]
    default_database: ClassVar[str] = "app"

    def __init__(self) -> None:
        super().__init__()
        self._numbers = itertools.count(1)
        self._spare: list[str] = []

    @property
    def url(self) -> str:
        return self.url_of(self.default_database)

    def url_of(self, database: str) -> str:
        """Returns the Tortoise URL of ``database``."""
        return f"{self.scheme}://{self.user}@{HOST}:{self.port}/{database}"

    def start(self) -> None:
        super().start()
        try:
            self.execute(f"CREATE DATABASE {self.default_database}")
        except BaseException:
            self.close()
            raise

    def ask(self) -> None:
        self.execute("SELECT 1")

    @contextmanager
    def database(self) -> Iterator[str]:
        """Yields the URL of an empty database for the block alone.

        Afterwards the database is emptied and reused, since PostgreSQL creates hundreds of files for a new one.
        """
        if self._spare:
            name = self._spare.pop()
        else:
            name = f"test_{next(self._numbers)}"
            self.execute(f"CREATE DATABASE {name}")
        yield self.url_of(name)  # not reused after an exception, since its content is unknown
        self._empty(name)
        self._spare.append(name)

    def execute(self, *statements: str, database: str | None = None) -> None:
        """Runs statements, one by one, as the administrator."""
        _in_own_loop(self._execute(statements, database))

    @abc.abstractmethod
    async def _execute(self, statements: Sequence[str], database: str | None) -> None: ...

    @abc.abstractmethod
    def _empty(self, database: str) -> None:
        """Drops the content of ``database``, even while leaked connections of a test still use it."""
