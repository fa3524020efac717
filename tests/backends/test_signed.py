"""``SignedBackend``: the conformance suite over each kind of store, and what it stores and believes."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiomodelcache.backends.memory import MemoryBackend
from aiomodelcache.backends.protocol import Backend, Clear, Fill, Lease
from aiomodelcache.backends.redis.backend import RedisBackend
from aiomodelcache.backends.signed import SignedBackend
from aiomodelcache.encoding.layout import PREFIX_SIZE
from aiomodelcache.encoding.signatures import SIGNATURE_SIZE, Signer
from aiomodelcache.testing.claims import ClaimConformance
from aiomodelcache.testing.conformance import (
    MINUTE,
    held,
    new_key,
    new_keys,
    new_token,
    new_value,
    put,
)
from aiomodelcache.testing.late_fills import LateFillConformance
from aiomodelcache.testing.write_through import WriteThroughConformance

from .opening import PATIENT
from .test_memory import Clock
from .test_redis_cluster import Cluster, cluster

SECRETS = (b"the secret of these tests", b"the secret before")

__all__ = ["cluster"]  # a fixture


class TestSignedMemory(WriteThroughConformance, ClaimConformance, LateFillConformance):
    @pytest.fixture(autouse=True)
    def store(self) -> None:
        self.clock = Clock()
        self.shared = SignedBackend(MemoryBackend(clock=self.clock), SECRETS)

    async def make_backend(self) -> SignedBackend:
        await self.shared.open()
        return self.shared

    async def advance(self, seconds: float) -> None:
        self.clock.seconds += seconds


class TestSignedRedis(WriteThroughConformance, ClaimConformance, LateFillConformance):
    @pytest.fixture(autouse=True)
    def store(self, redis_url: str) -> None:
        self.url = redis_url

    async def make_backend(self) -> SignedBackend:
        backend = SignedBackend(RedisBackend(self.url, socket_timeout=PATIENT), SECRETS)
        await backend.open()
        return backend


class TestSignedCluster(WriteThroughConformance, ClaimConformance):
    delivers_changes = False

    @pytest.fixture(autouse=True)
    def store(self, cluster: Cluster) -> None:
        self.url = cluster.url

    async def make_backend(self) -> SignedBackend:
        backend = SignedBackend(RedisBackend(self.url, socket_timeout=PATIENT), SECRETS)
        await backend.open()
        return backend


@pytest.fixture
def plain() -> MemoryBackend:
    return MemoryBackend()


@pytest.fixture
def signed(plain: MemoryBackend) -> SignedBackend:
    return SignedBackend(plain, SECRETS)


async def replace(backend: Backend, key: bytes, value: bytes) -> None:
    await backend.delete([key])
    await put(backend, key, value)


@pytest.mark.parametrize("state", [b"V", b"N", b"S"])
async def test_an_entry_is_believed_under_its_own_key_alone(
    plain: MemoryBackend, signed: SignedBackend, state: bytes
) -> None:
    key, other = new_keys(2)
    value = state + new_token() + b"payload"
    await put(signed, key, value)
    stored = await held(plain, key)
    assert stored is not None
    assert stored[:-SIGNATURE_SIZE] == value
    assert await signed.read([key]) == [value]
    await put(plain, other, stored)
    assert await signed.read([key, other]) == [value, value[:PREFIX_SIZE]]


async def test_an_entry_with_any_other_byte_is_cut_down_and_can_be_replaced(
    plain: MemoryBackend, signed: SignedBackend
) -> None:
    key, value = new_key(), new_value()
    await put(signed, key, value)
    stored = await held(plain, key)
    assert stored is not None
    forged = [stored[:at] + bytes([stored[at] ^ 1]) + stored[at + 1 :] for at in range(1, len(stored))]
    forged += [stored[:length] for length in range(PREFIX_SIZE, len(stored))]
    forged += [stored + b"x", value, b"N" + stored[1:], b"S" + stored[1:], value + bytes(SIGNATURE_SIZE)]
    for entry in forged:
        await replace(plain, key, entry)
        [read] = await signed.read([key])
        assert read == entry[:PREFIX_SIZE]
        token = new_token()
        assert (await signed.lease([Lease(key)], token, MINUTE)).values == [read]
        assert await signed.mark([key], token, MINUTE, {key: MINUTE}) == {}, "no copy of it is left"
        await replace(plain, key, entry)
        assert (await signed.lease([Lease(key, read)], token, MINUTE)).values == [b"L" + token]
        assert await signed.fill([Fill(key, b"L" + token, value, MINUTE)]) == [True]
        assert await signed.read([key]) == [value]


async def test_hints_and_replaced_entries_are_signed(plain: MemoryBackend, signed: SignedBackend) -> None:
    key, token, value, hint = new_key(), new_token(), new_value(), new_value()
    await put(signed, key, value)
    [(entry, _)] = (await signed.mark([key], token, MINUTE, {key: MINUTE})).values()
    assert entry == value
    await signed.clear([Clear(key, hint, MINUTE)], token)
    assert await held(signed, key) == hint
    assert (await held(plain, key) or b"")[:-SIGNATURE_SIZE] == hint


async def test_any_of_the_secrets_verifies_and_the_first_signs(plain: MemoryBackend) -> None:
    new, old = SECRETS
    steps = [(old,), (old, new), (new, old), (new,)]
    for before, after in itertools.pairwise(steps):
        key, value = new_key(), new_value()
        await put(SignedBackend(plain, before), key, value)
        assert await held(SignedBackend(plain, after), key) == (value if before[0] in after else value[:PREFIX_SIZE])
        await put(SignedBackend(plain, after), key := new_key(), value)
        assert await held(SignedBackend(plain, before), key) == (value if after[0] in before else value[:PREFIX_SIZE])


async def test_a_read_can_start_at_once_if_the_store_can(plain: MemoryBackend, signed: SignedBackend) -> None:
    class Slow(MemoryBackend):
        start_read = None  # type: ignore[assignment]

        def __getattribute__(self, name: str) -> object:
            if name == "start_read":
                raise AttributeError(name)
            return super().__getattribute__(name)

    assert not hasattr(SignedBackend(Slow(), SECRETS), "start_read")
    key, value = new_key(), new_value()
    await put(signed, key, value)
    answers: list[object] = []
    assert signed.start_read([key], answers.append)
    await replace(plain, key, value)
    assert signed.start_read([key], answers.append)
    assert answers == [[value], [value[:PREFIX_SIZE]]]


@given(
    first=st.tuples(st.binary(max_size=40), st.binary(max_size=40)),
    second=st.tuples(st.binary(max_size=40), st.binary(max_size=40)),
)
def test_no_two_entries_share_a_signature(first: tuple[bytes, bytes], second: tuple[bytes, bytes]) -> None:
    signer = Signer(SECRETS)
    start = b"V" + bytes(PREFIX_SIZE - 1)
    (key, value), (other_key, other_value) = (first[0], start + first[1]), (second[0], start + second[1])
    signature = signer.sign(key, value)[len(value) :]
    believed = signer.verify(other_key, other_value + signature)
    assert believed == (other_value if (key, value) == (other_key, other_value) else None)


def test_the_end_of_a_key_is_not_the_beginning_of_an_entry() -> None:
    signer = Signer(SECRETS)
    key, first, second = b"key", new_value(), new_value()
    signature = signer.sign(key, first + second)[-SIGNATURE_SIZE:]
    assert signer.verify(key, first + second + signature) == first + second
    assert signer.verify(key + first, second + signature) is None
