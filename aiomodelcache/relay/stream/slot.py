"""The replication slot: it keeps the WAL for a relay, until the relay has invalidated what it says.

The relay's own table says how far that is, and has a name for the slot that is new when the slot is. So a relay notices
a slot that was dropped, recreated, or moved on by another program: it is further than recorded. It is not trusted then,
but created again, and the models are cleared. Therefore a position is recorded before it is confirmed to the server.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache.encoding.layout import new_token
from aiomodelcache.exceptions import RelayError
from aiomodelcache.observe.stats import logger
from aiomodelcache.relay.stream.publication import STREAM
from aiomodelcache.relay.triggers.definitions import NAME_PREFIX, literal, select, tag

MIN_VERSION: Final = 140_000
"""The oldest version of PostgreSQL whose plugin sends the relay's own messages."""
TERMINATE_LIMIT: Final = 5.0
"""Maximum seconds until a connection ends that was told to. Beyond it, the slot stays in use, and dropping it fails."""
RELEASE_POLL_INTERVAL: Final = 0.02
"""Seconds between two looks at a slot that is still in use."""

_PLACE: Final = """
    SELECT oid::bigint, current_schema()::text AS schema FROM pg_catalog.pg_database WHERE datname = current_database()
"""
_STATE: Final = """
    SELECT pg_catalog.pg_is_in_recovery() AS recovers, pg_catalog.current_setting('wal_level') AS wal_level,
        pg_catalog.current_setting('server_version_num')::int AS version,
        pg_catalog.current_setting('max_slot_wal_keep_size') AS server_limit,
        slot_name IS NOT NULL AS found, coalesce(active, false) AS active, wal_status::text AS wal_status,
        confirmed_flush_lsn::text AS confirmed,
        coalesce(plugin = 'pgoutput' AND database = current_database() AND NOT temporary, true) AS is_own,
        CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN
            coalesce(pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), restart_lsn), 0)::bigint
        END AS kept
    FROM (VALUES (1)) one LEFT JOIN pg_catalog.pg_replication_slots ON slot_name = {}
"""


class SlotState(NamedTuple):
    """The slot as the server shows it."""

    name: str
    exists: bool
    active: bool
    is_lost: bool
    """True if the server has removed WAL that the slot needs."""
    confirmed: int
    """The position up to which changes are not sent again."""
    kept: int
    """The bytes of WAL that the server keeps for the slot."""
    server_limit: str
    """The server's ``max_slot_wal_keep_size``."""

    def fault(self, position: int | None, limit: int) -> str | None:
        """Returns why changes may be missing in the slot; None if none are.

        ``position``: the position that is recorded. ``limit``: the bytes that may be kept.
        """
        if not self.exists:
            return "there is no slot"
        if self.is_lost:
            return "the server has removed WAL that the slot needs"
        if position is None:
            return "the content of the slot is not recorded"
        if self.confirmed > position:
            return "another program has dropped and recreated the slot, or moved it on"
        if self.kept > limit:
            return f"the slot keeps more than {limit:,} bytes of WAL"
        return None


async def slot_name(client: BaseDBAsyncClient) -> str:
    """Returns the name of a connection's slot. All databases of a server share these names."""
    [place] = await select(client, _PLACE)
    return f"{NAME_PREFIX}{place['oid']}_{tag(str(place['schema']))}"


async def slot_state(client: BaseDBAsyncClient, name: str) -> SlotState:
    """Returns the state of a slot.

    Raises ``RelayError`` for a replica, and for a server that does not decode or has another slot of this name.
    """
    [row] = await select(client, _STATE.format(literal(name)))
    _check(client.connection_name, name, row)
    confirmed = lsn_of(row["confirmed"]) if row["confirmed"] is not None else 0
    is_lost = row["wal_status"] == "lost"
    return SlotState(name, row["found"], row["active"], is_lost, confirmed, int(row["kept"]), str(row["server_limit"]))


def _check(connection: str, name: str, row: Mapping[str, Any]) -> None:
    if row["recovers"]:
        raise RelayError(
            f"{connection}: the database is a replica or recovers, so its slot cannot be read: connect the relay to "
            "the primary."
        )
    if row["version"] < MIN_VERSION:
        raise RelayError(f"{connection}: the source pgoutput needs PostgreSQL 14 or newer: use triggers.")
    if row["wal_level"] != "logical":
        raise RelayError(
            f"{connection}: the server's wal_level is {row['wal_level']}: set wal_level = logical, and restart it."
        )
    if not row["is_own"]:
        raise RelayError(f"{connection}: the replication slot {name} is one of another program: drop or rename it.")


async def drop_slot(client: BaseDBAsyncClient, state: SlotState) -> None:
    """Drops the slot, if it exists. Ends the connection that reads it. Raises ``RelayError``."""
    if state.exists:
        await end_reader(client, state.name)
        await _run(client, state.name, "dropped", f"SELECT pg_drop_replication_slot({literal(state.name)})")


async def remove_slot(client: BaseDBAsyncClient) -> list[str]:
    """Drops a connection's slot, unless a relay reads it. Returns its name. Raises ``RelayError``."""
    name = await slot_name(client)
    if not await select(client, f"SELECT 1 FROM pg_catalog.pg_replication_slots WHERE slot_name = {literal(name)}"):
        return []
    await _run(client, name, "dropped", f"SELECT pg_drop_replication_slot({literal(name)})")
    return [name]


async def renew_slot(client: BaseDBAsyncClient, name: str, why: str) -> None:
    """Creates the slot, in place of the present one if there is one, and notes that it is a new one.

    Waits for the end of all transactions that have written something. Raises ``RelayError``.
    """
    state = await slot_state(client, name)
    logger.warning(
        "aiomodelcache: the relay of %s creates the replication slot %s: %s",
        client.connection_name,
        name,
        why,
    )
    await drop_slot(client, state)
    create = f"SELECT lsn::text FROM pg_create_logical_replication_slot({literal(name)}, 'pgoutput')"
    [row] = await _run(client, name, "created", create)
    slot = literal(new_token().hex())
    any_client: Any = client
    await any_client.execute_query(f"UPDATE {STREAM} SET slot = {slot}, position = {literal(row['lsn'])}::pg_lsn")


async def end_reader(client: BaseDBAsyncClient, name: str) -> None:
    """Ends the connection that reads the slot, such as that of a relay that hangs. Raises ``RelayError``."""
    reader = f"FROM pg_catalog.pg_replication_slots WHERE slot_name = {literal(name)} AND active"
    end = asyncio.get_running_loop().time() + TERMINATE_LIMIT
    while await _run(client, name, "freed", f"SELECT pg_catalog.pg_terminate_backend(active_pid) {reader}"):
        if asyncio.get_running_loop().time() > end:
            return
        await asyncio.sleep(RELEASE_POLL_INTERVAL)


async def _run(client: BaseDBAsyncClient, name: str, what: str, statement: str) -> Any:
    try:
        return await select(client, statement)
    except Exception as error:  # of any driver; it quotes no row
        needs = ". The user needs REPLICATION: ALTER ROLE ... REPLICATION" if "permission" in str(error) else ""
        raise RelayError(
            f"{client.connection_name}: the replication slot {name} cannot be {what}: {error}{needs}."
        ) from error


def lsn_of(text: str) -> int:
    """Returns a position in the WAL as a number."""
    high, _, low = text.partition("/")
    return (int(high, 16) << 32) + int(low, 16)


def lsn_text(lsn: int) -> str:
    """Returns a position in the WAL as PostgreSQL writes it."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"
