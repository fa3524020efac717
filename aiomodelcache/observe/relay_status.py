"""The state of a relay, as operators see it. Pure: the relay sets it."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

RELAY_METRICS: Final = {
    "lag": ("gauge", "lag_seconds", "Seconds since the last drain of this relay began that left nothing out"),
    "oldest": ("gauge", "oldest_seconds", "Age of the oldest line that is read and not yet invalidated, or 0"),
    "leading": ("gauge", "leading", "1 if this relay drains, 0 if another one does"),
    "drains": ("counter", "drains_total", "Drains that ended"),
    "lines": ("counter", "lines_total", "Lines of the change table that were invalidated"),
    "claims": ("counter", "claims_total", "Claims that nothing was left out"),
    "cleared": ("counter", "cleared_total", "Times that everything about the models was invalidated"),
    "outages": ("counter", "outages_total", "Times that draining began to fail"),
}
"""The metrics by the names of ``RelayStatus``: kind, name and help."""


@dataclass(slots=True, kw_only=True)
class RelayStatus:
    """The state of a relay on one connection. Counts only grow."""

    connection: str
    """The alias of the connection in Tortoise's configuration."""
    tables: int
    """The number of tables whose writes are captured."""
    leading: bool = False
    """True if this relay drains. Else another one does, and this one takes over when that ends."""
    failing: str | None = None
    """The reason why it does not drain now, although no other relay does; None if it does."""
    drains: int = 0
    """Drains that ended."""
    lines: int = 0
    """Lines of the change table that were invalidated and deleted."""
    claims: int = 0
    """Claims that nothing was left out."""
    cleared: int = 0
    """Times that everything about the models was invalidated: the catalogue had changed, or too many lines were left.
    """
    outages: int = 0
    """Times that draining began to fail."""
    last_drain: float | None = None
    """The time at which the last drain began that left nothing out, in seconds since the Unix epoch."""

    waiting_since: float | None = None
    """The time at which the oldest line was written that was read and not yet deleted. None if there is none."""

    @property
    def oldest(self) -> float:
        """Seconds since the oldest line was written that was read and not yet deleted. Zero if there is none."""
        return 0.0 if self.waiting_since is None else max(0.0, time.time() - self.waiting_since)

    @property
    def lag(self) -> float | None:
        """Seconds since the last drain began that left nothing out. None before the first one."""
        return None if self.last_drain is None else max(0.0, time.time() - self.last_drain)

    def data(self) -> Mapping[str, Any]:
        """Returns the state for JSON, with ``lag`` and ``oldest``."""
        return {**asdict(self), "lag": self.lag, "oldest": self.oldest}
