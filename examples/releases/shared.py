"""What all processes of the service agree upon through Redis, beside the cache: ids, and who goes first."""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager, suppress
from random import randrange

import anyio
from redis.asyncio import Redis
from redis.exceptions import LockNotOwnedError

EPOCH = 1_735_689_600  # 2025
SEQUENCE_BITS = 20
LOCK_TTL = 30.0
RELEASE_WAIT = 1.0
"""Maximum seconds that releasing a lock may take. Beyond it, the lock expires by itself."""


class Busy(Exception):
    """Somebody else is writing the same thing, and did not finish in time."""


class Shared:
    def __init__(self, redis: Redis, lock_wait: float) -> None:
        self._redis = redis
        self._lock_wait = lock_wait

    async def ids(self, count: int = 1) -> list[int]:
        """New ids, for any table: they grow with time, and fit into JSON's numbers.

        Seconds since 2025, and then a number that Redis counts up within the second. A Redis that has forgotten
        everything needs no look at the tables to go on: it counts from anywhere in the lower half.
        """
        second = int(time.time()) - EPOCH
        key = f"releases:ids:{second}"
        async with self._redis.pipeline() as pipeline:
            pipeline.set(key, randrange(1 << SEQUENCE_BITS - 1), nx=True, ex=60)
            pipeline.incrby(key, count)
            _, end = await pipeline.execute()
        return [(second << SEQUENCE_BITS) + number for number in range(end - count, end)]

    @asynccontextmanager
    async def alone(self, name: str, wait: float | None = None) -> AsyncGenerator[None, None]:
        """A block that only one task of all processes is in. Raises ``Busy`` after ``wait``, or else ``lock_wait``."""
        key = f"releases:lock:{name}"
        patience = self._lock_wait if wait is None else wait
        lock = self._redis.lock(key, timeout=LOCK_TTL, blocking_timeout=patience, sleep=0.02)
        if not await lock.acquire():
            raise Busy(f"Somebody else is writing {name}. Try again.")
        try:
            yield
        finally:
            # Shielded: a cancelled request releases its lock, too. A block that took longer than LOCK_TTL has lost it;
            # what the lock is for, the database's constraints ensure as well.
            with anyio.move_on_after(RELEASE_WAIT, shield=True), suppress(LockNotOwnedError):
                await lock.release()

    @asynccontextmanager
    async def free_slug(
        self, scope: str, name: str, taken: Callable[[str], Awaitable[Collection[str]]]
    ) -> AsyncGenerator[str, None]:
        """A slug for ``name`` that nobody else gets while the block writes it: ``acme``, ``acme-2``, ``acme-3``.

        ``taken`` finds the slugs that begin with one. Raises ``Busy``.
        """
        words = "".join(each if each.isalnum() else " " for each in name.lower()).split()
        base = "-".join(words)[:64] or "unnamed"
        async with self.alone(f"slug:{scope}:{base}"):
            used = set(await taken(base))
            number = 1
            while (slug := base if number == 1 else f"{base}-{number}") in used:
                number += 1
            yield slug
