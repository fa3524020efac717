"""What is said from outside: where the servers are, and how patient to be."""

import os
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    database_url: str
    redis_url: str
    cache: bool = True
    """Without it, everything is read from the database; what is written still invalidates for other processes."""
    lock_wait: float = 5.0
    """Seconds to wait for who writes the same thing, before giving up with 409."""

    @classmethod
    def from_environment(cls) -> Self:
        """Reads DATABASE_URL, REDIS_URL, CACHE (on, off) and LOCK_WAIT."""
        return cls(
            database_url=os.environ["DATABASE_URL"],
            redis_url=os.environ["REDIS_URL"],
            cache=os.environ.get("CACHE", "on") != "off",
            lock_wait=float(os.environ.get("LOCK_WAIT", "5")),
        )
