"""The private SQL servers' common half: every test gets a database of its own."""

import abc
import asyncio
import itertools
from collections import defaultdict
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, ClassVar, TypeVar

from tests.support.databases import DatabaseUrl, create_tables
from tests.support.servers.server import HOST, Server

T = TypeVar("T")


class _Administrator:
    """A thread with an event loop, for statements that are no part of a test, whatever loop that runs in."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._runner = asyncio.Runner()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Runs ``coroutine`` to its end. Coroutines may share connections: they have one loop."""
        return self._thread.submit(self._runner.run, coroutine).result()

    def close(self) -> None:
        """Ends the thread."""
        self._thread.submit(self._runner.close).result()
        self._thread.shutdown()


class DatabaseServer(Server):
    """A SQL server that gives every test a database of its own."""

    scheme: ClassVar[str]
    user: ClassVar[str]
    default_database: ClassVar[str] = "app"

    def __init__(self) -> None:
        super().__init__()
        self._numbers = itertools.count(1)
        self._empty_ones: list[str] = []
        self._with_tables: defaultdict[tuple[str, ...], list[tuple[str, Any]]] = defaultdict(list)
        """Databases without rows, by the modules whose tables they have, with the schema that each has."""
        self._administrator: _Administrator | None = None

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

    def close(self) -> None:
        administrator, self._administrator = self._administrator, None
        if administrator is not None:
            administrator.run(self._disconnect())
            administrator.close()
        super().close()

    def ask(self) -> None:
        self.execute("SELECT 1")

    @contextmanager
    def database(self, *modules: str) -> Iterator[str]:
        """Yields the URL of a database, the block's own, with the tables of ``modules`` and without rows.

        It is used again afterwards: a new one is hundreds of files for PostgreSQL, and MariaDB creates and drops
        tables slowly. The rows are deleted and the counters reset, if the schema is still the same; otherwise
        everything is dropped.
        """
        if modules and self._with_tables[modules]:
            name, schema = self._with_tables[modules].pop()
        else:
            name, schema = self._empty_one(), None
            if modules:
                self._run_apart(create_tables(DatabaseUrl(self.url_of(name), self.name), *modules))
                schema = self._run_apart(self._schema(name))
        yield self.url_of(name)  # not used again after an exception, because its content is unknown then
        self._run_apart(self._disconnect_others(name))
        if modules and self._run_apart(self._schema(name)) == schema:
            self._run_apart(self._delete_rows(name))
            # MariaDB's mark of the schema also changes with what others of its databases go through.
            self._with_tables[modules].append((name, self._run_apart(self._schema(name))))
        else:
            self._run_apart(self._drop_all(name))
            self._empty_ones.append(name)

    def _empty_one(self) -> str:
        if self._empty_ones:
            return self._empty_ones.pop()
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name}")
        return name

    def execute(self, *statements: str) -> None:
        """Runs statements, one by one, as the administrator."""
        self._run_apart(self._execute(statements))

    def _run_apart(self, coroutine: Coroutine[Any, Any, T]) -> T:
        if self._administrator is None:
            self._administrator = _Administrator()
        return self._administrator.run(coroutine)

    @abc.abstractmethod
    async def _execute(self, statements: Sequence[str]) -> None:
        """Runs statements on a connection of the administrator, which is kept."""

    @abc.abstractmethod
    async def _disconnect(self) -> None:
        """Closes the administrator's connections."""

    @abc.abstractmethod
    async def _disconnect_others(self, database: str) -> None:
        """Closes the connections to ``database`` that a test has lost."""

    @abc.abstractmethod
    async def _schema(self, database: str) -> object:
        """Returns a mark of what was defined in ``database``, which differs after every definition."""

    @abc.abstractmethod
    async def _delete_rows(self, database: str) -> None:
        """Makes the tables of ``database`` as good as new."""

    @abc.abstractmethod
    async def _drop_all(self, database: str) -> None:
        """Drops all that is in ``database``."""
