"""``MemoryBackend``: the conformance suite on a clock that the test sets, and the eviction of entries."""

import pytest

from aiomodelcache.backends.memory import ENTRY_OVERHEAD, MemoryBackend
from aiomodelcache.backends.protocol import Clear, Fill, Lease
from aiomodelcache.testing.claims import ClaimConformance
from aiomodelcache.testing.conformance import (
    MINUTE,
    SHORT,
    held,
    is_version,
    new_keys,
    new_token,
    put,
    writers,
)
from aiomodelcache.testing.late_fills import LateFillConformance
from aiomodelcache.testing.write_through import WriteThroughConformance


class Clock:
    def __init__(self) -> None:
        self.seconds = 1_000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


class TestMemoryBackend(WriteThroughConformance, ClaimConformance, LateFillConformance):
    @pytest.fixture(autouse=True)
    def store(self, clock: Clock) -> None:
        self.clock = clock
        self.shared = MemoryBackend(clock=clock)

    async def make_backend(self) -> MemoryBackend:
        await self.shared.open()
        return self.shared

    async def advance(self, seconds: float) -> None:
        self.clock.seconds += seconds


def cost(key: bytes, value: bytes) -> int:
    return len(key) + len(value) + ENTRY_OVERHEAD


async def test_two_backends_are_two_stores() -> None:
    [key] = new_keys(1)
    await put(MemoryBackend(), key, b"value")
    assert await held(MemoryBackend(), key) is None


async def test_values_expire_to_the_millisecond(clock: Clock) -> None:
    backend = MemoryBackend(clock=clock)
    value, leased, hinted, marked = keys = new_keys(4)
    token = new_token()
    await put(backend, value, b"value", SHORT)
    await backend.lease([Lease(leased)], token, SHORT)
    await backend.mark([marked, hinted], token, SHORT)
    await backend.clear([Clear(hinted, b"hint", SHORT)], token)
    expiry = writers(await held(backend, marked))[token]
    assert expiry == 1_000_000 + SHORT
    clock.seconds = (expiry - 1) / 1000
    assert None not in await backend.read(keys)
    clock.seconds = expiry / 1000
    assert await backend.read(keys) == [None] * 4


async def test_the_least_recently_used_value_is_evicted_first() -> None:
    first, second, third, fourth = keys = new_keys(4)
    value = bytes(17)  # as long as the lease before it
    backend = MemoryBackend(limit=3 * cost(first, value))
    for key in (first, second, third):
        await put(backend, key, value)
    await backend.read([first])
    await put(backend, fourth, value)
    assert await backend.read(keys) == [value, None, value, value]


@pytest.mark.parametrize(("size", "fits"), [(100, True), (101, False)])
async def test_the_limit_counts_bytes(size: int, fits: bool) -> None:
    small, large, other = keys = new_keys(3)
    backend = MemoryBackend(limit=cost(small, bytes(100)) + cost(large, bytes(900)))
    await put(backend, small, bytes(100))
    await put(backend, large, bytes(900))
    assert await backend.read([small, large]) == [bytes(100), bytes(900)]
    await put(backend, other, bytes(size))
    assert await backend.read(keys) == [None, bytes(900) if fits else None, bytes(size)]


async def test_replaced_and_deleted_values_free_their_bytes() -> None:
    keys = new_keys(2)
    backend = MemoryBackend(limit=cost(keys[0], bytes(1_000)))
    for _ in range(10):
        await put(backend, keys[0], bytes(1_000))
        assert await backend.delete(keys) == 1
    token = new_token()
    for _ in range(10):
        await backend.mark(keys[:1], token, MINUTE)
        await backend.clear([Clear(keys[0], bytes(1_000), 0)], token)
        assert await held(backend, keys[0]) == bytes(1_000)


async def test_intents_are_never_evicted() -> None:
    marked, filled = new_keys(2)
    backend, token = MemoryBackend(limit=cost(marked, bytes(30)) + cost(filled, bytes(100))), new_token()
    await backend.mark([marked], token, MINUTE)
    for key in new_keys(100):
        await put(backend, key, bytes(100))
    assert writers(await held(backend, marked)).keys() == {token}
    assert await backend.clear([Clear(marked)], token) == [True]


async def test_intents_may_exceed_the_limit_and_leave_no_room() -> None:
    marked, (key, version) = new_keys(50), new_keys(2)
    backend, token = MemoryBackend(limit=10 * cost(key, bytes(30))), new_token()
    await put(backend, key, b"value")
    await backend.mark(marked, token, MINUTE)
    assert await backend.read([key]) == [None]
    assert await backend.lease([Lease(key)], new_token(), MINUTE, [version]) == ([b""], [None])
    assert all(await backend.clear([Clear(each) for each in marked], token))
    await put(backend, key, b"value")
    assert is_version((await backend.lease([], token, MINUTE, [version])).versions[0])


async def test_a_value_beyond_the_limit_evicts_no_other() -> None:
    first, second = new_keys(2)
    backend, token = MemoryBackend(limit=2_000), new_token()
    await put(backend, first, b"value")
    await backend.lease([Lease(second)], token, MINUTE)
    assert await backend.fill([Fill(second, b"L" + token, bytes(2_000), MINUTE)]) == [False]
    assert await backend.read([first, second]) == [b"value", None]


async def test_expired_intents_make_room(clock: Clock) -> None:
    marked, [key] = new_keys(50), new_keys(1)
    backend = MemoryBackend(limit=10 * cost(key, bytes(30)), clock=clock)
    await backend.mark(marked, new_token(), SHORT)
    assert (await backend.lease([Lease(key)], new_token(), MINUTE)).values == [b""]
    clock.seconds += SHORT / 1000
    await put(backend, key, b"value")


async def test_an_evicted_version_is_created_again() -> None:
    version, *keys = new_keys(4)
    backend = MemoryBackend(limit=3 * cost(version, bytes(17)))
    [before] = (await backend.lease([], new_token(), MINUTE, [version])).versions
    for key in keys:
        await put(backend, key, bytes(17))
    [after] = (await backend.lease([], new_token(), MINUTE, [version])).versions
    assert is_version(after)
    assert after != before
