"""A store in memory whose keys are divided into partitions, as those of a Redis Cluster are."""

import time
from collections.abc import Sequence
from typing import Any

from aiomodelcache import MemoryBackend
from aiomodelcache.backends.protocol import Clear, Save
from aiomodelcache.encoding.partitions import CLUSTER_PARTITIONS
from aiomodelcache.entries.base import is_version


class DividedMemory(MemoryBackend):
    """A ``MemoryBackend`` with as many partitions as a Cluster, which knows how old stamps are."""

    partitions = CLUSTER_PARTITIONS

    def __init__(self) -> None:
        super().__init__()
        self._stored: dict[bytes, float] = {}
        """The times at which stamps were stored."""

    @property
    def lease_timed(self) -> Any:
        """No method: a Cluster has none either."""
        raise AttributeError("lease_timed")

    async def clear(self, clears: Sequence[Clear], token: bytes, stamps: Sequence[bytes] = ()) -> list[bool]:
        self._stored |= dict.fromkeys(stamps, time.monotonic())
        return await super().clear(clears, token, stamps)

    async def clear_and_save(
        self, saves: Sequence[Save], clears: Sequence[Clear], token: bytes, stamps: Sequence[bytes] = ()
    ) -> list[bool]:
        self._stored |= dict.fromkeys([*stamps, *[save.stamp for save in saves]], time.monotonic())
        return await super().clear_and_save(saves, clears, token, stamps)

    async def epochs_since(self, partitions: Sequence[tuple[bytes, bytes]], since: float) -> list[bytes | None]:
        epochs = (await self.lease([], b"", 0, [epoch for epoch, _ in partitions])).versions
        absent = [stamp for _, stamp in partitions if self._get(stamp, self._now()) is None]
        await self.clear([], b"", absent)
        times = [self._stored.setdefault(stamp, time.monotonic()) for _, stamp in partitions]
        return [epoch if at < since and is_version(epoch) else None for epoch, at in zip(epochs, times, strict=True)]
