"""Hash slots: of keys and commands, and as ``CLUSTER SLOTS`` lists them. Pure functions."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, cast

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import AskError, InvalidResponse

from aiomodelcache.backends.redis.connection import Command
from aiomodelcache.encoding.messages import described

SLOTS: Final = REDIS_CLUSTER_HASH_SLOTS
"""Number of hash slots of every Cluster."""
Address: TypeAlias = tuple[str, int]
"""The host and the port of a node."""
Remap: TypeAlias = Callable[[Address], Address]
"""Returns the address at which a node is reached that the Cluster knows by another one."""
_SCRIPTS: Final = ("EVALSHA", "EVAL")
_UNKNOWN: Final = (None, b"", b"?")
"""A host in place of which the one counts that has answered."""

slot_of: Final = cast("Callable[[bytes], int]", key_slot)
"""Returns the slot of a key."""


def key_of(command: Command) -> bytes:
    """Returns the first key of a command."""
    return cast("bytes", command[3 if command[0] in _SCRIPTS else 1])


def address_in(redirection: AskError) -> Address:
    """Returns the address in MOVED or ASK. The host may be empty."""
    return cast("Any", redirection).host, redirection.port


@dataclass(frozen=True, slots=True)
class SlotRange:
    """Successive slots, from ``first`` to ``last``, the node that serves them, and its replicas."""

    first: int
    last: int
    primary: Address
    replicas: tuple[Address, ...]


def name_of(address: Address) -> str:
    """Returns an address as messages show it."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_slots(reply: Any, host: str, remap: Remap) -> list[SlotRange]:
    """Returns the ranges in a reply to ``CLUSTER SLOTS`` from ``host``. Raises ``InvalidResponse``."""
    try:
        listed = [(first, last, _addresses(nodes, host, remap)) for first, last, *nodes in reply]
        return [
            SlotRange(first, last, primary, tuple(replicas))
            for first, last, (primary, *replicas) in listed
            if 0 <= first <= last < SLOTS
        ]
    except (TypeError, ValueError, IndexError) as error:
        raise InvalidResponse(f"{described(reply)} for CLUSTER SLOTS") from error


def _addresses(nodes: list[Any], host: str, remap: Remap) -> list[Address]:
    return [remap((host if name in _UNKNOWN else name.decode(), int(port))) for name, port, *_ in nodes]
