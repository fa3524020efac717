"""The fixtures provide private servers, and a fresh database and an empty store for each test."""

import asyncio
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import asyncmy
import asyncpg  # type: ignore[import-untyped]
import pytest
import redis
from tortoise import fields
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.models import Model

from tests import conftest
from tests.support.databases import DatabaseUrl, tortoise_on
from tests.support.servers import (
    MariaDBServer,
    PostgresServer,
    RedisServer,
    ServerFailed,
    ServerMissing,
    editions,
    mysql,
    server,
)
from tests.support.servers import redis as redis_module
from tests.support.servers.editions import Edition
from tests.support.servers.programs import find_program

DEFAULT_PORTS = {3306, 5432, 6379}


class Stone(Model):
    """The model of this module."""

    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=20, unique=True)


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.usefixtures("redis_server")
class TestRedis:
    def test_redis_answers_on_its_url_and_its_socket(self, redis_server: RedisServer, redis_url: str) -> None:
        assert redis_server.port not in DEFAULT_PORTS
        with redis.Redis.from_url(redis_url) as by_url, redis_server.client() as by_socket:
            by_url.set("k", "v")
            assert by_socket.get("k") == b"v"

    def test_a_killed_server_refuses_connections_and_restarts_empty_at_its_address(
        self, own_redis: RedisServer
    ) -> None:
        url, port = own_redis.url, own_redis.port
        with redis.Redis.from_url(url) as client:
            client.set("k", "v")
            own_redis.kill()
            with pytest.raises(redis.ConnectionError):
                client.get("k")
        own_redis.restart()
        assert (own_redis.url, own_redis.port) == (url, port)
        with redis.Redis.from_url(url) as client:
            assert client.get("k") is None

    def test_a_frozen_server_does_not_reply_until_it_resumes(self, own_redis: RedisServer) -> None:
        with own_redis.client() as client:
            client.set("k", "v")
        own_redis.stop()
        with redis.Redis.from_url(own_redis.url, socket_timeout=0.05) as client, pytest.raises(redis.TimeoutError):
            client.get("k")
        own_redis.cont()
        with redis.Redis.from_url(own_redis.url) as client:
            assert client.get("k") == b"v"

    def test_a_frozen_server_can_be_closed(self) -> None:
        with RedisServer() as stopped:
            port, folder = stopped.port, stopped.folder
            stopped.stop()
            assert listening(port)
        assert not listening(port)
        assert not folder.exists()

    def test_a_second_port_is_tried_if_the_first_is_taken(
        self, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ports = iter([own_redis.port, server.free_port()])
        monkeypatch.setattr(server, "free_port", lambda _: next(ports))
        with RedisServer() as second:
            assert second.port != own_redis.port

    def test_a_failed_start_shows_the_log_and_removes_the_folder(self, monkeypatch: pytest.MonkeyPatch) -> None:
        broken = RedisServer()
        monkeypatch.setattr(broken, "_command", lambda: ["/bin/sh", "-c", "pwd; echo no such luck; exit 3"])
        with pytest.raises(ServerFailed, match="redis ended with 3") as raised:
            broken.start()
        folder, last = str(raised.value).splitlines()[-2:]
        assert last == "no such luck"
        assert not Path(folder).exists()


class TestBackendUrl:
    @pytest.mark.parametrize("attempt", [1, 2])
    def test_each_test_gets_an_empty_store(self, backend_url: str, attempt: int) -> None:
        if backend_url == "memory://":
            return
        with redis.Redis.from_url(backend_url) as client:
            assert client.dbsize() == 0
            client.set("k", attempt)


@pytest.mark.only_on("no store", because="it is about databases alone")
class TestDatabases:
    @pytest.mark.parametrize("attempt", [1, 2])
    @pytest.mark.models("tests.meta.test_servers")
    async def test_each_test_gets_an_empty_database(self, database: BaseDBAsyncClient, attempt: int) -> None:
        assert await Stone.all().count() == 0
        await Stone.create(name="flint")
        assert await Stone.get(name="flint")

    @pytest.mark.parametrize("attempt", [1, 2, 3])
    @pytest.mark.models("tests.meta.test_servers")
    async def test_counts_from_one_each_time(self, database: BaseDBAsyncClient, attempt: int) -> None:
        assert (await Stone.create(name="flint")).id == 1
        await Stone.all().delete()
        if attempt == 1:
            await database.execute_script("CREATE TABLE pebble (id INT)")

    @pytest.mark.parametrize("attempt", [1, 2])
    @pytest.mark.models("tests.meta.test_servers")
    async def test_has_the_tables_of_its_models_each_time(self, database: BaseDBAsyncClient, attempt: int) -> None:
        await database.execute_script("ALTER TABLE stone ADD COLUMN weight INT")
        await database.execute_script("CREATE TABLE pebble (id INT)")

    async def test_has_no_tables_where_no_models_are_loaded(self, db_url: DatabaseUrl) -> None:
        async with tortoise_on(db_url, "tests.meta.test_servers"):  # creates them
            assert await Stone.all().count() == 0

    @pytest.mark.models("tests.meta.test_servers")
    async def test_the_database_has_the_dialect_of_its_url(
        self, database: BaseDBAsyncClient, db_url: DatabaseUrl
    ) -> None:
        assert database.connection_name == db_url.dialect
        version = {"sqlite": "sqlite_version()", "postgres": "version()", "mariadb": "version()"}
        _, [row] = await database.execute_query(f"SELECT {version[db_url.dialect]} AS v")
        names = {"sqlite": "3.", "postgres": "PostgreSQL", "mariadb": "9." if mysql.IS_USED else "MariaDB"}
        assert names[db_url.dialect] in row["v"]

    @pytest.mark.models("tests.meta.test_servers")
    async def test_the_database_can_be_used_in_child_tasks(self, database: BaseDBAsyncClient) -> None:
        async with asyncio.TaskGroup() as tasks:
            for name in ("flint", "slate", "chalk"):
                tasks.create_task(Stone.create(name=name))
        assert await Stone.all().count() == 3

    async def test_a_leaked_connection_does_not_block_reuse_of_a_postgres_database(
        self, postgres_server: PostgresServer
    ) -> None:
        with postgres_server.database() as url:
            lost = await asyncpg.connect(url.replace("asyncpg:", "postgres:"))
            await lost.execute("BEGIN; CREATE SCHEMA other; CREATE TABLE t (id int)")
        with postgres_server.database() as again:
            assert again == url
        lost.terminate()

    async def test_a_leaked_connection_does_not_block_reuse_of_a_mariadb_database(
        self, mariadb_server: MariaDBServer
    ) -> None:
        with mariadb_server.database() as url:
            name = url.rpartition("/")[2]
            lost = await asyncmy.connect(host="127.0.0.1", port=mariadb_server.port, user="root", db=name)
            async with lost.cursor() as cursor:
                for statement in ("CREATE TABLE t (id int)", "BEGIN", "SELECT * FROM t"):
                    await cursor.execute(statement)
        with mariadb_server.database() as again:
            assert again == url
        lost.close()

    def test_postgres_does_not_use_the_default_port(self, postgres_server: PostgresServer, postgres_url: str) -> None:
        assert postgres_server.port not in DEFAULT_PORTS
        assert postgres_url == f"asyncpg://postgres@127.0.0.1:{postgres_server.port}/app"

    def test_mariadb_does_not_use_the_default_port(self, mariadb_server: MariaDBServer, mysql_url: str) -> None:
        assert mariadb_server.port not in DEFAULT_PORTS
        assert mysql_url == f"mysql://root@127.0.0.1:{mariadb_server.port}/app"


@pytest.mark.usefixtures("redis_server")
class TestEnd:
    def test_a_server_ends_when_its_process_is_killed(self) -> None:
        code = (
            "import sys, time; from tests.support.servers import RedisServer; server = RedisServer(); server.start();"
            "print(server.port, server.folder, flush=True); time.sleep(60)"
        )
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            port, folder = process.stdout.readline().split()
            assert listening(int(port))
            process.send_signal(signal.SIGKILL)
        deadline = time.monotonic() + 60
        while (Path(folder).exists() or listening(int(port))) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not listening(int(port))
        assert not Path(folder).exists()


class TestEditions:
    """``make servers-matrix``: a server that is missing, wrong or broken is a failure, and never a skip."""

    @pytest.fixture
    def wheels(self, tmp_path: Path) -> Path:
        for edition, version in (("redis", "Redis server v=9.3.1"), ("other", "Redis server v=19.3.1")):
            program = tmp_path / edition / "redis-server"
            program.parent.mkdir()
            program.write_text(f"#!/bin/sh\necho {version} sha=0\n")
        return tmp_path

    def test_a_program_must_be_of_the_version_that_its_edition_names(self, wheels: Path) -> None:
        found = Edition("Redis 9", "redis/*-server").program(wheels)
        assert editions.version_of(found) == "Redis 9.3.1"
        assert Edition("Redis 9.3", "redis/*-server").program(wheels) == found
        for name, wheel in (("Redis 9", "other/*"), ("Valkey 9", "redis/*"), ("Redis 9", "none/*")):
            with pytest.raises(ServerMissing, match=r"none/|9\.3\.1"):
                Edition(name, wheel).program(wheels)

    @pytest.mark.parametrize(
        ("outcome", "wheel", "status"), [("pass", "redis/*", 0), ("fail", "redis/*", 1), ("pass", "none/*", 1)]
    )
    def test_all_must_be_there_and_pass(
        self,
        wheels: Path,
        outcome: str,
        wheel: str,
        status: int,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        program = wheels / "redis" / "redis-server"
        test = wheels / "test_it.py"
        test.write_text(
            f"import os, pytest\ndef test_it(): assert os.environ['AIOMODELCACHE_REDIS'] == '{program}'; "
            f"{'pass' if outcome == 'pass' else 'pytest.fail()'}"
        )
        monkeypatch.setattr(editions, "EDITIONS", (Edition("Redis 9", wheel),))
        assert editions.main(wheels, "Redis", ["-p", "no:cacheprovider", str(test)]) == status
        last = capfd.readouterr().out.splitlines()[-1]
        assert editions.main(wheels, "Valkey", []) == 1  # a typing error is no success
        assert last.startswith("Redis 9")
        assert ("passed" in last) is (status == 0)

    def test_mysql_takes_the_place_of_mariadb(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for folder, version in (("mysql", "9.7.4-2"), ("mariadb", "10.11.14-MariaDB")):
            program = tmp_path / folder / "mysqld"
            program.parent.mkdir()
            program.write_text(f"#!/bin/sh\necho 'mysqld  Ver {version} for Linux'\n")
        test = tmp_path / "test_it.py"
        test.write_text(
            "from tests.support.servers import MySQLServer\n"
            f"def test_it(): assert str(MySQLServer.program()) == '{tmp_path}/mysql/mysqld'\n"
        )
        monkeypatch.setattr(editions, "EDITIONS", [Edition("MySQL 9", "mysql/mysqld"), Edition("MySQL 8", "none")])
        assert editions.main(tmp_path, "MySQL 9", ["-p", "no:cacheprovider", str(test)]) == 0
        with pytest.raises(ServerMissing, match=r"10\.11"):
            Edition("MySQL 9", "mariadb/mysqld").program(tmp_path)

    def test_the_named_program_is_the_one_that_runs(self, wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        program = Edition("Redis 9", "redis/*").program(wheels)
        monkeypatch.setenv(redis_module.PROGRAM, str(program))
        assert RedisServer.program() == program
        monkeypatch.setenv(redis_module.PROGRAM, "/no/such")
        with pytest.raises(ServerMissing):
            RedisServer.program()


class TestMissing:
    @pytest.fixture(autouse=True)
    def nothing_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def program(_: type[RedisServer]) -> Path:
            return find_program(["no-such-server"], folders=["/no/*/bin"], wheels=["no_such_wheel/bin"])

        monkeypatch.setattr(RedisServer, "program", classmethod(program))

    def test_a_missing_server_error_lists_the_searched_folders(self) -> None:
        with pytest.raises(ServerMissing, match="no no-such-server on PATH, nor in /no/"):
            RedisServer().start()

    @pytest.mark.parametrize("required", ["", "postgres,mariadb"])
    def test_a_missing_server_skips_a_test(self, required: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AIOMODELCACHE_REQUIRE", required)
        with pytest.raises(pytest.skip.Exception, match="redis: no no-such-server"):
            next(conftest.run(RedisServer()))

    @pytest.mark.parametrize("required", ["redis", "postgres, redis"])
    def test_a_missing_required_server_fails_a_test(self, required: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AIOMODELCACHE_REQUIRE", required)
        with pytest.raises(pytest.fail.Exception, match="AIOMODELCACHE_REQUIRE names redis"):
            next(conftest.run(RedisServer()))

    def test_the_highest_version_in_the_folders_is_used(self, tmp_path: Path) -> None:
        for version in ("9", "15", "100"):
            program = tmp_path / version / "bin" / "some-server"
            program.parent.mkdir(parents=True)
            program.touch(0o755)
        found = find_program(["some-server"], folders=[f"{tmp_path}/*/bin"])
        assert found == tmp_path / "100" / "bin" / "some-server"
