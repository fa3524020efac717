"""The operations with which writers store the rows that they save (``SupportsWriteThrough``).

The steps are those of ``tests/protocol/model/savers.py``. On a single server they are one round trip.
"""

from collections.abc import Mapping, Sequence
from typing import cast

from aiomodelcache.backends.protocol import NOTHING_ALLOWED, Clear, Fill, Marked, Save
from aiomodelcache.backends.redis.commands import STAMP_TTL_MS, RedisCommands, as_bytes, is_list, version_commands
from aiomodelcache.backends.redis.connection import Command
from aiomodelcache.encoding.layout import LEASE, PREFIX_SIZE


class SavingCommands(RedisCommands):
    """The operations of savers, for ``RedisBackend``."""

    async def mark_for_save(
        self,
        keys: Sequence[bytes],
        token: bytes,
        ttl_ms: int,
        allow: Mapping[bytes, int] = NOTHING_ALLOWED,
        versions: Sequence[bytes] = (),
    ) -> Marked:
        """Marks keys, and reads versions (see ``SupportsWriteThrough``)."""
        made = self._new_versions(versions)
        marked, read = await self._send_in_order(
            self._mark_commands(keys, token, ttl_ms, allow), version_commands(versions, made), wait=self._wait
        )
        replies = self._by_key(keys, marked)
        replaced = self._replaced_by_mark(keys, replies)
        moments = [cast("list[bytes]", reply)[-1] if is_list(reply) else cast("bytes", reply) for reply in replies]
        return Marked(
            replaced,
            dict(zip(keys, map(int, moments), strict=True)),
            await self._with_fresh_versions(versions, read, made),
        )

    async def clear_and_save(
        self, saves: Sequence[Save], clears: Sequence[Clear], token: bytes, stamps: Sequence[bytes] = ()
    ) -> list[bool]:
        """Ends a write, and stores rows (see ``SupportsWriteThrough``)."""
        endpoint = self._endpoint or self._raise_closed()
        expected = {save.stamp: save.expected for save in saves}
        changed = list(dict.fromkeys([*stamps, *expected]))
        own = dict(zip(changed, self._new_versions(changed), strict=True))
        others = [
            (expected.get(stamp, b""), version, other)
            for (stamp, version), other in zip(own.items(), self._new_versions(own), strict=True)
        ]
        # Sent with its text, because a script that the server lacks is sent again: after the clear, that is too late.
        stamp_commands = self._stamp.commands([*own], (STAMP_TTL_MS,), others, self._keys_per_script, inline=True)
        leases = [LEASE + save.value[1:PREFIX_SIZE] for save in saves]
        keys = [*[clear.key for clear in clears], *[save.key for save in saves]]
        hints = [clear[1:] for clear in clears]
        hints += [(lease, 0, save.until_ms) for save, lease in zip(saves, leases, strict=True)]
        stages = [stamp_commands, self._commands(self._clear, keys, hints, (token,))]
        if not endpoint.is_cluster:
            stages.append(self._save_commands(saves, leases, own))
        stamped, cleared, *saved = await self._send_in_order(*stages)
        self._raise_any(self._by_key([*own], stamped))
        self._raise_any(self._by_key(keys, cleared))
        if not saved:
            return await self._fill_unless_stamped(saves, leases, own)
        self._raise_any(saved[0])
        return [reply == 1 for reply in saved[0]]

    def _save_commands(
        self, saves: Sequence[Save], leases: Sequence[bytes], own: Mapping[bytes, bytes]
    ) -> list[Command]:
        return [
            ("EVALSHA", self._save.sha, 2, save.key, save.stamp, lease, save.value, save.ttl_ms, own[save.stamp])
            for save, lease in zip(saves, leases, strict=True)
        ]

    async def _fill_unless_stamped(
        self, saves: Sequence[Save], leases: Sequence[bytes], own: Mapping[bytes, bytes]
    ) -> list[bool]:
        """Stores the rows whose stamps are still the writer's own, and gives the other leases back.

        On a cluster, where the stages are requests of their own, a script takes one key.
        """
        stamps = list(dict.fromkeys([save.stamp for save in saves]))
        replies = await self._send([("GET", stamp) for stamp in stamps])
        now = dict(zip(stamps, map(as_bytes, replies), strict=True))
        same = [now[save.stamp] == own[save.stamp] for save in saves]
        fills = [
            Fill(save.key, lease, save.value if unchanged else b"", save.ttl_ms)
            for save, lease, unchanged in zip(saves, leases, same, strict=True)
        ]
        filled = await self._run(self._fill, [fill.key for fill in fills], [fill[1:] for fill in fills])
        return [unchanged and reply == 1 for unchanged, reply in zip(same, filled, strict=True)]
