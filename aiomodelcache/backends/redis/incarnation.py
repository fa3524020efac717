"""Detection of another incarnation of a Redis server, which may hold older data than the one before.

Owns the identity that each new connection asks the server for. Must not know which commands are sent afterwards.

A server that is restored from a snapshot, or a replica that is promoted, lacks the last writes. Entries that these
writes invalidated are back. Such a server has a new identity. Its run id changes at every start. Its replication id
also changes at every promotion, even of a former master that has kept running. All processes see the same ids, so they
need not talk to each other.

While a server runs, SWAPDB, RESTORE and DEBUG RELOAD bring back what writes have invalidated since. So the number of
such commands and the number of the database belong to the identity, too. Contents of another database have another
identity at once. Contents that come back have another one for new connections, and for a backend that has made a
version since.

Keys do not depend on the incarnation, so a writer names the same key in each of them. Versions do: each begins with the
identity of the incarnation that made it, and counts as absent in any other. So every row and list of an earlier
incarnation is a miss, because it carries an earlier epoch. A reader that asked for its lease, or read the stamp, in an
earlier incarnation produces a miss as well when it fills now.
"""

import hashlib
import inspect
import logging
import re
from collections.abc import Callable, Coroutine, Sequence
from itertools import repeat
from typing import Any, Final, TypeGuard, cast
from weakref import WeakSet

from redis.exceptions import ResponseError

from aiomodelcache.encoding.layout import ABSENT, STALE, VALUE, VERSION
from aiomodelcache.encoding.together import KnownKeys

logger: Final = logging.getLogger("aiomodelcache")

_IDENTITY_SIZE: Final = 8
"""Number of bytes of an identity."""
_AFTER_VERSIONS: Final = bytes([VERSION[0] + 1])
"""Sorts after every version, and before entries, leases and intents. A comparison takes less than an index."""
_OF_ENTRIES: Final = (VALUE, ABSENT, STALE)
_PARTS: Final = re.compile(
    rb"^(?:(?:run_id|master_replid):\w+|cmdstat_(?:swapdb|restore|debug):calls=\d+)", re.MULTILINE
)
KNOWN_VERSIONS: Final = 1 << 13
"""Maximum number of versions of one incarnation that are remembered. Beyond it, all are compared again."""
IDENTIFY: Final = (("INFO", "server"), ("INFO", "replication"), ("INFO", "commandstats"))
"""The commands whose replies make an identity."""


class ServerIncarnation:
    """The incarnation of the server that the connections of one backend lead to."""

    def __init__(self, where: str) -> None:
        self.current = b""
        """The identity of the incarnation. Empty if it is not known: then every version is used."""
        self._current_prefix = VERSION
        self._made: set[bytes] = set()
        """Versions of this incarnation, because to find them costs less than to compare their beginnings."""
        self._database = b""
        self._where = where
        self._connections: WeakSet[Any] = WeakSet()
        self._warned = False

    def on_connect(self, client_callback: Callable[..., Any] | None) -> Callable[[Any], Coroutine[Any, Any, None]]:
        """Returns the callback for redis-py's new connections.

        It calls ``client_callback``, or redis-py's own if that is None, and then asks for the server's identity.
        """

        async def connected(connection: Any) -> None:
            if client_callback is None:
                await connection.on_connect()
            else:
                answer = client_callback(connection)
                if inspect.isawaitable(answer):
                    await answer
            await self._on_new_connection(connection)

        return connected

    async def _on_new_connection(self, connection: Any) -> None:
        self._database = str(connection.db).encode()
        identity = self._identity_of(await ask_identity(connection))
        if identity != self.current:
            # Replies are judged by the identity that the newest connection showed. Connections that showed another one
            # must not deliver replies any more.
            for other in self._connections - {connection}:
                _abort(other)
            self._connections.clear()
            self._change_to(identity)
        self._connections.add(connection)

    def check_identity(self, replies: Sequence[object]) -> None:
        """Takes over the identity that open connections show by their replies to ``IDENTIFY``.

        It changes when other contents come into the database. It also changes when a server without replicas discards
        the history that it kept for former replicas. Connections made since then show another identity, and versions
        with that identity are found.
        """
        identity = self._identity_of(replies)
        if identity != self.current:
            self._change_to(identity)

    def _change_to(self, identity: bytes) -> None:
        if self.current and identity:
            logger.warning(
                "aiomodelcache: Redis at %s was restarted, replaced or restored; entries from before are not used",
                self._where,
            )
        self.current = identity
        self._current_prefix = VERSION + identity
        self._made.clear()

    def _identity_of(self, replies: Sequence[object]) -> bytes:
        parts = [self._database]
        for reply in replies:
            if isinstance(reply, bytes):
                parts += _PARTS.findall(reply)
            elif str(reply).startswith("BUSY"):  # a temporary state; others are not permitted, or not known
                raise cast("ResponseError", reply)
        if parts[1:]:
            return hashlib.blake2b(b" ".join(parts), digest_size=_IDENTITY_SIZE).digest()
        if not self._warned:
            self._warned = True
            logger.warning(
                "aiomodelcache: Redis at %s does not answer INFO, so that old entries are used after the restore of a "
                "snapshot or the promotion of a lagging replica; permit INFO to this user",
                self._where,
            )
        return b""

    def is_stale_version(self, value: bytes | None) -> TypeGuard[bytes]:
        """Returns True if ``value`` is a version of another incarnation."""
        return value is not None and value[:1] == VERSION and not value.startswith(self._current_prefix)

    def has_made(self, versions: Sequence[Any]) -> bool:
        """Returns True if all of these are versions of this incarnation. False if one is absent."""
        made = self._made
        if made.issuperset(versions):
            return True
        try:
            if not all(map(bytes.startswith, versions, repeat(self._current_prefix))):
                return False
        except TypeError:  # one is None
            return False
        if len(made) >= KNOWN_VERSIONS:
            made.clear()
        made.update(versions)
        return True

    def mask_stale_versions(self, values: list[bytes | None]) -> list[bytes | None]:
        """Replaces versions of other incarnations by None. Written out, because every hit runs it."""
        now = self._current_prefix
        for value in values:
            if value is not None and value < _AFTER_VERSIONS and not value.startswith(now):  # or empty, or a claim
                return [None if self.is_stale_version(each) else each for each in values]
        return values

    def mask_known(self, known: KnownKeys, values: list[bytes | None]) -> list[bytes | None]:
        """Does the same for keys that are read again. A key that has held an entry never holds a version."""
        if len(values) != len(known):
            return self.mask_stale_versions(values)
        now = self._current_prefix
        for at in known.doubtful:
            value = values[at]
            if value is None or not value.startswith(now):
                known.doubtful = [at for at in known.doubtful if (values[at] or b"")[:1] not in _OF_ENTRIES]
                return self.mask_stale_versions(values)
        return values

    def mask_replies(self, replies: list[Any]) -> list[Any]:
        """Replaces versions of other incarnations by None in replies to GET and MGET, errors among them."""
        return [
            self.mask_stale_versions(cast("list[bytes | None]", reply))
            if isinstance(reply, list)
            else None
            if isinstance(reply, bytes) and self.is_stale_version(reply)
            else reply
            for reply in replies
        ]


def _abort(connection: Any) -> None:
    """Closes a connection at once. Requests that wait for a reply on it fail."""
    writer = connection._writer
    if writer is not None:
        writer.transport.abort()


async def ask_identity(connection: Any) -> list[object]:
    """Sends ``IDENTIFY`` on one of redis-py's connections. Returns the replies, errors of the server among them."""
    for command in IDENTIFY:
        await connection.send_command(*command, check_health=False)
    replies: list[object] = []
    for _ in IDENTIFY:
        try:
            replies.append(await connection.read_response())
        except ResponseError as error:
            replies.append(error)
    return replies
