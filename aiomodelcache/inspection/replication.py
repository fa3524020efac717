"""Findings about the slot and the replica identities, which a relay by logical decoding needs of PostgreSQL."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final

from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache.exceptions import RelayError
from aiomodelcache.inspection.diagnosis import Finding
from aiomodelcache.open_cache import OpenCache
from aiomodelcache.relay.captured import CapturedTable, captured_tables
from aiomodelcache.relay.stream.identity import Identity, identities
from aiomodelcache.relay.stream.slot import SlotState, slot_name, slot_state

NEARLY: Final = 0.5
"""Fraction of ``relay_slot_limit`` that a slot may keep. Beyond it, the relay may soon give it up."""


async def replication_findings(cache: OpenCache) -> list[Finding]:
    """Returns the findings for PostgreSQL's connections with relayed models.

    With triggers as the source, only a slot that was left behind is one.
    """
    findings: list[Finding] = []
    for connection, tables in captured_tables(cache).items():
        client = next(schema.client for schema in cache.connections if schema.connection == connection)
        if client.capabilities.dialect != "postgres":
            continue
        if cache.config.relay_source == "pgoutput":
            findings += await _of_stream(client, tables, cache.config.relay_slot_limit)
        else:
            with suppress(RelayError):  # no server that decodes
                findings += of_left_slot(connection, await slot_state(client, await slot_name(client)))
    return findings


async def _of_stream(client: BaseDBAsyncClient, tables: Sequence[CapturedTable], limit: int) -> list[Finding]:
    try:
        state = await slot_state(client, await slot_name(client))
        return [*of_slot(client.connection_name, state, limit), *of_identities(await identities(client, tables))]
    except RelayError as error:
        return [Finding("error", "replication", str(error), "Correct it, or use triggers.")]


def of_slot(connection: str, slot: SlotState, limit: int) -> list[Finding]:
    """Returns what the state of a slot shows. ``limit``: the bytes that it may keep."""
    found = [Finding("ok", "slot", f"{connection}: the slot keeps {slot.kept / 1024**2:,.0f} MB of WAL")]
    if not slot.exists:
        found = [Finding("ok", "slot", f"{connection}: there is none, until a relay has started")]
    elif slot.is_lost:
        text = f"{connection}: the server has removed WAL that the slot needs, so the relay will create it anew"
        found = [Finding("warning", "slot", text, "Let a relay run always, or raise max_slot_wal_keep_size.")]
    elif slot.kept > NEARLY * limit:
        text = (
            f"{connection}: the slot keeps {slot.kept / 1024**2:,.0f} MB of WAL, of {limit / 1024**2:,.0f} that it may"
        )
        remedy = "Let a relay run always, and end transactions that stay open, or raise relay_slot_limit."
        found = [Finding("warning", "slot", text, remedy)]
    if slot.server_limit == "-1":
        text = f"{connection}: while no relay runs, the slot keeps WAL until the disk is full"
        remedy = "Set a limit in the server, which gives up the slot and not the disk:"
        paste = ("ALTER SYSTEM SET max_slot_wal_keep_size = '20GB'", "SELECT pg_reload_conf()")
        found.append(Finding("warning", "slot limit", text, remedy, paste))
    return found


def of_left_slot(connection: str, slot: SlotState) -> list[Finding]:
    """Returns whether a slot keeps WAL for a relay that does not read it."""
    if not slot.exists or slot.active:
        return []
    text = f"{connection}: the slot {slot.name} keeps {slot.kept / 1024**2:,.0f} MB of WAL, and no relay reads it"
    remedy = "Set relay_source = pgoutput, or remove it:"
    return [Finding("warning", "slot", text, remedy, ("aiomodelcache publication remove",))]


def of_identities(found: Iterable[Identity]) -> list[Finding]:
    """Returns which tables are invalidated as a whole by each UPDATE and DELETE."""
    return [
        Finding(
            "warning",
            "replica identity",
            f"each UPDATE and DELETE of {each.place} invalidates the whole table, as the old row is not known",
            "Have PostgreSQL log the old values of the keys:",
            (each.remedy.removeprefix("run "),),
        )
        for each in found
        if each.effect == "the whole table"
    ]
