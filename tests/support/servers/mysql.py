"""A private MySQL, which takes the place of MariaDB where an environment variable names its program."""

import os
from pathlib import Path
from typing import ClassVar, Final

import asyncmy.errors
import pytest

from tests.support.servers.mariadb import MariaDBServer
from tests.support.servers.programs import find_program
from tests.support.servers.server import HOST

PROGRAM = "AIOMODELCACHE_MYSQL"
"""The environment variable that names MySQL's program, which ``make servers-matrix`` sets."""
IS_USED: Final = PROGRAM in os.environ
"""True if tests of MariaDB run on MySQL."""
needed = pytest.mark.skipif(not IS_USED, reason="MySQL takes the place of MariaDB by `make servers-matrix` only")
"""The mark of a test that needs MySQL."""
_ACCOUNTS = f"""
    CREATE USER root@'{HOST}';
    GRANT ALL ON *.* TO root@'{HOST}' WITH GRANT OPTION;
"""
"""MySQL itself makes an account for its socket only."""
_NO_SUCH_THREAD = 1094


def unfit(because: str) -> pytest.MarkDecorator:
    """Returns the mark of a test of MariaDB that MySQL cannot do with."""
    return pytest.mark.skipif(IS_USED, reason=f"MySQL {because}")


class MySQLServer(MariaDBServer):
    """A MySQL server. Tests of MariaDB run on it, so it has the name of MariaDB."""

    _engine: ClassVar[list[str]] = [
        *(option for option in MariaDBServer._engine if "log-file-size" not in option),
        "--innodb-redo-log-capacity=16M",
        "--secure-file-priv=",
        "--mysqlx=OFF",
        "--performance-schema=OFF",  # which takes half of the memory
    ]
    # With a binary log, which MySQL has by default.
    _running: ClassVar[list[str]] = ["--sync-binlog=0", "--information-schema-stats-expiry=0"]

    @classmethod
    def program(cls) -> Path:
        return find_program([os.environ[PROGRAM]]).absolute()  # servers run in folders of their own

    def _prepare(self) -> None:
        self._temporary.mkdir()
        accounts = self.folder / "accounts.sql"
        accounts.write_text(_ACCOUNTS)
        options = ("--initialize-insecure", f"--init-file={accounts}")
        self._run(self.program(), "--no-defaults", *self._common(), *options)

    async def _disconnect_others(self, database: str) -> None:
        for number, _user, _host, used, *_ in await self._rows("SHOW PROCESSLIST"):
            try:
                if used == database:
                    await self._rows(f"KILL {number}")
            except asyncmy.errors.MySQLError as error:  # it has ended by itself meanwhile
                if error.args[0] != _NO_SUCH_THREAD:
                    raise


def mariadb_or_mysql() -> MariaDBServer:
    """Returns a MariaDB server, or a MySQL server that takes its place."""
    return MySQLServer() if IS_USED else MariaDBServer()
