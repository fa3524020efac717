"""The operations of readers that fill: leases, fills, and late fills (``SupportsLateFills``).

The step of a late fill is ``fill_at_once`` of ``tests/protocol/model/indexes.py``. A cluster does not make it: the
reader would need the clock of the row's node, and does not know that node when it leases the index.
"""

from collections.abc import Awaitable, Callable, Sequence
from itertools import chain
from operator import attrgetter
from typing import Final, cast

from aiomodelcache.backends.protocol import Fill, LateFill, Lease, Leased, TimedLease
from aiomodelcache.backends.redis.commands import RedisCommands, version_commands
from aiomodelcache.backends.redis.connection import Command
from aiomodelcache.backends.redis.scripts import ScriptArguments
from aiomodelcache.encoding.layout import LEASE


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
