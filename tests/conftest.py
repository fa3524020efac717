"""Fixtures: private servers, a fresh database and a flushed cache store for each test.

A server is started by the first test that asks for it. One that this machine does not have is a skip,
or a failure if the environment variable ``AIOMODELCACHE_REQUIRE`` (``redis,postgres,mariadb``) names it. So is
``index``, a package index from which the built package can be installed, and ``chromium``, the browser.
"""

import asyncio
import functools
import gc
import importlib.metadata
import logging
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, contextmanager
from contextvars import copy_context
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import hypothesis
import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.connection import get_connections

from aiomodelcache import MemoryBackend, ModelCache, RedisBackend
from aiomodelcache.declare.registry import declared
from aiomodelcache.orm import transactions
from aiomodelcache.testing import CountingBackend
from tests.support import groups, matrix, measuring, observing
from tests.support.databases import DatabaseUrl, SQLiteDatabases, tortoise_on
from tests.support.effort import FULL, part_of
from tests.support.gates import Outside
from tests.support.servers import (
    DatabaseServer,
    MariaDBServer,
    PostgresServer,
    RedisServer,
    Server,
    ServerMissing,
    mysql,
)

# redis-py looks for its own version on disk whenever it makes a connection, which is a sixth of a short test's time.
importlib.metadata.version = functools.cache(importlib.metadata.version)

# By default an example that takes more than 0.2 s fails, which happens on busy machines.
hypothesis.settings.register_profile("without deadline", deadline=None)
hypothesis.settings.load_profile("without deadline")

ServerT = TypeVar("ServerT", bound=Server)
EXIT_STATUS = pytest.StashKey[int]()
SHARED_MODELS = "tests.support.models.models"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--on",
        type=matrix.parse_on,
        metavar="NAMES",
        help="run only tests that need no other database or store than these, e.g. sqlite,memory",
    )
    parser.addoption("--part", action="store_true", help="try a quarter of the cases of a test that has many")
    parser.addoption("--eager", action="store_true", help="use asyncio's eager task factory (Python 3.12 or newer)")
    parser.addoption("--observe", action="store_true", help="give every cache an observer, which checks its events")


def eager_loop() -> asyncio.AbstractEventLoop:
    """An event loop that runs each new task at once, to its first suspension (Python 3.12)."""
    loop = asyncio.new_event_loop()
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
    return loop


class EagerLoops:
    """A plugin that runs every asynchronous test on an eager loop."""

    @pytest.hookimpl(optionalhook=True)
    def pytest_asyncio_loop_factories(self) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
        return {"eager": eager_loop}


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # by a shell, in the background; programs of tests inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.getoption("--eager"):
        config.pluginmanager.register(EagerLoops())
    if config.getoption("--observe"):
        config.pluginmanager.register(observing.Observed())
    config.addinivalue_line(
        "markers", "models(*modules): the modules whose models `database` loads (default: tests.support.models.models)"
    )
    config.addinivalue_line(
        "markers", "tables(*modules): `db_url` and `other_url` have those of these modules, with or without `database`"
    )
    config.addinivalue_line(
        "markers", "no_tables: `db_url` has none, because the test has a `database` of its own that creates them"
    )
    config.addinivalue_line("markers", matrix.MARK)
    config.addinivalue_line("markers", matrix.EVERY_PAIR)
    config.addinivalue_line("markers", matrix.SLOW)
    config.addinivalue_line("markers", observing.MARK)
    config.addinivalue_line("markers", groups.MARK)
    config.addinivalue_line("markers", groups.LONG)
    groups.Groups.register(config)
    measuring.Measuring.register(config)
    gc.disable()  # while tests are collected, which leaves little garbage


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Has tests run on the databases and stores that ``tests/support/matrix.py`` selects for them."""
    definition = metafunc.definition
    try:
        values = matrix.runs_on(metafunc.fixturenames, definition.iter_markers("only_on"))
        every = matrix.wants_every_pair(definition.iter_markers("every_pair"))
    except ValueError as error:
        raise pytest.UsageError(f"{definition.nodeid}: {error}") from error
    on = metafunc.config.getoption("on")
    left = {fixture: matrix.narrowed(names, on) for fixture, names in values.items()}
    if len(left) == 2:
        whole = FULL or on is not None
        pairs = matrix.pairs(left["db_url"], left["backend_url"], every=every and whole)
        if not whole and not every:
            pairs = matrix.tried(pairs, definition.nodeid)
        metafunc.parametrize(("db_url", "backend_url"), pairs, indirect=True)
        return
    for fixture, names in left.items():
        metafunc.parametrize(fixture, names, indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Puts exhaustive tests last and long ones first, and deselects what ``--on`` and ``--part`` leave out."""
    if unstable := [item.nodeid for item in items if " at 0x" in item.nodeid]:
        raise pytest.UsageError(f"{unstable[0]}: has another name in each process. Use ids that tell no address.")
    items[:] = groups.in_order(items)
    on = config.getoption("on")
    selected = items if on is None else [item for item in items if needed_by(item) <= on]
    part = part_of(selected) if config.getoption("part") else set(selected)
    config.hook.pytest_deselected(items=[item for item in items if item not in part])
    items[:] = [item for item in items if item in part]


def needed_by(item: pytest.Item) -> set[str]:
    """Returns the databases and stores that a test needs."""
    parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    return matrix.needed_by(getattr(item, "fixturenames", ()), parameters)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> groups.InGroups | None:
    return groups.InGroups(config, log) if config.getoption("dist") == "loadfile" else None


def pytest_collection_finish() -> None:
    """Keeps the garbage collector from looking at all modules and tests again and again: a fifth of the time."""
    for cls in list(declared):
        home = getattr(cls.__dict__.get("model"), "__module__", None)
        if home == SHARED_MODELS and cls.__module__ != home:
            raise pytest.UsageError(f"{cls.__module__}.{cls.__name__} changes the writes of other modules' tests.")
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    session.config.stash[EXIT_STATUS] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Ends the process although threads are left, which Python would wait for.

    aiosqlite leaves one behind if connecting is cancelled, as happens where a test fails in a bad moment.
    """
    left = [thread.name for thread in threading.enumerate() if not thread.daemon]
    if left != [threading.main_thread().name] and EXIT_STATUS in config.stash:
        print(f"Threads that were left running: {', '.join(left[1:])}", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(config.stash[EXIT_STATUS])


def skip_or_fail(name: str, reason: str) -> NoReturn:
    """Ends a test that needs the server ``name``, which is not there."""
    if name in os.environ.get("AIOMODELCACHE_REQUIRE", "").replace(" ", "").split(","):
        pytest.fail(f"AIOMODELCACHE_REQUIRE names {name}: {reason}", pytrace=False)
    pytest.skip(f"{name}: {reason}")


def run(server: ServerT) -> Iterator[ServerT]:
    """Runs ``server`` for the life of a fixture."""
    missing = ""
    try:
        server.start()
    except ServerMissing as error:
        missing = str(error)
    if missing:
        skip_or_fail(server.name, missing)
    with closing(server):
        yield server


LOGGERS = [logging.getLogger(name) for name in ("", "aiomodelcache", "aiomodelcache.lookups", "tortoise.db_client")]


@pytest.fixture(autouse=True)
def same_logger_levels() -> Iterator[None]:
    """Fails a test that leaves a logger with another level, because later tests would see more records or fewer."""
    before = [logger.level for logger in LOGGERS]
    yield
    assert [logger.level for logger in LOGGERS] == before, "the test has changed the level of a logger"


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """The run's Redis. Tests that hurt their server take ``own_redis``."""
    yield from run(RedisServer())


@pytest.fixture
def near_server(redis_server: RedisServer) -> RedisServer:
    """The run's Redis, if near caching works with it: one of the servers of ``make servers-matrix`` is too old."""
    if redis_server.version() < [6, 2, 7]:
        pytest.skip("near caching needs Redis 6.2.7")
    return redis_server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The run's PostgreSQL."""
    yield from run(PostgresServer())


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[MariaDBServer]:
    """The run's MariaDB, or MySQL in its place: see ``tests/support/servers/mysql.py``."""
    yield from run(mysql.mariadb_or_mysql())


@pytest.fixture(scope="session")
def redis_url(redis_server: RedisServer) -> str:
    """Where the run's Redis is. Nothing is flushed: see ``backend_url``."""
    return redis_server.url


@pytest.fixture(scope="session")
def postgres_url(postgres_server: PostgresServer) -> str:
    """A database that all tests of the run share: see ``db_url``."""
    return postgres_server.url


@pytest.fixture(scope="session")
def mysql_url(mariadb_server: MariaDBServer) -> str:
    """A database that all tests of the run share: see ``db_url``."""
    return mariadb_server.url


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A Redis for this test alone, to be killed, frozen and restarted."""
    yield from run(RedisServer())


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL for this test alone, to be killed and restarted."""
    yield from run(PostgresServer())


@pytest.fixture
def own_mariadb() -> Iterator[MariaDBServer]:
    """A MariaDB, or MySQL in its place, for this test alone, to be stopped and restarted."""
    yield from run(mysql.mariadb_or_mysql())


def modules_of(node: pytest.Item) -> tuple[str, ...]:
    """Returns the modules whose models a test's ``database`` loads."""
    marker = node.get_closest_marker("models")
    return marker.args if marker else (SHARED_MODELS,)


def tables_of(node: pytest.Item) -> tuple[str, ...]:
    """Returns the modules whose tables both databases of a test have."""
    marker = node.get_closest_marker("tables")
    return marker.args if marker else ()


@pytest.fixture(scope="session")
def sqlite_databases(tmp_path_factory: pytest.TempPathFactory) -> SQLiteDatabases:
    """The run's SQLite files, of which tests get copies."""
    return SQLiteDatabases(tmp_path_factory.mktemp("sqlite"))


@contextmanager
def database_of(request: pytest.FixtureRequest, dialect: str, path: Path, *modules: str) -> Iterator[str]:
    """Yields the URL of a database without rows, with the tables of ``modules``; SQLite has it in ``path``."""
    if dialect == "sqlite":
        databases: SQLiteDatabases = request.getfixturevalue("sqlite_databases")
        yield databases.create(path, *modules)
        return
    server: DatabaseServer = request.getfixturevalue(f"{dialect}_server")
    with server.database(*modules) as url:
        yield url


@pytest.fixture
def db_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DatabaseUrl]:
    """A database for this test alone, one test for each dialect: see ``tests/support/matrix.py``.

    It has no rows, and tables only if the test has the mark ``tables``, or takes ``database`` and lacks ``no_tables``.
    """
    has_tables = "database" in request.fixturenames and request.node.get_closest_marker("no_tables") is None
    modules = tables_of(request.node) or (modules_of(request.node) if has_tables else ())
    with database_of(request, request.param, tmp_path / "app.sqlite3", *modules) as url:
        yield DatabaseUrl(url, request.param)


@pytest.fixture
def other_url(request: pytest.FixtureRequest, db_url: DatabaseUrl, tmp_path: Path) -> Iterator[DatabaseUrl]:
    """A second database of the same dialect, for this test alone; ``dialect`` names it apart.

    It has no rows, and tables only if the test has the mark ``tables``.
    """
    with database_of(request, db_url.dialect, tmp_path / "other.sqlite3", *tables_of(request.node)) as url:
        yield DatabaseUrl(url, f"{db_url.dialect} other")


@pytest.fixture
async def database(request: pytest.FixtureRequest, db_url: DatabaseUrl) -> AsyncIterator[BaseDBAsyncClient]:
    """Tortoise, opened on ``db_url`` with the modules of ``pytest.mark.models``; its one connection."""
    async with tortoise_on(db_url, *modules_of(request.node), create=False) as connection:
        await connection.execute_query("SELECT 1")  # connects, so that tests see the statements of their subject only
        yield connection


@pytest.fixture
def again(database: BaseDBAsyncClient) -> BaseDBAsyncClient:
    """A second connection to the test's database. With it there, transactions have to name theirs."""
    connections = get_connections()
    name = f"{database.connection_name} again"
    connections.db_config[name] = connections.db_config[database.connection_name]
    return connections.get(name)


@pytest.fixture
def outside(database: BaseDBAsyncClient) -> Outside:
    """Runs a coroutine in a task that is no part of the test's transaction."""
    context = copy_context()
    return lambda work: asyncio.create_task(work, context=context.copy())


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has cancelled writes end at once with an unknown outcome, as they do after ``SETTLE_LIMIT``."""
    monkeypatch.setattr(transactions, "SETTLE_LIMIT", 0.0)


@pytest.fixture
def backend_url(request: pytest.FixtureRequest) -> str:
    """An empty cache store, one test for each kind: see ``tests/support/matrix.py``."""
    if request.param == "memory":
        return "memory://"
    server: RedisServer = request.getfixturevalue("redis_server")
    server.flush()
    return server.patient_url


@pytest.fixture
async def backend(backend_url: str) -> AsyncIterator[CountingBackend]:
    """An empty store that counts its round trips."""
    store = MemoryBackend() if backend_url == "memory://" else RedisBackend(backend_url)
    counting = CountingBackend(store)
    await counting.open()
    yield counting
    await counting.close()


@pytest.fixture
async def cache(database: BaseDBAsyncClient, backend: CountingBackend) -> AsyncIterator[ModelCache]:
    """An open cache over the test's database and store, counted: see ``assert_ops``."""
    async with ModelCache(backend) as opened:
        yield opened
