"""Installs the triggers of one connection, compares them with the declarations, and removes them."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple, cast

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import OperationalError

from aiomodelcache.exceptions import RelayError
from aiomodelcache.relay.captured import CapturedTable, coverage_fingerprint, coverage_of
from aiomodelcache.relay.triggers.definitions import (
    Definition,
    Dialect,
    is_denied,
    is_without_table,
    select,
    store_coverage,
)
from aiomodelcache.relay.triggers.mysql import RESET_MODE, SET_MODE, MySQLTriggers
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
    """``ok``, ``missing``, ``changed`` (other text, disabled), ``further`` (of a further table) or ``superfluous``."""


class InstallationState(NamedTuple):
    """The installation of a connection, compared with the declarations."""

    declared: str
    """The coverage of the declarations."""
    captured: str | None
    """The installed coverage, or None if nothing is installed."""
    objects: Sequence[ObjectState]
    further: Sequence[CapturedTable] = ()
    """The further tables that are captured as well."""

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the declarations."""
        return coverage_fingerprint(self.declared)

    @property
    def installed(self) -> str | None:
        """The fingerprint of the installed coverage, or None if nothing is installed."""
        return None if self.captured is None else coverage_fingerprint(self.captured)

    @property
    def is_current(self) -> bool:
        """True if the installation captures all that is declared.

        Other triggers, as of further tables or of a partition that was detached, only write lines that no claim
        depends on.
        """
        return self.covers and not self.wrong

    @property
    def covers(self) -> bool:
        """True if the installed coverage has all declared tables as they are declared."""
        return self.captured is not None and set(self.declared.split()) <= set(self.captured.split())

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
    """Returns all statements of an installation, to be run on one connection. They may be run again.

    Raises ``RelayError``.
    """
    dialect = dialect or dialect_of(client)
    wanted = await dialect.wanted(client, tables)
    statements = [statement for each in wanted for statement in each.create]
    if client.capabilities.dialect == "mysql":
        statements = [*SET_MODE, *statements, *RESET_MODE]
    return [*statements, *store_coverage(dialect.coverage, coverage_of(tables))]


def script_of(client: BaseDBAsyncClient, statements: Iterable[str], *, for_migration: bool = False) -> str:
    """Returns statements as a script for the program of the database, such as ``psql`` or ``mariadb``.

    That of MariaDB and MySQL ends a statement at its first semicolon, unless it is told another end. Their servers, to
    which a migration sends the script at once, know no such command.
    """
    has_ends = client.capabilities.dialect == "mysql" and not for_migration
    return "".join(
        f"DELIMITER //\n{each}//\nDELIMITER ;\n" if has_ends and ";" in each else f"{each};\n" for each in statements
    )


async def install(
    client: BaseDBAsyncClient, tables: Sequence[CapturedTable], dialect: Dialect | None = None
) -> list[Definition]:
    """Creates objects that are missing or out of date, and drops superfluous ones. Idempotent.

    Returns the objects that it has created. Raises ``RelayError`` for a table that cannot be captured, and that or the
    database's error if it refuses a statement.
    """
    dialect = dialect or dialect_of(client)
    wanted, installed = await dialect.wanted(client, tables), await dialect.installed(client)
    coverage = coverage_of(tables)
    made = [each for each in wanted if installed.get(each.place) != each.state]
    await _check_visible(client, dialect, wanted, installed)
    superfluous = sorted(set(installed) - {each.place for each in wanted}, key=_drop_order)
    if not made and not superfluous and await _coverage(client, dialect) == coverage:
        return []
    # Where each statement commits by itself, nothing is trusted before the last one.
    unsure = [f"DELETE FROM {dialect.coverage}"] if ("", dialect.coverage) in installed else []
    unsure += [dialect.drop(each.place) for each in made if each.kind == "table" and each.place in installed]
    statements = [*unsure, *[statement for each in made for statement in each.create], *map(dialect.drop, superfluous)]
    await dialect.run(client, [*statements, *store_coverage(dialect.coverage, coverage)])
    return made


async def remove(
    client: BaseDBAsyncClient, dialect: Dialect | None = None, tables: Sequence[CapturedTable] = ()
) -> list[tuple[str, str]]:
    """Drops everything that was installed. Returns the table and the name of each object. Idempotent.

    ``tables``: those that may be captured. Raises ``RelayError`` if this user may not see their triggers, which would
    stay without the change table and let all writes fail.
    """
    dialect = dialect or dialect_of(client)
    installed, wanted = await dialect.installed(client), list[Definition]()
    with suppress(RelayError):  # a table is gone, or cannot be captured any more
        wanted = await dialect.wanted(client, tables) if tables else []
    await _check_visible(client, dialect, wanted, installed)
    found = sorted(installed, key=_drop_order)
    if found:
        await dialect.run(client, list(map(dialect.drop, found)))
    return found


async def installation_state(
    client: BaseDBAsyncClient,
    tables: Sequence[CapturedTable],
    dialect: Dialect | None = None,
    further: Sequence[CapturedTable] = (),
) -> InstallationState:
    """Compares the installation with the declarations.

    Raises ``RelayError`` for a table that cannot be captured, and if this user may not see the installation.
    ``further``: tables that need not be captured. With some that are, objects that several tables share may be others.
    """
    dialect = dialect or dialect_of(client)
    wanted, installed = await dialect.wanted(client, tables), await dialect.installed(client)
    coverage = await _coverage(client, dialect)
    further = [table for table in further if table.fingerprint in (coverage or "").split()]
    wider: list[Definition] = []
    if further:
        with suppress(RelayError):  # a further table is gone, or cannot be captured any more
            wider = await dialect.wanted(client, [*tables, *further])
    await _check_visible(client, dialect, wanted, installed)
    shared = {each.place: each.state for each in wider}
    objects: list[ObjectState] = []
    for each in wanted:
        found = installed.pop(each.place, None)
        is_right = found is not None and found in (each.state, shared.get(each.place))
        state = "missing" if found is None else "ok" if is_right else "changed"
        objects.append(ObjectState(each.kind, each.source, each.on, each.name, state))
    more = [each for each in wider if installed.pop(each.place, None) is not None]
    objects += [ObjectState(each.kind, each.source, each.on, each.name, "further") for each in more]
    objects += [ObjectState("trigger" if on else "", "", on, name, "superfluous") for on, name in sorted(installed)]
    return InstallationState(coverage_of(tables), coverage, objects, further)


async def check_installation(
    client: BaseDBAsyncClient,
    tables: Sequence[CapturedTable],
    dialect: Dialect | None = None,
    further: Sequence[CapturedTable] = (),
) -> Sequence[CapturedTable]:
    """Raises ``RelayError`` unless the installation captures all that is declared.

    Returns those of ``further`` that are captured as well.
    """
    dialect = dialect or dialect_of(client)
    state = await installation_state(client, tables, dialect, further)
    connection = client.connection_name
    if state.installed is None:
        raise RelayError(f"{connection}: {dialect.missing}: {dialect.remedy}.")
    if state.wrong:
        wrong, each = state.wrong, state.wrong[0]
        raise RelayError(
            f"{connection}: the {each.kind or 'object'} {each.name}{f' on {each.on}' * bool(each.on)} is {each.state}"
            f"{f', and {len(wrong) - 1} more' * (len(wrong) > 1)}: {dialect.remedy}."
        )
    if not state.covers:
        raise RelayError(
            f"{connection}: it was installed for other declarations ({state.installed}, and these are "
            f"{state.fingerprint}): {dialect.remedy} of the release that runs."
        )
    return state.further


async def _check_visible(
    client: BaseDBAsyncClient, dialect: Dialect, wanted: Iterable[Definition], installed: Mapping[tuple[str, str], str]
) -> None:
    unlike = [each for each in wanted if each.kind == "trigger" and installed.get(each.place) != each.state]
    await dialect.check_visible(client, unlike)


async def _coverage(client: Any, dialect: Dialect) -> str | None:
    """Returns the installed coverage, or None. Raises ``RelayError`` if this user may not read it."""
    try:
        rows = await select(client, f"SELECT captured FROM {dialect.coverage}")
    except OperationalError as error:
        if is_denied(error):
            raise RelayError(
                f"{client.connection_name}: the installation cannot be seen by this user: GRANT SELECT ON "
                f"{dialect.coverage} TO it, or use another one."
            ) from error
        if is_without_table(error):
            return None
        raise
    return cast("str", rows[0]["captured"]) if rows else None


def _drop_order(place: tuple[str, str]) -> tuple[int, str, str]:
    on, name = place
    kind = "trigger" if on else "table" if name.endswith(("_changes", "_coverage")) else "function"
    return _LAST[kind], on, name
