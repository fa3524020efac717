"""A private MariaDB."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import asyncmy
import asyncmy.errors

from tests.support.servers.database import DatabaseServer
from tests.support.servers.programs import find_program
from tests.support.servers.server import HOST, START_TIMEOUT


class MariaDBServer(DatabaseServer):
    """A MariaDB server with its default collation, which ignores case."""

    name = "mariadb"
    scheme = "mysql"
    user = "root"
    _not_yet = (OSError, asyncmy.errors.MySQLError)
    _engine: ClassVar[list[str]] = [
        "--innodb-use-native-aio=0",
        "--innodb-flush-log-at-trx-commit=0",
        "--innodb-buffer-pool-size=16M",
        "--innodb-log-file-size=8M",
    ]

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
        return [*as_root, f"--datadir={self.folder / 'data'}", f"--tmpdir={self._temporary}", *self._engine]

    def _command(self) -> list[str | Path]:
        return [
            self.program(),
            "--no-defaults",
            *self._common(),
            f"--bind-address={HOST}",
            f"--port={self.port}",
            f"--socket={self._socket}",
            f"--pid-file={self.folder / 'pid'}",
            "--skip-log-bin",
            "--skip-name-resolve",
            "--character-set-server=utf8mb4",
            "--max-connections=100",
            "--lock-wait-timeout=20",
        ]

    @property
    def _temporary(self) -> Path:
        return self.folder / "tmp"

    @property
    def _socket(self) -> Path:
        return self.folder / "mariadb.sock"

    def _empty(self, database: str) -> None:
        lost = f"SELECT id FROM information_schema.processlist WHERE db = '{database}'"
        self.execute(
            # Killing a connection that has ended meanwhile is error 1094.
            "BEGIN NOT ATOMIC DECLARE CONTINUE HANDLER FOR 1094 BEGIN END; "
            f"FOR lost IN ({lost}) DO KILL lost.id; END FOR; END",
            f"DROP DATABASE {database}",
            f"CREATE DATABASE {database}",
        )

    async def _execute(self, statements: Sequence[str], database: str | None) -> None:
        connection = await asyncmy.connect(
            user=self.user, unix_socket=str(self._socket), db=database, connect_timeout=START_TIMEOUT
        )
        try:
            async with connection.cursor() as cursor:
                for statement in statements:
                    await cursor.execute(statement)
        finally:
            await connection.ensure_closed()
