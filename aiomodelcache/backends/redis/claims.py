"""The operations of claims, by the clocks of the servers (``SupportsClaims``).

A replica that is promoted keeps the claims that it has. They end by its own clock.
"""

from collections.abc import Sequence
from typing import Any, cast

from aiomodelcache.backends.redis.commands import RedisCommands
from aiomodelcache.backends.redis.errors import FAILURES, unquoted_cause
from aiomodelcache.backends.redis.scripts import load_script


class ClaimCommands(RedisCommands):
    """The operations of claims, for ``RedisBackend``."""

    async def clock(self) -> int:
        """Returns the time of the server, or the earliest of a Cluster's nodes that answer (see ``SupportsClaims``)."""
        try:
            replies = await (self._endpoint or self._raise_closed()).send_to_each([("TIME",)])
        except FAILURES as error:
            raise self._failure(error) from unquoted_cause(error)
        moments = [moment for [moment] in replies]
        self._raise_any(moments)
        return min(map(_milliseconds, moments))

    async def claim(self, key: bytes, until_ms: int) -> None:
        """Keeps a key until a time (see ``SupportsClaims``)."""
        # Sent with its text, so that processes without a relay need not load the script.
        self._raise_any(await self._send(load_script("claim").commands([key], (until_ms,), [()], 1, inline=True)))

    async def remaining(self, keys: Sequence[bytes]) -> list[int]:
        """Returns the milliseconds that claims have left (see ``SupportsClaims``)."""
        replies = await self._send([("PTTL", key) for key in keys])
        self._raise_any(replies)
        return [max(0, left) for left in cast("list[int]", replies)]


def _milliseconds(reply: Any) -> int:
    seconds, micro = reply
    return int(seconds) * 1000 + int(micro) // 1000
