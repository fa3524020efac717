"""One node of a Cluster: its connections and its incarnation. Must not know which slots it serves."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from aiomodelcache.backends.redis.cluster.clock import NodeClock
from aiomodelcache.backends.redis.cluster.slots import Address, name_of
from aiomodelcache.backends.redis.connection import Command, ReconnectingConnection, Replies, pack_commands
from aiomodelcache.backends.redis.errors import FAILURES
from aiomodelcache.backends.redis.incarnation import IDENTIFY, ServerIncarnation
from aiomodelcache.backends.redis.replicas import Replication


@dataclass(frozen=True, slots=True)
class ConnectionSettings:
    """Makes connections as redis-py does: TLS, names and passwords, timeouts. They resend nothing."""

    connection_class: Callable[..., Any]
    options: Mapping[str, Any]

    @property
    def timeout(self) -> float:
        """Maximum seconds to wait for a reply."""
        return float(self.options["socket_timeout"])

    def connection(
        self, address: Address, incarnation: ServerIncarnation, on_connect: Callable[..., Any] | None = None
    ) -> Any:
        """Returns a connection to a node that is not connected yet. Raises ``TypeError`` if an option is unknown.

        ``on_connect`` is called on a new connection in place of redis-py's own callback.
        """
        host, port = address
        return self.connection_class(
            **self.options, host=host, port=port, redis_connect_func=incarnation.on_connect(on_connect)
        )


class Node:
    """A node that serves slots, or that is asked for them."""

    __slots__ = (
        "address",
        "clock",
        "failing",
        "incarnation",
        "lost_slots",
        "name",
        "reading",
        "replication",
        "tracking",
        "writing",
    )

    def __init__(self, address: Address, settings: ConnectionSettings) -> None:
        self.address = address
        self.name = name_of(address)
        self.incarnation = ServerIncarnation(self.name)
        self.replication = Replication(self.name)
        self.clock = NodeClock()
        make = partial(settings.connection, address, self.incarnation, self.clock.on_connect)
        self.reading, self.writing = ReconnectingConnection(make), ReconnectingConnection(make)
        self.tracking = ReconnectingConnection(make)
        """The connection on which the node reports changes of the keys that are read there."""
        self.failing = False
        """True if the last request failed. Its slots may have another node by now."""
        self.lost_slots = False
        """True if it has named another node for a slot. It may be a replica then, and come back with other contents."""

    def __repr__(self) -> str:
        return f"<Node {self.name}>"

    async def send(self, commands: Sequence[Command]) -> Replies:
        """Sends commands in one request. Returns the replies, errors of the server among them."""
        try:
            replies = await self.writing.send(pack_commands(commands), len(commands))
        except FAILURES:
            self.failing = True
            raise
        self.failing = False
        return replies

    async def check_identity(self) -> None:
        """Asks the node for its identity again."""
        self.incarnation.check_identity(await self.send(IDENTIFY))

    async def retire(self) -> None:
        """Disconnects when all requests so far are answered."""
        for connection in (self.reading, self.tracking, self.writing):
            if connection.is_open:
                with suppress(*FAILURES):
                    await connection.send(pack_commands([("TIME",)]), 1)  # PING needs a permission more
        await self.aclose()

    async def aclose(self) -> None:
        """Disconnects."""
        for connection in (self.reading, self.tracking, self.writing):
            await connection.aclose()
