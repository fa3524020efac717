"""State that all processes of the service share through Redis, beside the cache: ids and locks."""

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
    """Raised if another request holds a lock for too long."""


class Shared:
    def __init__(self, redis: Redis, lock_wait: float) -> None:
        self._redis = redis
        self._lock_wait = lock_wait

    async def ids(self, count: int = 1) -> list[int]:
        """Returns new ids, for any table. They grow with time and fit into JSON's numbers.

        An id is the seconds since 2025, followed by a number that Redis counts up within the second. The count starts
        at a random number in the lower half, so an empty Redis need not look at the tables to continue.
        """
        second = int(time.time()) - EPOCH
        key = f"releases:ids:{second}"
        async with self._redis.pipeline() as pipeline:
            pipeline.set(key, randrange(1 << SEQUENCE_BITS - 1), nx=True, ex=60)
            pipeline.incrby(key, count)
            _, end = await pipeline.execute()
        return [(second << SEQUENCE_BITS) + number for number in range(end - count, end)]

    @asynccontextmanager
    async def exclusive(self, name: str, wait: float | None = None) -> AsyncGenerator[None, None]:
        """Locks ``name`` for the block, across all processes.

        Raises ``Busy`` if the lock is not free within ``wait`` seconds, by default ``lock_wait``.
        """
        key = f"releases:lock:{name}"
        seconds = self._lock_wait if wait is None else wait
        lock = self._redis.lock(key, timeout=LOCK_TTL, blocking_timeout=seconds, sleep=0.02)
        if not await lock.acquire():
            raise Busy(f"Another request is writing {name}. Try again.")
        try:
            yield
        finally:
            # Shielded: a cancelled request also releases its lock. A block that took longer than LOCK_TTL has lost the
            # lock; then the database's constraints still keep the data right.
            with anyio.move_on_after(RELEASE_WAIT, shield=True), suppress(LockNotOwnedError):
                await lock.release()

    @asynccontextmanager
    async def free_slug(
        self, scope: str, name: str, taken: Callable[[str], Awaitable[Collection[str]]]
    ) -> AsyncGenerator[str, None]:
        """Reserves a free slug for ``name`` while the block writes it: ``acme``, ``acme-2``, ``acme-3``.

        ``taken`` returns the used slugs that begin with its argument. Raises ``Busy``.
        """
        words = "".join(letter if letter.isalnum() else " " for letter in name.lower()).split()
        base = "-".join(words)[:64] or "unnamed"
        async with self.exclusive(f"slug:{scope}:{base}"):
            used = set(await taken(base))
            number = 1
            while (slug := base if number == 1 else f"{base}-{number}") in used:
                number += 1
            yield slug
