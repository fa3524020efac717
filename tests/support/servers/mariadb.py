"""A private MariaDB."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import asyncmy
import asyncmy.errors

from tests.support.servers.database import DatabaseServer
from tests.support.servers.programs import find_program
from tests.support.servers.server import HOST, START_TIMEOUT

_DEFINITIONS = ("Com_alter_", "Com_create_", "Com_drop_", "Com_rename_", "Com_truncate")
"""Counters of the statements that define something."""


class MariaDBServer(DatabaseServer):
    """A MariaDB server with its default collation, which ignores case."""

    name = "mariadb"
    scheme = "mysql"
    user = "root"
    _not_yet = (OSError, asyncmy.errors.MySQLError)
    _engine: ClassVar[list[str]] = [
        "--innodb-use-native-aio=0",
        "--innodb-flush-log-at-trx-commit=0",
        "--innodb-flush-method=nosync",  # as fsync=off of PostgreSQL
        "--innodb-doublewrite=0",
        "--innodb-buffer-pool-size=16M",
        "--innodb-log-file-size=8M",
    ]
    _running: ClassVar[list[str]] = ["--skip-log-bin"]
    """Options that a server takes only when it runs."""

    def __init__(self) -> None:
        super().__init__()
        self._connection: Any = None
        self._tables: dict[str, list[str]] = {}

    @classmethod
    def program(cls) -> Path:
        return find_program(["mariadbd"], folders=["/usr/sbin", "/usr/local/sbin"])

    def _prepare(self) -> None:
        self._temporary.mkdir()
        self._run(
            find_program(["mariadb-install-db", "mysql_install_db"], folders=["/usr/bin"]),
            "--no-defaults",
            *self._common(),
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
        )

    def _common(self) -> list[str | Path]:
        as_root = ["--user=root"] if os.geteuid() == 0 else []
        # With a shared folder, a starting server deletes the temporary tables of the others.
        return [*as_root, f"--datadir={self.data}", f"--tmpdir={self._temporary}", *self._engine]

    def _command(self) -> list[str | Path]:
        return [
            self.program(),
            "--no-defaults",
            *self._common(),
            f"--bind-address={HOST}",
            f"--port={self.port}",
            f"--socket={self._socket}",
            f"--pid-file={self.folder / 'pid'}",
            *self._running,
            "--skip-name-resolve",
            "--character-set-server=utf8mb4",
            "--max-connections=100",
            "--lock-wait-timeout=20",
        ]

    def stop(self) -> None:
        """Ends the server and all its connections. Its address and data stay for ``restart``."""
        self._run_apart(self._disconnect())
        self._end_process(signal.SIGTERM)

    def restart(self) -> None:
        """Starts the server again, with its data."""
        self._launch()

    @property
    def data(self) -> Path:
        """The folder of the data."""
        return self.folder / "data"

    @property
    def _temporary(self) -> Path:
        return self.folder / "tmp"

    @property
    def _socket(self) -> Path:
        return self.folder / "mariadb.sock"

    async def _execute(self, statements: Sequence[str]) -> None:
        for statement in statements:
            await self._rows(statement)

    async def _rows(self, statement: str) -> Sequence[Any]:
        if self._connection is None:
            self._connection = await asyncmy.connect(
                user=self.user, unix_socket=str(self._socket), connect_timeout=START_TIMEOUT, autocommit=True
            )
        async with self._connection.cursor() as cursor:
            await cursor.execute(statement)
            return cast("Sequence[Any]", await cursor.fetchall())

    async def _disconnect(self) -> None:
        if self._connection is not None:
            await self._connection.ensure_closed()
            self._connection = None

    async def _disconnect_others(self, database: str) -> None:
        lost = f"SELECT id FROM information_schema.processlist WHERE db = '{database}'"
        if await self._rows(lost):
            # One that has ended by itself meanwhile is no thread any more: error 1094.
            await self._rows(
                "BEGIN NOT ATOMIC DECLARE CONTINUE HANDLER FOR 1094 BEGIN END; "
                f"FOR lost IN ({lost}) DO KILL lost.id; END FOR; END"
            )

    async def _schema(self, database: str) -> object:
        counted = await self._rows("SHOW GLOBAL STATUS LIKE 'Com\\_%'")
        return sum(int(count) for name, count in counted if name.startswith(_DEFINITIONS))

    async def _delete_rows(self, database: str) -> None:
        if database not in self._tables:
            self._tables[database] = await self._tables_of(database)
        tables = self._tables[database]
        if not tables:
            return
        questions = " UNION ALL ".join(f"SELECT '{table}', EXISTS (SELECT 1 FROM {table})" for table in tables)
        written = {table for table, has_rows in await self._rows(questions) if has_rows}
        counted = {
            f"{database}.{table}"
            for [table] in await self._rows(
                "SELECT table_name FROM information_schema.tables "
                f"WHERE table_schema = '{database}' AND auto_increment > 1"
            )
        }
        # Faster than TRUNCATE, which drops the table and creates it anew.
        if written:
            await self._execute(["SET foreign_key_checks = 0", *(f"DELETE FROM {table}" for table in written)])
        await self._execute([f"ALTER TABLE {table} AUTO_INCREMENT = 1" for table in counted])

    async def _tables_of(self, database: str) -> list[str]:
        names = "SELECT table_name FROM information_schema.tables WHERE table_schema"
        return [f"{database}.{name}" for [name] in await self._rows(f"{names} = '{database}'")]

    async def _drop_all(self, database: str) -> None:
        self._tables.pop(database, None)
        await self._execute([f"DROP DATABASE {database}", f"CREATE DATABASE {database}"])
