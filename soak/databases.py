"""``Database``: what a soak needs of each kind of database. Triggers record the changes of ``item``, and faults happen.

A version is a number that the database gives to each state of a row. Deletes by other programs are recorded with the
nonce that their connection has announced, because rows that are gone hold none.
"""

import abc
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Final, Self

import anyio

from soak.connections import Connection, connect
from tests.support.servers import MariaDBServer, PostgresServer

_LEAST_DRAWN: Final = 1_000_000_000
"""Least version that a writer has drawn. The database gives a row the next one, unless it has a drawn one."""
_RECORD: Final = "INSERT INTO history (pk, version, nonce, slug, team)"
_DAWDLE: Final = "IF IS_USED_LOCK('soak') IS NOT NULL AND RAND() < 0.1 THEN DO SLEEP(0.4 * RAND()); END IF;"
_NEXT: Final = "UPDATE versions SET last = last + 1;"


class Database(abc.ABC):
    """One database of a soak, by a connection of its own. Close it."""

    triggers: ClassVar[Sequence[str]]
    """Statements that make the records of changes."""
    history: ClassVar[str] = "SELECT transaction, pk, version, nonce, slug, team FROM history ORDER BY seq"
    options: ClassVar[str] = "?maxsize=8"
    """Options of the URL for processes."""
    snapshot: ClassVar[str] = ""
    """Statement with which a transaction begins that reads one snapshot, if there is need for one."""
    snapshot_pause: ClassVar[float] = 2.0
    """Maximum seconds between two reads of a snapshot that holds up no writer."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    @classmethod
    async def open(cls, url: str) -> Self:
        """Connects to the database at a Tortoise URL."""
        return cls(await connect(url))

    async def close(self) -> None:
        """Ends the connection."""
        await self.connection.close()

    async def prepare(self) -> None:
        """Creates the triggers, in a database that has the tables."""
        for statement in self.triggers:
            await self.connection.execute(statement)

    @abc.abstractmethod
    async def disturb(self, chance: random.Random, counts: Counter[str]) -> None:
        """Disturbs the writers for some seconds, and counts how."""


class ServerDatabase(Database):
    """A database of a server: writers wait, and connections end while they do."""

    async def disturb(self, chance: random.Random, counts: Counter[str]) -> None:
        await self.slow_down(True)
        until = time.monotonic() + chance.uniform(1, 3)
        while time.monotonic() < until:
            await anyio.sleep(chance.uniform(0.02, 0.5))
            counts["connections ended in COMMIT"] += await self.end()
        await self.slow_down(False)
        counts["slow COMMITs"] += 1

    @abc.abstractmethod
    async def slow_down(self, slow: bool) -> None:
        """Slows writers down, or not any more."""

    @abc.abstractmethod
    async def end(self) -> int:
        """Ends a connection of a writer that waits. Returns the number of connections that it has ended."""


class Postgres(ServerDatabase):
    """PostgreSQL. COMMITs are slow in deferred triggers."""

    snapshot = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"
    triggers = (
        f"""
        CREATE SEQUENCE versions;
        CREATE TABLE history (
            seq bigserial PRIMARY KEY, transaction bigint, pk int, version int, nonce bigint, slug text, team int
        );
        CREATE TABLE weather (commit_delay float NOT NULL);
        INSERT INTO weather VALUES (0);

        CREATE FUNCTION bump() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF NEW.version >= {_LEAST_DRAWN} THEN  -- drawn by the writer, unless the row has had it before
                IF TG_OP = 'INSERT' THEN
                    RETURN NEW;
                ELSIF NEW.version <> OLD.version THEN
                    RETURN NEW;
                END IF;
            END IF;
            NEW.version := nextval('versions');
            RETURN NEW;
        END $$;
        CREATE TRIGGER bump BEFORE INSERT OR UPDATE ON item FOR EACH ROW EXECUTE FUNCTION bump();

        CREATE FUNCTION outside_nonce() RETURNS bigint LANGUAGE sql AS $$
            SELECT coalesce(nullif(current_setting('soak.nonce', true), ''), '0')::bigint
        $$;

        -- AFTER, because then the row is locked, and the statement no longer waits for the former owner of the slug.
        CREATE FUNCTION remember() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF TG_OP = 'DELETE' THEN
                INSERT INTO history (transaction, pk, version, nonce, slug, team)
                VALUES (txid_current(), OLD.id, 0, outside_nonce(), OLD.slug, OLD.team);
            ELSE
                INSERT INTO history (transaction, pk, version, nonce, slug, team)
                VALUES (txid_current(), NEW.id, NEW.version, NEW.nonce, NEW.slug, NEW.team);
            END IF;
            RETURN NULL;
        END $$;
        CREATE TRIGGER remember AFTER INSERT OR UPDATE OR DELETE ON item FOR EACH ROW EXECUTE FUNCTION remember();

        CREATE FUNCTION remember_all() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO history (transaction, pk, version, nonce, slug, team)
            SELECT txid_current(), id, 0, outside_nonce(), slug, team FROM item;
            RETURN NULL;
        END $$;
        CREATE TRIGGER remember_all BEFORE TRUNCATE ON item FOR EACH STATEMENT EXECUTE FUNCTION remember_all();

        -- A slow COMMIT: deferred triggers run inside it.
        CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM pg_sleep(commit_delay * random()) FROM weather WHERE commit_delay > 0 AND random() < 0.3;
            RETURN NULL;
        END $$;
        CREATE CONSTRAINT TRIGGER dawdle AFTER INSERT OR UPDATE OR DELETE ON item
            DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION dawdle();
        """,
    )

    async def slow_down(self, slow: bool) -> None:
        await self.connection.execute(f"UPDATE weather SET commit_delay = {0.4 * slow}")

    async def end(self) -> int:
        [[ended]] = await self.connection.fetch(
            "SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity WHERE datname = "
            "current_database() AND pid <> pg_backend_pid() AND wait_event = 'PgSleep' LIMIT 1) AS committing"
        )
        return int(ended)


class MariaDB(ServerDatabase):
    """MariaDB. Its cascades fire no triggers, so the parent's trigger records them. TRUNCATE is recorded by its writer.

    Statements are slow in triggers, right before their COMMIT in autocommit mode. The transaction's number comes from
    system versioning.
    """

    triggers = (
        "CREATE SEQUENCE versions",
        "CREATE TABLE history (seq BIGINT AUTO_INCREMENT PRIMARY KEY, pk INT, version INT, nonce BIGINT, "
        "slug VARCHAR(16), team INT, transaction BIGINT UNSIGNED GENERATED ALWAYS AS ROW START, "
        "ended BIGINT UNSIGNED GENERATED ALWAYS AS ROW END, PERIOD FOR SYSTEM_TIME (transaction, ended)) "
        "WITH SYSTEM VERSIONING",
        "CREATE TRIGGER bump_new BEFORE INSERT ON item FOR EACH ROW SET NEW.version = NEXTVAL(versions)",
        "CREATE TRIGGER bump BEFORE UPDATE ON item FOR EACH ROW SET NEW.version = NEXTVAL(versions)",
        *(
            f"CREATE TRIGGER remember_{event} AFTER {event} ON item FOR EACH ROW BEGIN {_RECORD} "
            f"VALUES (NEW.id, NEW.version, NEW.nonce, NEW.slug, NEW.team); {_DAWDLE} END"
            for event in ("INSERT", "UPDATE")
        ),
        f"CREATE TRIGGER remember_DELETE AFTER DELETE ON item FOR EACH ROW BEGIN {_RECORD} "
        f"VALUES (OLD.id, 0, COALESCE(@soak_nonce, 0), OLD.slug, OLD.team); {_DAWDLE} END",
        f"CREATE TRIGGER remember_cascade BEFORE DELETE ON folder FOR EACH ROW {_RECORD} "
        "SELECT id, 0, COALESCE(@soak_nonce, 0), slug, team FROM item WHERE folder_id = OLD.id FOR UPDATE",
    )

    async def slow_down(self, slow: bool) -> None:
        await self.connection.fetch("SELECT GET_LOCK('soak', 0)" if slow else "SELECT RELEASE_LOCK('soak')")

    async def end(self) -> int:
        found = await self.connection.fetch(
            "SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID() "
            "AND (state = 'User sleep' OR info LIKE 'COMMIT%') LIMIT 1"
        )
        try:
            for [thread] in found:
                await self.connection.execute(f"KILL {thread}")
        except self.connection.errors:  # it has ended meanwhile
            return 0
        return len(found)


class SQLite(Database):
    """SQLite. Writers come one after the other, so a nonce tells the transaction. A delete counts as one of its own."""

    history = (
        "SELECT CASE WHEN nonce THEN nonce ELSE (1 << 62) + seq END, pk, version, nonce, slug, team "
        "FROM history ORDER BY seq"
    )
    options = "?synchronous=OFF"
    snapshot_pause = 0.05
    triggers = (
        "CREATE TABLE history (seq INTEGER PRIMARY KEY AUTOINCREMENT, pk INT, version INT, nonce BIGINT, slug TEXT, "
        "team INT)",
        "CREATE TABLE versions (last INT NOT NULL)",
        "INSERT INTO versions VALUES (0)",
        "CREATE TABLE announced (nonce BIGINT NOT NULL)",
        "INSERT INTO announced VALUES (0)",
        *(
            f"CREATE TRIGGER remember_{name} AFTER {event} ON item BEGIN {_NEXT} "
            f"UPDATE item SET version = (SELECT last FROM versions) WHERE id = NEW.id; "
            f"{_RECORD} SELECT NEW.id, last, NEW.nonce, NEW.slug, NEW.team FROM versions; END"
            for name, event in (
                ("insert", "INSERT"),
                ("update", "UPDATE OF id, slug, team, nonce, folder_id, note"),  # not of the version, as above
            )
        ),
        f"CREATE TRIGGER remember_delete AFTER DELETE ON item BEGIN {_RECORD} "
        "SELECT OLD.id, 0, nonce, OLD.slug, OLD.team FROM announced; END",
    )

    async def disturb(self, chance: random.Random, counts: Counter[str]) -> None:
        try:
            await self.connection.execute(chance.choice(["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"]))
            await anyio.sleep(chance.uniform(0.5, 3))
            await self.connection.execute("COMMIT")
            counts["a program that keeps the file locked"] += 1
            await self.connection.execute(chance.choice(["VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)"]))
        except self.connection.errors:  # others keep it locked
            counts["a locked file"] += 1


DATABASES: Final[dict[str, type[Database]]] = {"asyncpg": Postgres, "mysql": MariaDB, "sqlite": SQLite}
"""Databases by the scheme of a Tortoise URL."""


def kind_of(url: str) -> type[Database]:
    """Returns the kind of the database at a Tortoise URL."""
    return DATABASES[url.partition(":")[0]]


class SQLiteFiles:
    """SQLite files in temporary folders, in the place of a server."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        return

    @contextmanager
    def database(self) -> Iterator[str]:
        """Yields the URL of a file that does not exist yet."""
        with tempfile.TemporaryDirectory(prefix="aiomodelcache-soak-") as folder:
            yield f"sqlite://{Path(folder) / 'soak.sqlite3'}"


Databases = PostgresServer | MariaDBServer | SQLiteFiles
"""Where a soak gets an empty database from."""
SERVERS: Final[dict[str, type[Databases]]] = {
    "postgres": PostgresServer,
    "mariadb": MariaDBServer,
    "sqlite": SQLiteFiles,
}
"""Servers by the name of the database."""
