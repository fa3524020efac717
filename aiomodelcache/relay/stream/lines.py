"""The lines of a slot: what it sends, as lines of a change table, to be deleted when they are dealt with.

A position is confirmed to the server when all lines of the transactions before it are deleted. The stream alone does
not say that nothing is left out. So the relay writes a message into the WAL, in a transaction of its own. When the
message is received, everything that was committed before it has been.
"""

import asyncio
import itertools
from collections import deque
from collections.abc import Sequence
from time import monotonic
from typing import Any, Final

from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache.encoding.layout import new_token
from aiomodelcache.exceptions import RelayError
from aiomodelcache.relay.captured import CapturedTable
from aiomodelcache.relay.lines import ALWAYS, Line
from aiomodelcache.relay.postgres_lines import CAPTURED, SHAPE
from aiomodelcache.relay.stream.messages import (
    Begin,
    Commit,
    Emitted,
    MalformedMessage,
    Relation,
    RowChange,
    Truncated,
    parse_message,
)
from aiomodelcache.relay.stream.publication import STREAM, publication_name
from aiomodelcache.relay.stream.replication import ReplicationFailure, ReplicationStream, Sent
from aiomodelcache.relay.stream.rows import Received, ReceivedRows
from aiomodelcache.relay.stream.slot import (
    SlotState,
    drop_slot,
    end_reader,
    lsn_of,
    lsn_text,
    renew_slot,
    slot_name,
    slot_state,
)
from aiomodelcache.relay.triggers.definitions import literal, select
from aiomodelcache.relay.triggers.postgres import current_schema, relation_name

MESSAGE_PREFIX: Final = "aiomodelcache"
"""The prefix of the relay's own messages in the WAL."""
MAX_MESSAGE_WAIT: Final = 1.0
"""Maximum seconds that one read waits for the relay's own message. Beyond it, the next read waits."""
MAX_MESSAGE_WAIT_WITH_LINES: Final = 0.05
"""The same while there are lines, which would wait as well."""
MESSAGES_PER_TURN: Final = 500
"""Maximum number of messages that are read in one turn of the event loop. Beyond it, other tasks run first."""
TAKE_OVER: Final = 0.5
"""Seconds that another connection may still read the slot. Beyond it, the connection is ended."""
RETRY_INTERVAL: Final = 0.05
"""Seconds between two attempts to read a slot that another connection reads."""

_GUARD: Final = f"""{CAPTURED}
    SELECT slot, position::text, pg_catalog.md5(pg_catalog.concat_ws('|', {SHAPE},
        captured, owner, slot,
        (SELECT string_agg(concat_ws(' ', oid, xmin), ',') FROM pg_catalog.pg_publication WHERE pubname = {{}}),
        (SELECT string_agg(concat_ws(' ', r.oid, r.xmin), ',' ORDER BY r.oid) FROM pg_catalog.pg_publication_rel r
            WHERE prpubid = (SELECT oid FROM pg_catalog.pg_publication WHERE pubname = {{}})),
        (SELECT string_agg(concat_ws(' ', indexrelid, indisreplident), ',' ORDER BY indexrelid)
            FROM pg_catalog.pg_index JOIN captured ON indrelid = relation)
    )) AS guard FROM {STREAM}
"""
_MARK: Final = f"""
    UPDATE {STREAM} SET position = greatest(position, {{}}::pg_lsn) WHERE slot = {{}} AND {{}}
    RETURNING set_config('synchronous_commit', 'local', true),
        pg_logical_emit_message(true, '{MESSAGE_PREFIX}', {{}}) AS lsn
"""


class StreamLines:
    """The changes of one PostgreSQL database, by logical decoding. ``limit``: the bytes that the slot may keep."""

    position: tuple[int, str] | None = None

    def __init__(self, client: BaseDBAsyncClient, tables: Sequence[CapturedTable], limit: int) -> None:
        self.fault: str | None = None
        """Why changes may be missing in the slot, as ``guard`` has found; None if none are."""
        self.left_out = True
        """False if everything that was committed before the last ``mark`` is in what was read."""
        self._client: Any = client
        self._names = ", ".join(f"({literal(relation_name(table))})" for table in tables)
        self._rows = ReceivedRows(client, tables)
        self._limit = limit
        self._slot = ""
        self._publication = ""
        self._known_as: str | None = None
        """The name that the relay's own table has for the slot, which a new slot changes."""
        self._stream: ReplicationStream | None = None
        self._mark = b""
        """The content of the message that is waited for."""
        self._clear()

    def _clear(self) -> None:
        """Forgets what was received. The slot sends it again."""
        self._held: dict[int, Received] = {}
        """The changes that were received and are not deleted, by their ids."""
        self._relations: dict[int, Relation] = {}
        self._last = 0
        """The last id: the position of the transaction's COMMIT, and a number. It is the same when it is sent again."""
        self._committed = 0.0
        """The time of the last transaction's COMMIT, by the monotonic clock."""
        self._commits: deque[tuple[int, int]] = deque()
        """The transactions that were received: the last id at their end, and their position."""
        self._position = 0
        """All lines up to this position are deleted."""

    # The catalogue and the slot --------------------------------------------------------------------

    async def guard(self) -> tuple[str, str | None]:
        """Returns what identifies the server's run, the catalogue and the slot. Raises ``RelayError``."""
        state = await self._state()  # before the position: another relay may move both on
        publication = literal(self._publication)
        rows = await select(self._client, _GUARD.format(self._names, publication, publication))
        row = rows[0] if rows else {"guard": "", "slot": None, "position": None}
        self._known_as = row["slot"]
        self.fault = state.fault(None if row["position"] is None else lsn_of(row["position"]), self._limit)
        return str(row["guard"]), self.fault

    async def renew(self, why: str) -> None:
        """Creates the slot anew. Raises ``RelayError``."""
        await self.close()
        await renew_slot(self._client, self._slot, why)

    async def limit_backlog(self) -> None:
        """Drops the slot if it keeps more WAL than it may. The next ``guard`` notices."""
        state = await self._state()
        if state.exists and state.kept > self._limit:
            await self.close()
            await drop_slot(self._client, state)

    def reset(self, tables: Sequence[CapturedTable]) -> None:
        """Forgets what was learned of the catalogue. Changes of these tables are read from now on."""
        self._rows.reset(tables)

    async def _state(self) -> SlotState:
        if not self._slot:
            self._publication = publication_name(await current_schema(self._client))
            self._slot = await slot_name(self._client)
        return await slot_state(self._client, self._slot)

    async def mark(self, condition: str) -> None:
        """Confirms the deleted lines, and writes a message into the WAL if the condition holds, which is SQL.

        Raises ``RelayError`` if it does not, or if the slot is another one by now.
        """
        self._advance()
        token = new_token().hex()
        position = literal(lsn_text(self._position))
        statement = _MARK.format(position, literal(self._known_as or ""), condition, literal(token))
        if not await select(self._client, statement):
            raise RelayError(f"{self._client.connection_name}: the slot is another relay's, or a new one.")
        self._mark, self.left_out = token.encode(), True
        if self._stream is not None and self._position:
            try:
                self._stream.confirm(self._position)
            except ReplicationFailure:  # another relay reads the slot by now
                await self.close()

    # Reading ---------------------------------------------------------------------------------------

    async def read(self, limit: int, *, whole: bool = False) -> list[Line]:
        """Returns lines of up to ``limit`` changes, in the order of the COMMITs. Raises ``RelayError``.

        Waits for the relay's own message if it was marked, and opens a stream again that has ended meanwhile. With
        ``whole``, each line names its whole table.
        """
        is_open = self._stream is not None
        try:
            return await self._read(limit, whole)
        except ReplicationFailure as error:
            if error.is_lasting or not (is_open and self.left_out):
                raise
        await self.close()
        return await self._read(limit, whole)

    async def _read(self, limit: int, whole: bool) -> list[Line]:
        stream = await self._open()
        loop = asyncio.get_running_loop()
        began = loop.time()
        await self._receive(stream, limit)
        while self.left_out and len(self._held) < limit:
            left = began + (MAX_MESSAGE_WAIT_WITH_LINES if self._held else MAX_MESSAGE_WAIT) - loop.time()
            if left <= 0 or not await stream.wait(left):
                break
            await self._receive(stream, limit)
        return await self._rows.lines(dict(itertools.islice(self._held.items(), limit)), whole=whole)

    async def delete(self, ids: Sequence[int], condition: str = ALWAYS) -> None:
        """Deletes lines. The next ``mark`` confirms it, if the condition holds by then."""
        for number in ids:
            self._held.pop(number, None)

    async def wait(self, timeout: float) -> None:
        """Waits until there are lines."""
        stream = self._stream
        if stream is None:
            await asyncio.sleep(timeout)
            return
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        await self._receive(stream, 1)
        while not self._held and (left := end - loop.time()) > 0:
            await stream.wait(left)
            await self._receive(stream, 1)

    async def close(self) -> None:
        """Ends the stream. What it has sent and was not confirmed, it sends again."""
        stream, self._stream = self._stream, None
        self._clear()
        if stream is not None:
            stream.close()

    async def _open(self) -> ReplicationStream:
        if self._stream is None:
            self._clear()
            stream = await self._start()
            try:
                # Now that this connection reads the slot, no other program can replace it or move it on.
                known_as = self._known_as
                _, fault = await self.guard()
                if fault or self._known_as != known_as:
                    raise RelayError(f"{self._client.connection_name}: {fault or 'the slot is a new one'}.")
            except BaseException:
                stream.close()
                raise
            self._stream = stream
        return self._stream

    async def _start(self) -> ReplicationStream:
        """Begins to read the slot, and ends another connection that does."""
        loop = asyncio.get_running_loop()
        end = loop.time() + TAKE_OVER
        while True:
            try:
                return await ReplicationStream.open(self._client, self._slot, self._publication)
            except ReplicationFailure as error:
                if not error.is_in_use:
                    await self._fail(error)
            if loop.time() > end:
                await end_reader(self._client, self._slot)
            await asyncio.sleep(RETRY_INTERVAL)

    async def _fail(self, error: ReplicationFailure) -> None:
        """Raises the error. If the slot would end there again, creates it anew before."""
        if error.is_lasting:
            await self.renew(str(error))
        raise error

    async def _receive(self, stream: ReplicationStream, limit: int) -> None:
        """Takes what has arrived, until there are ``limit`` changes."""
        try:
            for number in itertools.count(1):
                sent = stream.read() if len(self._held) < limit else None
                if sent is None:
                    return
                self._take(sent)
                if number % MESSAGES_PER_TURN == 0:
                    await asyncio.sleep(0)
        except ReplicationFailure as error:
            await self._fail(error)
        except MalformedMessage as error:
            text = f"{self._client.connection_name}: the slot has sent {error}"
            await self._fail(ReplicationFailure(text, is_lasting=True))

    def _take(self, sent: Sent) -> None:
        match parse_message(sent.data):
            case Begin(lsn, time):
                self._last = lsn << 32
                self._committed = monotonic() - max(0.0, sent.time - time)
            case Relation() as relation:
                self._relations[relation.id] = relation
            case RowChange() as change:
                self._hold(change.relation, change)
            case Truncated(relations):
                for number in relations:
                    self._hold(number, None)
            case Emitted(True, prefix, content) if prefix == MESSAGE_PREFIX and content == self._mark:
                self.left_out = False
            case Commit(lsn):
                self._commits.append((self._last, lsn))
                self._advance()
            case _:
                pass

    def _hold(self, number: int, change: RowChange | None) -> None:
        if number not in self._relations:
            raise MalformedMessage("a change of a table that it has not described")
        self._last += 1
        self._held[self._last] = Received(change, self._relations[number], self._committed)

    def _advance(self) -> None:
        """Moves the position on to the last transaction before the first line that is not deleted."""
        first = next(iter(self._held), None)
        while self._commits and (first is None or self._commits[0][0] < first):
            self._position = self._commits.popleft()[1]
