"""The operations of readers that fill: leases, fills, and late fills (``SupportsLateFills``).

The step of a late fill is ``fill_at_once`` of ``tests/protocol/model/indexes.py``. A cluster does not make it: the
reader does not know the row's node when it leases the index. It asks that node afterwards how old the stamp is. The
model of that is ``fill_by_clock`` of ``tests/protocol/model/partitions.py``.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any, Final, cast

from redis.exceptions import NoScriptError

from aiomodelcache.backends.protocol import Fill, LateFill, Lease, Leased, TimedLease
from aiomodelcache.backends.redis.cluster.endpoint import ClusterEndpoint
from aiomodelcache.backends.redis.cluster.node import Node
from aiomodelcache.backends.redis.commands import STAMP_TTL_MS, RedisCommands, as_bytes, is_list, version_commands
from aiomodelcache.backends.redis.connection import Command
from aiomodelcache.backends.redis.errors import FAILURES
from aiomodelcache.backends.redis.scripts import ScriptArguments
from aiomodelcache.encoding.layout import LEASE, VERSION


class LeasingCommands(RedisCommands):
    """The operations of readers that fill, for ``RedisBackend``."""

    async def lease(self, leases: Sequence[Lease], token: bytes, ttl_ms: int, versions: Sequence[bytes] = ()) -> Leased:
        leased, _ = await self._lease_and_read(leases, token, ttl_ms, versions)
        return leased

    async def fill(self, fills: Sequence[Fill]) -> list[bool]:
        [replies] = await self._send_in_order(self._fill_commands(fills), partly=True)
        return self._filled(fills, replies)

    @property
    def lease_timed(self) -> Callable[[Sequence[Lease], bytes, int, Sequence[bytes]], Awaitable[TimedLease]]:
        """Leases, and reads the clock (see ``SupportsLateFills``).

        Raises ``AttributeError`` on a cluster, or if a subclass overrides ``lease`` or ``fill`` and must see all.
        """
        kind, own = type(self), LeasingCommands
        overridden = kind.lease is not own.lease or kind.fill is not own.fill
        if overridden or (self._endpoint is not None and self._endpoint.is_cluster):
            raise AttributeError("lease_timed")
        return self._lease_timed

    async def _lease_timed(
        self, leases: Sequence[Lease], token: bytes, ttl_ms: int, versions: Sequence[bytes]
    ) -> TimedLease:
        leased, [time] = await self._lease_and_read(leases, token, ttl_ms, versions, ("TIME",))
        self._raise_any([time])
        seconds, microseconds = map(int, cast("list[bytes]", time))
        return TimedLease(leased, seconds * 1000 + microseconds // 1000)

    async def fill_late(self, fills: Sequence[Fill], late: Sequence[LateFill]) -> tuple[list[bool], list[bytes | None]]:
        """Fills, and stores rows (see ``SupportsLateFills``)."""
        shared = dict.fromkeys(map(_shared, late))
        groups = {key: late if len(shared) == 1 else [each for each in late if _shared(each) == key] for key in shared}
        commands: list[Command] = []
        for (stamp, expected, until_ms), group in groups.items():
            for start in range(0, len(group), self._keys_per_script):
                part = group[start : start + self._keys_per_script]
                arguments: list[ScriptArguments] = [fill[1:4] for fill in part]  # replacing, value, ttl_ms
                keys = stamp, *[fill[0] for fill in part]
                commands.append(("EVALSHA", self._late.sha, len(keys), *keys, expected, until_ms, *chain(*arguments)))
        filled, stored = await self._send_in_order(self._fill_commands(fills), commands)
        self._raise_any(stored)
        held = list(chain(*cast("list[list[object]]", stored)))
        if len(groups) > 1:
            by_key = {(each.key, each.value): reply for each, reply in zip(chain(*groups.values()), held, strict=True)}
            held = [by_key[each.key, each.value] for each in late]
        return self._filled(fills, filled), [None if reply == 1 else cast("bytes", reply) for reply in held]

    @property
    def epochs_since(self) -> Callable[[Sequence[tuple[bytes, bytes]], float], Awaitable[list[bytes | None]]]:
        """Reads epochs, and the ages of stamps (see ``SupportsEpochsSince``).

        Raises ``AttributeError`` if this is no Cluster.
        """
        if not self._is_cluster:
            raise AttributeError("epochs_since")
        return self._epochs_since

    async def _epochs_since(self, partitions: Sequence[tuple[bytes, bytes]], since: float) -> list[bytes | None]:
        stamps = dict(partitions)
        nodes = cast("ClusterEndpoint", self._endpoint or self._raise_closed()).nodes_of(stamps)
        asking = [self._ask_since(node, [(key, stamps[key]) for key in keys], since) for node, keys in nodes.items()]
        found: dict[bytes, object] = {}
        for of_node in await asyncio.gather(*asking):
            found |= of_node
        replies = [found.get(key) for key in stamps]
        epochs = list(map(as_bytes, replies))
        self._raise_failed(list(stamps), replies, epochs)
        return epochs

    async def _ask_since(
        self, node: Node, partitions: Sequence[tuple[bytes, bytes]], since: float
    ) -> dict[bytes, object]:
        """Returns the epochs of one node by their keys, None where the stamp is too young, or the node's failure.

        Follows no redirection, because the clock of another node would answer.
        """
        ahead, version = node.clock.ahead_before(since), VERSION + node.incarnation.current
        commands: list[Command] = [
            ("EVALSHA", self._since.sha, 2, *pair, version, *self._new_versions(pair), STAMP_TTL_MS)
            for pair in partitions
        ]
        try:
            replies = await node.send(commands)
            if any(isinstance(reply, NoScriptError) for reply in replies):
                await self._load_scripts(self._endpoint or self._raise_closed())  # for the next time
        except FAILURES as error:
            return dict.fromkeys([epoch for epoch, _ in partitions], error)
        epochs: dict[bytes, object] = {}
        for (key, _), reply in zip(partitions, replies, strict=True):
            if is_list(reply):
                epoch, age_ms, seconds, microseconds = cast("list[Any]", reply)
                shown = int(seconds) * 1_000_000 + int(microseconds)
                stored = shown - (age_ms - 1) * 1_000  # at the latest
                ahead_now = node.clock.note(shown)
                if ahead is not None and stored <= since * 1_000_000 + min(ahead, ahead_now):
                    epochs[key] = epoch if isinstance(epoch, bytes) and epoch.startswith(version) else None
        return epochs

    async def _lease_and_read(
        self, leases: Sequence[Lease], token: bytes, ttl_ms: int, versions: Sequence[bytes], *others: Command
    ) -> tuple[Leased, list[object]]:
        """Leases, then reads the versions, and returns the replies to other commands."""
        own = LEASE + token
        keys = [key for key, _ in leases]
        if any(lease.replacing for lease in leases):
            lease_commands = self._commands(self._lease, keys, [(replacing, own, ttl_ms) for _, replacing in leases])
        else:
            lease_commands = self._commands(self._lease, keys, (), (own, ttl_ms))
        made = self._new_versions(versions)
        stages = lease_commands, [*version_commands(versions, made), *others]
        leased, read = await self._send_in_order(*stages, partly=True)
        number = 2 * len(versions)
        held = self._by_key(keys, leased, partly=True)
        answer = Leased(list(map(_lease_value, held)), await self._with_fresh_versions(versions, read[:number], made))
        self._raise_failed([*keys, *versions], [*held, *read[1:number:2]], answer)
        return answer, read[number:]

    def _fill_commands(self, fills: Sequence[Fill]) -> list[Command]:
        return self._commands(self._fill, [fill.key for fill in fills], [fill[1:] for fill in fills])

    def _filled(self, fills: Sequence[Fill], replies: Sequence[object]) -> list[bool]:
        keys = [fill.key for fill in fills]
        by_key = self._by_key(keys, replies, partly=True)
        filled = [reply == 1 for reply in by_key]
        self._raise_failed(keys, by_key, filled)
        return filled


_shared: Final[Callable[[LateFill], tuple[bytes, bytes, int]]] = attrgetter("stamp", "expected", "until_ms")
"""Returns the arguments that late fills of one script have in common."""


def _lease_value(reply: object) -> bytes | None:
    """Returns the value of a key after an attempt to lease it, or empty bytes if the server returned an error."""
    return b"" if isinstance(reply, Exception) else cast("bytes | None", reply)
