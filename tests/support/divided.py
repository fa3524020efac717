"""A store in memory whose keys are divided into partitions, as those of a Redis Cluster are."""

from aiomodelcache import MemoryBackend
from aiomodelcache.encoding.partitions import CLUSTER_PARTITIONS


class DividedMemory(MemoryBackend):
    """A ``MemoryBackend`` with as many partitions as a Cluster."""

    partitions = CLUSTER_PARTITIONS
