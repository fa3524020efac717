"""``aiomodelcache publication``: what PostgreSQL sends to a relay with the source ``pgoutput``."""

from typing import Any

import click

from aiomodelcache.cli.output import counted
from aiomodelcache.cli.session import FOUND, CommandSession, command
from aiomodelcache.cli.triggers import (
    captured_connections,
    every_option,
    fits,
    install_and_show,
    installation_data,
    show_statements,
    state_rows,
)
from aiomodelcache.relay.stream.identity import identities
from aiomodelcache.relay.stream.publication import PUBLICATION
from aiomodelcache.relay.stream.slot import SlotState, remove_slot, slot_name, slot_state
from aiomodelcache.relay.triggers import installation


@click.group("publication", short_help="Install or remove what a relay by logical decoding reads.")
def publication_command() -> None:
    """The changes that PostgreSQL sends to a relay with `--source pgoutput`, of the tables of models with `relay`.

    Nothing runs in the transactions of those who write. The user needs the right to create publications in the
    database, and must own the tables.
    """


@command("sql", short_help="Print the statements that install runs.")
@every_option
async def sql_command(session: CommandSession, every: bool) -> None:
    """Prints the statements of an installation, for a migration. Reads the catalogue, and changes nothing.

    The statements may be run again.
    """
    await show_statements(session, PUBLICATION, every=every)


@command("install", short_help="Create the publication, or add and remove tables.")
@every_option
async def install_command(session: CommandSession, every: bool) -> None:
    """Creates the publication and the relay's own table, or changes those that are out of date.

    A second time does nothing. Waits until no transaction is open that has written one of the tables. The relay itself
    creates its replication slot when it starts. Without --all, tables of models without `relay = True` are removed.
    """
    await install_and_show(session, PUBLICATION, every=every)


@command("status", short_help="Compare the publication with the declarations.")
@every_option
async def status_command(session: CommandSession, every: bool) -> int:
    """Compares the publication with the declarations, and shows the slot and the replica identities.

    Ends with status 1 if something is missing or out of date. Further tables, which install --all adds, are no fault.
    """
    data: dict[str, Any] = {}
    rows: list[tuple[Any, ...]] = []
    is_current = True
    async with captured_connections(session, PUBLICATION, every=every) as connections:
        for name, (client, tables, further) in connections.items():
            state = await installation.installation_state(client, tables, PUBLICATION, further)
            tables = [*tables, *state.further]
            slot = await slot_state(client, await slot_name(client))
            effects = [each._asdict() for each in await identities(client, tables)]
            data[name] = {**installation_data(state), "slot": slot._asdict(), "identities": effects}
            rows += state_rows(name, state)
            is_current = is_current and state.is_current

    def show() -> None:
        session.output.table(("connection", "table", "objects", "state"), rows)
        for name, found in data.items():
            _show_connection(session, name, found)
        if not is_current:
            session.output.line("   ", f"To correct it, {PUBLICATION.remedy}.")

    session.output.emit({"ok": is_current, "connections": data}, show)
    return 0 if is_current else FOUND


@command("remove", short_help="Drop everything that was installed, and the slot.")
async def remove_command(session: CommandSession) -> None:
    """Drops the publication, the relay's own table and the replication slot. Leaves nothing behind.

    Stop the relays before: a slot that is read is not dropped.
    """
    removed: dict[str, list[str]] = {}
    async with session.declarations() as cache:
        for schema in cache.open_cache.connections:
            if fits(schema.client, PUBLICATION):
                slots = await remove_slot(schema.client)
                found = await installation.remove(schema.client, PUBLICATION)
                removed[schema.connection] = [*slots, *[name for _, name in found]]

    def show() -> None:
        for name, objects in removed.items():
            session.output.line("ok", f"{name}: dropped {counted(len(objects), 'object')}")

    session.output.emit({"removed": removed}, show)


for each in (sql_command, install_command, status_command, remove_command):
    publication_command.add_command(each)


def _show_connection(session: CommandSession, name: str, found: dict[str, Any]) -> None:
    if found["ok"]:
        session.output.line("ok", f"{name}: the publication is that of the declarations")
    else:
        session.output.line("error", f"{name}: the publication is missing or out of date")
    slot = SlotState(**found["slot"])
    if not slot.exists:
        session.output.line("   ", f"{name}: there is no slot, until a relay has started")
    elif slot.is_lost:
        session.output.line("error", f"{name}: the slot has lost WAL that it needs, so the relay will create it anew")
    else:
        state = "a relay reads it" if slot.active else "no relay reads it"
        session.output.line("ok", f"{name}: the slot keeps {slot.kept / 1024**2:,.0f} MB of WAL, and {state}")
    for each in found["identities"]:
        if each["effect"] == "the whole table":
            text = f"each UPDATE and DELETE of {each['place']} invalidates the whole table"
            session.output.line("warning", f"{name}: {text}")
            session.output.line("   ", f"To correct it, {each['remedy']}.")
