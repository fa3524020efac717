"""Backends of several nodes, among which the keys of each model are divided into partitions.

Must not know how a key shows its partition.
"""

from collections.abc import Sequence
from typing import Any, Protocol


class Partitioned(Protocol):
    """An optional extension of a backend of several nodes, among which the keys of each model are divided."""

    partitions: int
    """The number of parts of a model's keys. The keys of a part have the same hash tag, so one node holds them."""


def partitions(backend: Any) -> int:
    """Returns the number of parts into which the keys of each model are divided. Asks the ``backend`` of a wrapper."""
    if not hasattr(backend, "partitions"):
        return partitions(backend.backend) if hasattr(backend, "backend") else 1
    return int(backend.partitions)


class SupportsEpochsSince(Protocol):
    """An optional extension of a divided backend, with which a row is stored whose partition a statement has shown.

    It needs nodes that know how old a stamp is.
    """

    async def epochs_since(self, partitions: Sequence[tuple[bytes, bytes]], since: float) -> list[bytes | None]:
        """Reads the epoch of each partition, given by the keys of its epoch and its stamp.

        Returns None in place of an epoch, unless the stamp was older than ``since`` when the epoch was read. ``since``
        is a time by the monotonic clock of this process. Absent epochs and stamps are made.
        """
        ...
