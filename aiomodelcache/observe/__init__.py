"""Observation of the cache: events for observers, the log of lookups, and counters.

Top to bottom: ``fleet`` for the counters of several processes, ``relay_status`` for the state of relays, ``logs`` for
the log of lookups, ``observers`` for handing events on, ``events`` for what observers get, ``stats`` for counters and
the logger.
"""

from aiomodelcache.observe.events import (
    Breaker,
    Computation,
    Fill,
    Lookup,
    NearChange,
    Note,
    Observer,
    Operation,
    Outcome,
    Overload,
    RoundTrip,
    Statement,
    Verification,
    Write,
)

__all__ = [
    "Breaker",
    "Computation",
    "Fill",
    "Lookup",
    "NearChange",
    "Note",
    "Observer",
    "Operation",
    "Outcome",
    "Overload",
    "RoundTrip",
    "Statement",
    "Verification",
    "Write",
]
