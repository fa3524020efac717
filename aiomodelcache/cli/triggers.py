"""``aiomodelcache triggers``: what captures the writes of other programs, in the databases of relayed models."""

from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import click
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache.cli.output import counted
from aiomodelcache.cli.session import FOUND, CommandSession, command
from aiomodelcache.inspection.errors import CommandError
from aiomodelcache.open_cache import OpenCache
from aiomodelcache.relay.captured import (
    CapturedTable,
    captured_tables,
    coverage_fingerprint,
    coverage_of,
    further_tables,
)
from aiomodelcache.relay.source import MAX_KEPT, TriggerSource
from aiomodelcache.relay.triggers import installation
from aiomodelcache.relay.triggers.definitions import INSTALL, Dialect

every_option = click.option(
    "--all", "every", is_flag=True, help="For the tables of all cached models, not only of those with relay = True."
)


class Connection(NamedTuple):
    """A connection with tables whose writes are to be captured."""

    client: BaseDBAsyncClient
    tables: Sequence[CapturedTable]
    further: Sequence[CapturedTable]
    """The tables of the other cached models, which may be captured as well."""


Connections = Mapping[str, Connection]


@click.group("triggers", short_help="Install or remove what captures writes of other programs.")
def triggers_command() -> None:
    """Triggers that note the writes of all programs, for models with `relay = True`. A relay reads the notes.

    install and remove change the databases. The user needs the right to create triggers, functions and tables.
    """


@command("sql", short_help="Print the statements that install runs.")
@every_option
@click.option("--migration", is_flag=True, help="As a script for a migration: on MariaDB and MySQL without DELIMITER.")
async def sql_command(session: CommandSession, every: bool, migration: bool) -> None:
    """Prints the statements of an installation, for psql, mariadb or a migration.

    Reads the catalogue, so the tables must exist, and changes nothing. The statements may be run again.
    """
    await show_statements(session, every=every, for_migration=migration)


async def show_statements(
    session: CommandSession, dialect: Dialect | None = None, *, every: bool = False, for_migration: bool = False
) -> None:
    """Prints the statements of an installation. ``dialect``: the kind of installation; None: triggers."""
    found: dict[str, list[str]] = {}
    scripts: dict[str, str] = {}
    async with captured_connections(session, dialect, every=every) as connections:
        for name, (client, tables, _) in connections.items():
            found[name] = await installation.installation_statements(client, tables, dialect)
            scripts[name] = installation.script_of(client, found[name], for_migration=for_migration)

    def show() -> None:
        for name, script in scripts.items():
            click.echo(f"-- connection {name}\n{script}", nl=False)

    session.output.emit({"statements": found}, show)


@command("install", short_help="Create triggers that are missing or out of date.")
@every_option
async def install_command(session: CommandSession, every: bool) -> None:
    """Creates the change table and the triggers, replaces those that are out of date, and drops those of no use.

    A second time does nothing. On PostgreSQL and SQLite, all is done or nothing. Without --all, triggers of models that
    do not have `relay = True` are dropped.
    """
    await install_and_show(session, every=every)


async def install_and_show(session: CommandSession, dialect: Dialect | None = None, *, every: bool = False) -> None:
    """Installs on all connections, and shows what was created."""
    rows: list[dict[str, Any]] = []
    async with captured_connections(session, dialect, every=every) as connections:
        for name, (client, tables, _) in connections.items():
            made = await installation.install(client, tables, dialect)
            counts = {**Counter(each.kind for each in made)}
            fingerprint = coverage_fingerprint(coverage_of(tables))
            rows.append({"connection": name, "created": counts, "fingerprint": fingerprint})

    def show() -> None:
        for row in rows:
            counts: dict[str, int] = row["created"]
            made = ", ".join(counted(number, kind) for kind, number in sorted(counts.items()))
            session.output.line("ok", f"{row['connection']}: {f'created {made}' if made else 'nothing to do'}")

    session.output.emit({"connections": rows}, show)


@command("status", short_help="Compare the installed triggers with the declarations.")
@every_option
async def status_command(session: CommandSession, every: bool) -> int:
    """Compares the installation with the declarations. Ends with status 1 if something is missing or out of date.

    Triggers of further models, which install --all creates, are no fault.
    """
    found: dict[str, installation.InstallationState] = {}
    lines: dict[str, int] = {}
    async with captured_connections(session, every=every) as connections:
        for name, (client, tables, further) in connections.items():
            found[name] = await installation.installation_state(client, tables, further=further)
            lines[name] = await TriggerSource(client, tables).count(MAX_KEPT) if found[name].installed else 0
    data = {name: {**installation_data(state), "lines": lines[name]} for name, state in found.items()}
    is_current = all(state.is_current for state in found.values())

    def show() -> None:
        columns = ("connection", "table", "objects", "state")
        session.output.table(columns, [row for name, state in found.items() for row in state_rows(name, state)])
        for name, state in found.items():
            if state.is_current:
                more = f", and of {len(state.further)} more tables" if state.further else ""
                session.output.line("ok", f"{name}: the triggers are those of the declarations{more}")
            else:
                session.output.line("error", f"{name}: the triggers are missing or out of date")
            if lines[name] > MAX_KEPT:
                session.output.line("warning", f"{name}: more than {MAX_KEPT:,} lines wait for a relay")
                session.output.line("   ", "Run a relay, or `aiomodelcache triggers trim`.")
        if not is_current:
            session.output.line("   ", f"To correct it, {INSTALL}.")

    session.output.emit({"ok": is_current, "connections": data}, show)
    return 0 if is_current else FOUND


@command("trim", short_help="Replace very many waiting lines by one for each table.")
@every_option
async def trim_command(session: CommandSession, every: bool) -> None:
    """Keeps the change table small while no relay runs. Does nothing up to 50,000 lines.

    Each line that remains stands for everything of its table, so that a relay invalidates its models. Relays, and
    applications that find none, do the same. Run it by a timer if both may be away for long.
    """
    trimmed: dict[str, int] = {}
    async with captured_connections(session, every=every) as connections:
        for name, (client, tables, _) in connections.items():
            source = TriggerSource(client, tables)
            trimmed[name] = await source.trim() if await source.count(MAX_KEPT) > MAX_KEPT else 0

    def show() -> None:
        for name, number in trimmed.items():
            text = f"replaced {number:,} lines" if number else f"at most {MAX_KEPT:,} lines wait for a relay"
            session.output.line("ok", f"{name}: {text}")

    session.output.emit({"trimmed": trimmed}, show)


@command("remove", short_help="Drop everything that was installed.")
@click.option("--all", is_flag=True, expose_value=False, help="Changes nothing: all triggers are dropped anyway.")
async def remove_command(session: CommandSession) -> None:
    """Drops the triggers, functions and tables, on all connections of cached models. Leaves nothing behind.

    Stop the relays before, and remove `relay = True`: models that have it are not read from the cache without a relay.
    """
    removed: dict[str, list[str]] = {}
    async with session.declarations() as cache:
        tables = captured_tables(cache.open_cache, every=True)
        for schema in cache.open_cache.connections:
            if schema.client.capabilities.dialect in installation.DIALECTS:
                found = await installation.remove(schema.client, tables=tables.get(schema.connection, ()))
                removed[schema.connection] = [f"{name} on {on}" if on else name for on, name in found]

    def show() -> None:
        for name, objects in removed.items():
            session.output.line("ok", f"{name}: dropped {counted(len(objects), 'object')}")

    session.output.emit({"removed": removed}, show)


for each in (sql_command, install_command, status_command, trim_command, remove_command):
    triggers_command.add_command(each)


@asynccontextmanager
async def captured_connections(
    session: CommandSession, dialect: Dialect | None = None, *, every: bool = False
) -> AsyncGenerator[Connections, None]:
    """Yields the connections with captured tables. With a dialect, those of its database. ``every``: of all models.

    Raises ``CommandError`` if there is none.
    """
    async with session.declarations() as cache:
        opened = cache.open_cache
        found = captured_tables(opened, every=every)
        if not found and not every:
            raise CommandError(
                "No model has relay = True: set it in the CacheMeta of models that others write, or capture all with "
                "aiomodelcache triggers --all or publication --all."
            )
        clients = {name: _client(opened, name) for name in found}
        fit = {name for name in found if dialect is None or fits(clients[name], dialect)}
        if every and dialect is None:  # others matter only if they are relayed, and are refused then
            fit = {name for name in found if clients[name].capabilities.dialect in installation.DIALECTS}
            fit |= captured_tables(opened).keys()
        if not fit:
            what = "No model is" if every else "No model with relay = True is"
            where = (
                "database that has triggers" if dialect is None else "PostgreSQL database, which alone has publications"
            )
            raise CommandError(f"{what} in a {where}.")
        yield {
            name: Connection(clients[name], found[name], [] if every else further_tables(opened, found[name]))
            for name in sorted(fit)
        }


def fits(client: BaseDBAsyncClient, dialect: Dialect) -> bool:
    """Returns True if a dialect is of the database of a connection."""
    return isinstance(dialect, type(installation.DIALECTS.get(client.capabilities.dialect)))


def _client(cache: OpenCache, connection: str) -> BaseDBAsyncClient:
    return next(schema.client for schema in cache.connections if schema.connection == connection)


def installation_data(state: installation.InstallationState) -> dict[str, Any]:
    """Returns the state of an installation for JSON."""
    return {
        "ok": state.is_current,
        "fingerprint": state.fingerprint,
        "installed": state.installed,
        "objects": [each._asdict() for each in state.objects],
    }


def state_rows(name: str, state: installation.InstallationState) -> list[tuple[str, str, int, str]]:
    """Returns the states of a connection's objects, counted by table."""
    counts = Counter((each.source, each.state) for each in state.objects)
    return [(name, table, number, word) for (table, word), number in sorted(counts.items())]
