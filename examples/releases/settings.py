"""``Settings``: the addresses of the servers and the limits of the service, from environment variables."""

import os
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    database_url: str
    redis_url: str
    cache: bool = True
    """Use of the cache. If False, all reads go to the database; writes still invalidate for other processes."""
    lock_wait: float = 5.0
    """Maximum seconds to wait for another request that writes the same data. Beyond it, the answer is 409."""

    @classmethod
    def from_environment(cls) -> Self:
        """Reads DATABASE_URL, REDIS_URL, CACHE (on, off) and LOCK_WAIT."""
        return cls(
            database_url=os.environ["DATABASE_URL"],
            redis_url=os.environ["REDIS_URL"],
            cache=os.environ.get("CACHE", "on") != "off",
            lock_wait=float(os.environ.get("LOCK_WAIT", "5")),
        )
