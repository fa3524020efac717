"""Hash slots: of keys and commands, and as ``CLUSTER SLOTS`` lists them. Pure functions."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, cast

from redis.crc import key_slot
from redis.exceptions import AskError, ConnectionError, InvalidResponse

from aiomodelcache.backends.redis.connection import Command
from aiomodelcache.encoding.messages import described
from aiomodelcache.encoding.partitions import SLOTS

Address: TypeAlias = tuple[str, int]
"""The host and the port of a node."""
Remap: TypeAlias = Callable[[Address], Address]
"""Returns the address at which a node is reached that the Cluster knows by another one."""
_SCRIPTS: Final = ("EVALSHA", "EVAL")
_UNKNOWN: Final = (None, "", "?")
"""A host in place of which the one counts that has answered."""

slot_of: Final = cast("Callable[[bytes], int]", key_slot)
"""Returns the slot of a key."""


def first_key(command: Command) -> bytes:
    """Returns the first key of a command."""
    return cast("bytes", command[3 if command[0] in _SCRIPTS else 1])


def address_in(redirection: AskError, host: str, remap: Remap) -> Address:
    """Returns the address in MOVED or ASK of a node at ``host``. Raises ``ConnectionError`` if ``remap`` fails."""
    return _address(cast("Any", redirection).host, redirection.port, host, remap)


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
    """Returns the ranges in a reply to ``CLUSTER SLOTS`` from ``host``.

    Raises ``InvalidResponse``, or ``ConnectionError`` if ``remap`` fails.
    """
    try:
        listed = [(first, last, _addresses(nodes, host, remap)) for first, last, *nodes in reply]
        return [
            SlotRange(first, last, primary, tuple(replicas))
            for first, last, (primary, *replicas) in listed
            if 0 <= first <= last < SLOTS
        ]
    except (AttributeError, TypeError, ValueError, IndexError) as error:
        raise InvalidResponse(f"{described(reply)} for CLUSTER SLOTS") from error


def _addresses(nodes: list[Any], host: str, remap: Remap) -> list[Address]:
    return [_address(name.decode() if name else None, int(port), host, remap) for name, port, *_ in nodes]


def _address(named: str | None, port: int, host: str, remap: Remap) -> Address:
    known = (host if named is None or named in _UNKNOWN else named, port)
    try:
        mapped_host, mapped_port = remap(known)
    except Exception as error:
        raise ConnectionError(
            f"address_remap failed for {name_of(known)} with {type(error).__name__}: "
            "it must return the host and the port of every node"
        ) from error
    return mapped_host, mapped_port
