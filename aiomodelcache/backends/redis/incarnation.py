"""Tells one life of a Redis server from the next: in a new one it may hold older data than in the last.

Owns what a new connection asks the server. Must not know which commands are sent afterwards.

A server that comes back from a snapshot, or a replica that is promoted, has not got the writes of the last
moments before: entries that were invalidated are there again. Both have a new identity. The run id is
another after every start, and the replication id also after every promotion, even of a server that was
master before and has run on since. All processes see the same ids, so that they need not talk to each other.

Keys do not depend on the life, so that a writer names the same key in every one. Versions do: each begins
with the life in which it was made, and in another life it is as good as absent. So every row and list from
before is a miss, because it carries an epoch from before; and so is one that is filled now by a reader who
asked for the lease, or read the stamp, before.
"""

import hashlib
import inspect
import logging
import re
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeGuard
from weakref import WeakSet

from redis.exceptions import ResponseError

from aiomodelcache.encoding.layout import VERSION

logger: Final = logging.getLogger("aiomodelcache")

_LIFE_SIZE: Final = 8
_VERSION: Final = VERSION[0]
_IDS: Final = re.compile(rb"^(?:run_id|master_replid):(\w+)", re.MULTILINE)


class ServerIncarnation:
    """The life that the connections of one backend lead to."""

    def __init__(self, where: str) -> None:
        self.current = b""
        """Some bytes that stand for it. Empty if it is not known: then every version is believed."""
        self._now = VERSION
        self._where = where
        self._connections: WeakSet[Any] = WeakSet()
        self._warned = False

    def on_connect(self, theirs: Callable[..., Any] | None) -> Callable[[Any], Coroutine[Any, Any, None]]:
        """Returns what redis-py shall call for each new connection, in place of ``theirs`` or its own."""

        async def connected(connection: Any) -> None:
            if theirs is None:
                await connection.on_connect()
            else:
                answer = theirs(connection)
                if inspect.isawaitable(answer):
                    await answer
            await self._on_new_connection(connection)

        return connected

    async def _on_new_connection(self, connection: Any) -> None:
        life = await self._ask(connection)
        if life != self.current:
            # Replies are judged by the life that the newest connection showed: there must be no others.
            for other in self._connections - {connection}:
                _cut(other)
            self._connections.clear()
            self._begin(life)
        self._connections.add(connection)

    async def ask_again(self, pool: Any) -> None:
        """Finds out whether the life has changed without an end of the connections.

        So it does when a server without replicas forgets those that it had: connections made since then
        show another life, and versions of that are found.
        """
        connection = await pool.get_connection()
        try:
            life = await self._ask(connection)
            if life != self.current:
                self._begin(life)
        finally:
            await pool.release(connection)

    def _begin(self, life: bytes) -> None:
        if self.current and life:
            logger.warning(
                "aiomodelcache: Redis at %s was restarted or replaced; entries from before are not used", self._where
            )
        self.current = life
        self._now = VERSION + life

    async def _ask(self, connection: Any) -> bytes:
        sections = ("server", "replication")
        for section in sections:
            await connection.send_command("INFO", section, check_health=False)
        ids: list[bytes] = []
        for _ in sections:
            try:
                ids += _IDS.findall(await connection.read_response())
            except ResponseError as error:  # not permitted, or not known
                if str(error).startswith("BUSY"):  # only now
                    raise
        if ids:
            return hashlib.blake2b(b":".join(ids), digest_size=_LIFE_SIZE).digest()
        if not self._warned:
            self._warned = True
            logger.warning(
                "aiomodelcache: Redis at %s does not answer INFO, so that entries which come back with an old "
                "snapshot, or with a replica that lagged, are believed; permit it to this user",
                self._where,
            )
        return b""

    def is_stale_version(self, value: bytes | None) -> TypeGuard[bytes]:
        """Whether ``value`` is a version of another life."""
        return value is not None and value[:1] == VERSION and not value.startswith(self._now)

    def mask_stale_versions(self, values: list[bytes | None]) -> list[bytes | None]:
        """Makes versions of other lives absent. On the way of every hit, therefore written out."""
        now = self._now
        return [None if value and value[0] == _VERSION and not value.startswith(now) else value for value in values]


def _cut(connection: Any) -> None:
    """Ends a connection at once; who waits for a reply on it gets an error."""
    writer = connection._writer
    if writer is not None:
        writer.transport.abort()
