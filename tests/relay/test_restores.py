# ruff: noqa: F401, F811
"""A database that goes back: a failover to a standby that lacks the last commits, a restored file, database or dump.

Lines that a relay has drained are gone with their rows, and later ones may have their numbers again. No trigger sees
it, so a relay has to notice it before its next claim, also one that starts afterwards.
"""

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache import ModelCache
from aiomodelcache.relay.mysql_lines import RESTART_TOLERANCE
from aiomodelcache.relay.relay import Drain
from tests.relay.capture import StreamCapture, TriggerCapture
from tests.relay.outside import Run, other_program
from tests.relay.test_relay import (
    Outside,
    answers,
    believe,
    captured,
    create_rows,
    drain,
    fresh,
    outside,
    relaying,
)
from tests.support.databases import DatabaseUrl, tortoise_on
from tests.support.models.relayed_models import Author
from tests.support.servers import DatabaseServer, MariaDBServer, PostgresServer
from tests.support.servers.programs import find_program

MODULE = "tests.support.models.relayed_models"
AFTER_COPY = "UPDATE author SET name = 'new' WHERE id = 1", "UPDATE article SET author_id = 2 WHERE id = 1"
"""Writes that the copy lacks."""
AFTER_RESTORE = ("UPDATE author SET name = 'newest' WHERE id = 2",)
ON_MEMORY = pytest.mark.only_on("memory", because="the steps are the same on every store")
KEPT = pytest.mark.parametrize("runs", [True, False], ids=["while a relay runs", "while none runs"])
pytestmark = [pytest.mark.models(MODULE), ON_MEMORY]


class Standby(PostgresServer):
    """A streaming replica of another server."""

    def __init__(self, primary: PostgresServer) -> None:
        super().__init__()
        self._primary = primary

    def start(self) -> None:
        super(DatabaseServer, self).start()

    def _prepare(self) -> None:
        if account := self._account():
            shutil.chown(self.folder, account["user"], account["group"])
        program = self.program().with_name("pg_basebackup")
        place = ["-h", str(self._primary.folder), "-p", str(self._primary.port), "-U", self.user]
        self._run(program, *place, "-D", str(self._data), "--write-recovery-conf", "--checkpoint=fast", "--no-sync")


class Address:
    """A place in the network that leads to one server or another, as a virtual address or a pooler does."""

    def __init__(self, target: PostgresServer) -> None:
        self.target = target
        self.port = 0
        self._open: set[asyncio.StreamWriter] = set()

    @asynccontextmanager
    async def opened(self) -> AsyncIterator["Address"]:
        server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        yield self
        server.close()
        self.end_connections()

    def end_connections(self) -> None:
        for writer in self._open:
            writer.transport.abort()
        self._open.clear()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self.target.port)
        self._open |= {writer, back}
        await asyncio.gather(self._pass_on(reader, back), self._pass_on(there, writer))

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
        except OSError:
            pass
        writer.transport.abort()


async def cached_after_drain(drain: Drain, run: Run) -> dict[str, Any]:
    """Makes the writes that the copy lacks. Returns the answers after them, which are cached."""
    for statement in AFTER_COPY:
        await run(statement)
    drain.claim_at_once()
    while not await drain.drain():
        pass
    found = await answers()
    assert await answers() == found
    return found


async def assert_cleared(cache: ModelCache, drain: Drain, run: Run, before: dict[str, Any], *, runs: bool) -> None:
    """Checks that the next claim clears the models, also if another relay makes it, and that later lines are seen."""
    cleared = drain.status.cleared
    if not runs:
        await drain.close()
        async with relaying(cache) as other:
            while not await other.drain():
                pass
            assert other.status.cleared == 1
    else:
        drain.claim_at_once()
        while not await drain.drain():
            pass
        assert drain.status.cleared == cleared + 1
    await believe(cache)
    assert await answers() == await fresh(cache) != before
    for statement in AFTER_RESTORE:
        await run(statement)
    drain.claim_at_once()
    while not await drain.drain():
        pass
    assert (await Author.cache.get(id=2)).name == "newest"
    assert await answers() == await fresh(cache)


@pytest.mark.slow(because="it starts a server of its own, and a replica of it")
@KEPT
@pytest.mark.parametrize("how", [TriggerCapture, StreamCapture], ids=["triggers", "pgoutput"])
@pytest.mark.only_on("postgres", because="it fails over to a replica")
async def test_a_replica_that_lacks_the_last_commits_is_promoted(
    own_postgres: PostgresServer, how: type[TriggerCapture], runs: bool
) -> None:
    capture = how()
    address = Address(own_postgres)
    with ExitStack() as stack:
        async with address.opened():
            url = DatabaseUrl(f"asyncpg://postgres@127.0.0.1:{address.port}/app", "postgres")
            async with (
                tortoise_on(url, MODULE) as client,
                ModelCache("memory://", **capture.settings) as cache,
                other_program(own_postgres.url) as run,
            ):
                await capture.install_for(client, cache)
                await create_rows()
                standby = stack.enter_context(Standby(own_postgres))
                async with relaying(cache) as drain:
                    while not await drain.drain():
                        pass
                    await believe(cache)
                    # It has all that is committed by now, and hears of nothing more.
                    [[position]] = await run("SELECT pg_current_wal_insert_lsn()::text")
                    await replayed(standby, position)
                    standby.execute("ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()")
                    await detached(standby)
                    before = await cached_after_drain(drain, run)
                    standby.execute("SELECT pg_promote()")
                    address.target = standby
                    own_postgres.stop()
                    address.end_connections()
                    await client.close()
                    await drain.close()
                    async with other_program(standby.url_of("app")) as run_there:
                        await assert_cleared(cache, drain, run_there, before, runs=runs)


async def replayed(standby: PostgresServer, position: str) -> None:
    async with other_program(standby.url_of("app")) as run:
        while not (await run(f"SELECT pg_last_wal_replay_lsn() >= '{position}'::pg_lsn"))[0][0]:
            await asyncio.sleep(0.02)


async def detached(standby: PostgresServer) -> None:
    async with other_program(standby.url_of("app")) as run:
        while await run("SELECT 1 FROM pg_stat_wal_receiver"):
            await asyncio.sleep(0.02)


@asynccontextmanager
async def up_to_date(url: DatabaseUrl) -> AsyncIterator[tuple[ModelCache, BaseDBAsyncClient, Drain]]:
    """A cache of rows whose changes a relay has passed on, with its connection and the relay's drain."""
    async with tortoise_on(url, MODULE) as client, ModelCache("memory://") as cache:
        await TriggerCapture().install_for(client, cache)
        await create_rows()
        async with relaying(cache) as drain:
            while not await drain.drain():
                pass
            await believe(cache)
            yield cache, client, drain


@pytest.mark.slow(because="it starts a server of its own")
@KEPT
@pytest.mark.parametrize("how", ["a copy takes its place", "a dump"])
@pytest.mark.only_on("postgres", because="it restores a database of PostgreSQL")
async def test_a_database_is_restored_on_the_same_server(own_postgres: PostgresServer, how: str, runs: bool) -> None:
    """The server's run is the same, and in a copy all numbers of the catalogue are."""
    url = DatabaseUrl(own_postgres.url, "postgres")
    folder, port = str(own_postgres.folder), str(own_postgres.port)
    dump = Path(folder) / "dump.sql"

    def program(name: str, *arguments: str) -> None:
        place = ["-h", folder, "-p", port, "-U", "postgres", "-d", "app"]
        subprocess.run([own_postgres.program().with_name(name), *place, *arguments], check=True, capture_output=True)

    async with up_to_date(url) as (cache, client, drain):
        await client.close()
        await drain.close()
        if how == "a dump":
            dump.write_text("")
            program("pg_dump", "--clean", "-f", str(dump))
        else:
            own_postgres.execute("CREATE DATABASE copy TEMPLATE app")
        async with other_program(url) as run:
            before = await cached_after_drain(drain, run)
        await client.close()
        source, drain._source = drain._source, None
        assert source is not None
        await source.close()
        if how == "a dump":
            program("psql", "-v", "ON_ERROR_STOP=1", "-f", str(dump))
        else:
            own_postgres.execute("DROP DATABASE app WITH (FORCE)", "ALTER DATABASE copy RENAME TO app")
        async with other_program(url) as run:
            await assert_cleared(cache, drain, run, before, runs=runs)


@KEPT
@pytest.mark.parametrize("drains", [False, True], ids=["checked first", "drained first"])
@pytest.mark.parametrize("further", [0, 3], ids=["with fewer lines", "with more lines"])
@pytest.mark.only_on("sqlite", because="it restores a file of SQLite")
async def test_a_file_is_overwritten_by_an_older_copy(
    database: BaseDBAsyncClient,
    db_url: DatabaseUrl,
    cache: ModelCache,
    drain: Drain,
    runs: bool,
    further: int,
    drains: bool,
    tmp_path: Path,
) -> None:
    """It keeps the number that the file system has for it, and the version of its schema.

    Programs may write more lines into it than were lost, before a relay looks at it. The relay may drain them before.
    """
    await create_rows()
    while not await drain.drain():
        pass
    client: Any = database
    await client.close()
    shutil.copyfile(client.filename, tmp_path / "copy")
    async with other_program(db_url) as run:
        before = await cached_after_drain(drain, run)
    await client.close()
    shutil.copyfile(tmp_path / "copy", client.filename)
    async with other_program(db_url) as run:
        for number in range(further):
            await run(f"UPDATE article SET views = {number} WHERE id = 4")
        if drains:
            assert await drain.drain()
        await assert_cleared(cache, drain, run, before, runs=runs)


@KEPT
@pytest.mark.only_on("mariadb", because="it restores a dump of MariaDB")
async def test_a_dump_is_restored_on_the_same_server(
    db_url: DatabaseUrl, mariadb_server: MariaDBServer, cache: ModelCache, drain: Drain, runs: bool
) -> None:
    socket = mariadb_server.folder / "mariadb.sock"

    def program(name: str, content: bytes = b"") -> bytes:
        command = [find_program([name]), "--no-defaults", f"--socket={socket}", "--user=root"]
        database = str(db_url).partition("?")[0].rpartition("/")[2]
        return subprocess.run([*command, database], check=True, capture_output=True, input=content).stdout

    await create_rows()
    while not await drain.drain():
        pass
    dump = program("mariadb-dump")
    async with other_program(db_url) as run:
        before = await cached_after_drain(drain, run)
        program("mariadb", dump)
        await assert_cleared(cache, drain, run, before, runs=runs)


@pytest.mark.slow(because="it starts a server of its own, three times")
@KEPT
@pytest.mark.only_on("mariadb", because="it restores the files of MariaDB or MySQL")
async def test_the_files_of_a_server_are_restored(own_mariadb: MariaDBServer, runs: bool) -> None:
    """All that the catalogue tells is the same. Only the start of the server differs, which is told in seconds."""
    url, copy = DatabaseUrl(own_mariadb.url, "mariadb"), own_mariadb.folder / "copy"
    async with up_to_date(url) as (cache, client, drain):
        await client.close()
        own_mariadb.stop()
        shutil.copytree(own_mariadb.data, copy)
        own_mariadb.restart()
        async with other_program(url) as run:
            before = await cached_after_drain(drain, run)
            while int((await run("SHOW GLOBAL STATUS LIKE 'Uptime'"))[0][1]) <= RESTART_TOLERANCE:
                await asyncio.sleep(0.1)
        await client.close()
        own_mariadb.stop()
        shutil.rmtree(own_mariadb.data)
        copy.rename(own_mariadb.data)
        own_mariadb.restart()
        async with other_program(url) as run:
            await assert_cleared(cache, drain, run, before, runs=runs)
