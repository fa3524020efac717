"""The measured costs of one request, and the assumed size of the simulated fleet.

All measured figures are those of ``python -m benchmarks.fleet --measure`` on the machine of ``docs/performance.md``:
Redis 7.0, over the loopback interface, so without the interrupts of a network card.
"""

from dataclasses import dataclass
from typing import Final

from aiomodelcache.backends.near import OVERHEAD


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of a server's CPU. Its main thread has one second of them in a second."""

    request: float
    """A request of an ``MGET`` of two keys that arrives alone: its socket event, parsing, and the reply."""
    get: float
    """Each further ``GET`` of the same request, as a Cluster needs them."""
    key: float
    """Each further key of an ``MGET``, as one server allows it."""
    script: float
    """A request of a lease of one key, a script, that arrives alone."""


COSTS: Final = Costs(request=11e-6, get=0.5e-6, key=0.2e-6, script=18e-6)
ENTRY: Final = 472
"""Bytes of a server's memory for a row of 320 bytes and its key."""
NEAR_ENTRY: Final = 320 + 33 + OVERHEAD
"""Bytes of a process's memory for the same row and its key kept near, as ``near_memory_limit`` counts them."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """The assumptions. ``FLEET`` is a large application, which has not been measured."""

    processes: int = 1_000
    lookups: float = 5e6
    """Lookups per second of all processes."""
    write_share: float = 0.01
    """Writes for each lookup."""
    entries: int = 50_000_000
    """Rows that are asked for at all."""
    models: int = 100
    """The share of a model is that of its rank in a Zipf distribution, as that of a row is."""
    intent: float = 3e-3
    """Seconds between a writer's mark and its clear: a statement, a COMMIT on disk, and three times the network."""


FLEET: Final = Fleet()
