"""The tests that a backend for relays must pass besides those of ``conformance``.

::

    class TestMyBackend(ClaimConformance):
        async def make_backend(self) -> Backend:
            ...
"""

from typing import cast

from aiomodelcache.backends.protocol import Backend, SupportsClaims
from aiomodelcache.testing.conformance import EVERY_BYTE, MINUTE, SHORT, BackendConformance, new_key, new_keys


def claiming(backend: Backend) -> SupportsClaims:
    """Returns the backend, for its operations of claims."""
    return cast("SupportsClaims", backend)


class ClaimConformance(BackendConformance):
    """Base class of a backend's tests, if it has the operations of ``SupportsClaims``."""

    async def left(self, backend: Backend, key: bytes) -> int:
        """Returns the milliseconds that one claim has left."""
        [left] = await claiming(backend).remaining([key])
        return left

    async def test_the_clock_goes_on(self, backend: Backend, other: Backend) -> None:
        before = await claiming(backend).clock()
        await self.advance(SHORT / 1000)
        after = await claiming(other).clock()
        assert before + SHORT <= after < before + MINUTE

    async def test_a_claim_lives_until_its_time_by_the_clock_of_the_store(self, backend: Backend) -> None:
        key = new_key()
        before = await claiming(backend).clock()
        await claiming(backend).claim(key, before + MINUTE)
        left = await self.left(backend, key)
        after = await claiming(backend).clock()
        assert before + MINUTE - after <= left <= MINUTE

    async def test_a_claim_is_seen_by_others(self, backend: Backend, other: Backend) -> None:
        key = new_key()
        await claiming(backend).claim(key, await claiming(backend).clock() + MINUTE)
        assert 0 < await self.left(other, key) <= MINUTE

    async def test_what_is_not_claimed_has_nothing_left(self, backend: Backend) -> None:
        assert await claiming(backend).remaining(new_keys(3)) == [0, 0, 0]
        assert await claiming(backend).remaining([]) == []

    async def test_several_claims_in_the_order_of_the_keys(self, backend: Backend) -> None:
        short, none, long = new_keys(3)
        now = await claiming(backend).clock()
        await claiming(backend).claim(short, now + MINUTE)
        await claiming(backend).claim(long, now + 2 * MINUTE)
        first, second, third, fourth = await claiming(backend).remaining([long, none, short, long])
        assert MINUTE < first <= 2 * MINUTE
        assert second == 0
        assert 0 < third <= MINUTE
        assert first - MINUTE < fourth <= first

    async def test_a_claim_is_extended(self, backend: Backend, other: Backend) -> None:
        key = new_key()
        now = await claiming(backend).clock()
        await claiming(backend).claim(key, now + MINUTE)
        await claiming(other).claim(key, now + 2 * MINUTE)
        assert await self.left(backend, key) > MINUTE

    async def test_a_claim_is_never_shortened(self, backend: Backend, other: Backend) -> None:
        key = new_key()
        now = await claiming(backend).clock()
        await claiming(backend).claim(key, now + 2 * MINUTE)
        for until in (now + MINUTE, now, now - MINUTE, 0):
            await claiming(other).claim(key, until)
        assert await self.left(backend, key) > MINUTE

    async def test_a_claim_until_a_time_that_is_past_is_none(self, backend: Backend) -> None:
        key = new_key()
        now = await claiming(backend).clock()
        for until in (now, now - 1, now - MINUTE, 0):
            await claiming(backend).claim(key, until)
            assert await self.left(backend, key) == 0

    async def test_a_claim_ends(self, backend: Backend) -> None:
        key = new_key()
        await claiming(backend).claim(key, await claiming(backend).clock() + SHORT)
        await self.expires(backend, key)
        assert await self.left(backend, key) == 0
        await claiming(backend).claim(key, await claiming(backend).clock() + MINUTE)
        assert await self.left(backend, key) > 0

    async def test_a_claim_that_is_deleted_has_nothing_left(self, backend: Backend) -> None:
        key = new_key()
        await claiming(backend).claim(key, await claiming(backend).clock() + MINUTE)
        assert await backend.delete([key]) == 1
        assert await self.left(backend, key) == 0

    async def test_keys_of_claims_are_binary(self, backend: Backend) -> None:
        key = new_key() + EVERY_BYTE
        await claiming(backend).claim(key, await claiming(backend).clock() + MINUTE)
        assert await self.left(backend, key) > 0
