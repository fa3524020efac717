"""Installs the triggers of one connection, compares them with the declarations, and removes them."""

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple, cast

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import OperationalError

from aiomodelcache.exceptions import RelayError
from aiomodelcache.relay.captured import CapturedTable, coverage_fingerprint
from aiomodelcache.relay.triggers.definitions import Definition, Dialect, select, store_coverage
from aiomodelcache.relay.triggers.mysql import MySQLTriggers
from aiomodelcache.relay.triggers.postgres import PostgresTriggers
from aiomodelcache.relay.triggers.sqlite import SQLiteTriggers

DIALECTS: Final[dict[str, Dialect]] = {
    "postgres": PostgresTriggers(),
    "mysql": MySQLTriggers(),
    "sqlite": SQLiteTriggers(),
}
"""The databases whose writes can be captured, by dialect."""
_LAST: Final = {"trigger": 0, "function": 1, "table": 2}
"""The order in which objects are dropped."""


class ObjectState(NamedTuple):
    """The state of one object of an installation."""

    kind: str
    source: str
    """The captured table that it is for, if known."""
    on: str
    name: str
    state: str
    """``ok``, ``missing``, ``changed`` (other text, disabled) or ``superfluous``."""


class InstallationState(NamedTuple):
    """The installation of a connection, compared with the declarations."""

    fingerprint: str
    """The fingerprint of the declarations."""
    installed: str | None
    """The fingerprint of the installed coverage, or None if nothing is installed."""
    objects: Sequence[ObjectState]

    @property
    def is_current(self) -> bool:
        """True if the installation captures all that is declared.

        A superfluous trigger, as of a partition that was detached, only writes lines that nothing depends on.
        """
        return self.fingerprint == self.installed and not self.wrong

    @property
    def wrong(self) -> list[ObjectState]:
        """The objects that are missing or changed."""
        return [each for each in self.objects if each.state in ("missing", "changed")]


def dialect_of(client: BaseDBAsyncClient) -> Dialect:
    """Returns the triggers of a connection's database. Raises ``RelayError`` if there are none for it."""
    found = DIALECTS.get(client.capabilities.dialect)
    if found is None:
        raise RelayError(
            f"{client.connection_name}: writes are captured on PostgreSQL, MariaDB, MySQL and SQLite, and not on "
            f"{client.capabilities.dialect}. Remove relay = True from the models of this connection."
        )
    return found


async def installation_statements(
    client: BaseDBAsyncClient, tables: Sequence[CapturedTable], dialect: Dialect | None = None
) -> list[str]:
    """Returns all statements of an installation, which may be run again. Raises ``RelayError``."""
    dialect = dialect or dialect_of(client)
    wanted = await dialect.wanted(client, tables)
    statements = [statement for each in wanted for statement in each.create]
    return [*statements, *store_coverage(dialect.coverage, coverage_fingerprint(tables))]


def script_of(client: BaseDBAsyncClient, statements: Iterable[str]) -> str:
    """Returns statements as a script for the program of the database, such as ``psql`` or ``mariadb``.

    That of MariaDB and MySQL ends a statement at its first semicolon, unless it is told another end.
    """
    has_ends = client.capabilities.dialect == "mysql"
    return "".join(
        f"DELIMITER //\n{each}//\nDELIMITER ;\n" if has_ends and ";" in each else f"{each};\n" for each in statements
    )


async def install(
    client: BaseDBAsyncClient, tables: Sequence[CapturedTable], dialect: Dialect | None = None
) -> list[Definition]:
    """Creates objects that are missing or out of date, and drops superfluous ones. Idempotent.

    Returns the objects that it has created. Raises ``RelayError`` for a table that cannot be captured, and the
    database's error if it refuses a statement.
    """
    dialect = dialect or dialect_of(client)
    wanted, installed = await dialect.wanted(client, tables), await dialect.installed(client)
    fingerprint = coverage_fingerprint(tables)
    made = [each for each in wanted if installed.get(each.place) != each.state]
    superfluous = sorted(set(installed) - {each.place for each in wanted}, key=_drop_order)
    if not made and not superfluous and await _coverage(client, dialect) == fingerprint:
        return []
    # Where each statement commits by itself, nothing is trusted before the last one.
    unsure = [f"DELETE FROM {dialect.coverage}"] if ("", dialect.coverage) in installed else []
    unsure += [dialect.drop(each.place) for each in made if each.kind == "table" and each.place in installed]
    statements = [*unsure, *[statement for each in made for statement in each.create], *map(dialect.drop, superfluous)]
    await dialect.run(client, [*statements, *store_coverage(dialect.coverage, fingerprint)])
    return made


async def remove(client: BaseDBAsyncClient, dialect: Dialect | None = None) -> list[tuple[str, str]]:
    """Drops everything that was installed. Returns the table and the name of each object. Idempotent."""
    dialect = dialect or dialect_of(client)
    found = sorted(await dialect.installed(client), key=_drop_order)
    if found:
        await dialect.run(client, list(map(dialect.drop, found)))
    return found


async def installation_state(
    client: BaseDBAsyncClient, tables: Sequence[CapturedTable], dialect: Dialect | None = None
) -> InstallationState:
    """Compares the installation with the declarations. Raises ``RelayError`` for a table that cannot be captured."""
    dialect = dialect or dialect_of(client)
    wanted, installed = await dialect.wanted(client, tables), await dialect.installed(client)
    objects: list[ObjectState] = []
    for each in wanted:
        found = installed.pop(each.place, None)
        state = "missing" if found is None else "ok" if found == each.state else "changed"
        objects.append(ObjectState(each.kind, each.source, each.on, each.name, state))
    objects += [ObjectState("trigger" if on else "", "", on, name, "superfluous") for on, name in sorted(installed)]
    return InstallationState(coverage_fingerprint(tables), await _coverage(client, dialect), objects)


async def check_installation(
    client: BaseDBAsyncClient, tables: Sequence[CapturedTable], dialect: Dialect | None = None
) -> None:
    """Raises ``RelayError`` unless the installation captures all that is declared."""
    dialect = dialect or dialect_of(client)
    state = await installation_state(client, tables, dialect)
    connection = client.connection_name
    if state.installed is None:
        raise RelayError(f"{connection}: {dialect.missing}: {dialect.remedy}.")
    if state.wrong:
        wrong, each = state.wrong, state.wrong[0]
        raise RelayError(
            f"{connection}: the {each.kind or 'object'} {each.name}{f' on {each.on}' * bool(each.on)} is {each.state}"
            f"{f', and {len(wrong) - 1} more' * (len(wrong) > 1)}: {dialect.remedy}."
        )
    if state.fingerprint != state.installed:
        raise RelayError(
            f"{connection}: it was installed for other declarations ({state.installed}, and these are "
            f"{state.fingerprint}): {dialect.remedy} of the release that runs."
        )


async def _coverage(client: Any, dialect: Dialect) -> str | None:
    """Returns the fingerprint of the installed coverage, or None."""
    try:
        rows = await select(client, f"SELECT fingerprint FROM {dialect.coverage}")
    except OperationalError:  # no such table
        return None
    return cast("str", rows[0]["fingerprint"]) if rows else None


def _drop_order(place: tuple[str, str]) -> tuple[int, str, str]:
    on, name = place
    kind = "trigger" if on else "table" if name.endswith(("_changes", "_coverage")) else "function"
    return _LAST[kind], on, name
