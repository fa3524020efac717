"""With a secret, no entry is believed that the application has not stored under the same key."""

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache import CacheConfig, CacheConfigurationError, ModelCache
from aiomodelcache.encoding.layout import ABSENT, GUARD, STALE, VALUE, new_token, pack_entry, unpack_entry
from aiomodelcache.encoding.signatures import SIGNATURE_SIZE, Signer
from aiomodelcache.entries.base import now_ms
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.faults.test_poison import (
    FUZZED,
    KINDS,
    Greeting,
    Place,
    RecordingBackend,
    Tariff,
    fill_tables,
    hostile,
    subjects,
)
from tests.support.effort import SHARE, share

pytestmark = [
    pytest.mark.models("tests.support.models.poisoned_models"),
    pytest.mark.only_on("sqlite", because="the forgery is in the bytes of a store"),
]

SECRET, OTHER = b"the secret of these tests", b"the secret of an attacker"


@pytest.fixture
async def recording(backend: CountingBackend) -> RecordingBackend:
    return RecordingBackend(backend.backend)


def forgeries(key: bytes, stored: bytes, others: dict[bytes, bytes]) -> Iterator[tuple[str, bytes]]:
    """Entries that a program makes of what it finds in the store, without the secret."""
    entry, signature = stored[:-SIGNATURE_SIZE], stored[-SIGNATURE_SIZE:]
    payload, guard = unpack_entry(entry), entry[GUARD]
    again = pack_entry(VALUE, new_token(), guard, now_ms(), payload)
    yield "the signature is missing", entry
    yield "an entry with another token", again
    yield "the signature of the entry before", again + signature
    yield "an absence", pack_entry(ABSENT, new_token(), guard, now_ms()) + signature
    yield "a stale copy", pack_entry(STALE, new_token(), guard, 0, VALUE + payload) + signature
    yield "another state", ABSENT + stored[1:]
    yield "signed by another secret", Signer([OTHER]).sign(key, again)
    yield "signed for another key", Signer([SECRET]).sign(key + b"!", again)
    yield "another time", pack_entry(VALUE, entry[1:17], guard, now_ms() + 60_000, payload) + signature
    for at in range(1, len(stored), 7):
        yield f"byte {at}", stored[:at] + bytes([stored[at] ^ 1]) + stored[at + 1 :]
    for length in (1, 17, len(stored) - 1):
        yield f"{length} bytes", stored[:length]
    for other, moved in others.items():
        if other != key:
            yield f"the entry of {other!r}", moved
            body = pack_entry(VALUE, new_token(), guard, now_ms(), unpack_entry(moved[:-SIGNATURE_SIZE]))
            yield f"the content of {other!r}", body + moved[-SIGNATURE_SIZE:]


@pytest.mark.exhaustive(because="thousands of entries, each planted and looked up")
async def test_no_forged_entry_is_believed_and_each_is_repaired(
    database: BaseDBAsyncClient, recording: RecordingBackend, caplog: pytest.LogCaptureFixture
) -> None:
    await fill_tables()
    tried = 0
    async with ModelCache(recording, secret=SECRET, ttl_jitter=0) as cache:
        for subject in await subjects():
            for _ in range(2):
                assert await subject.query() == subject.expected, subject.name
        stored = {key: value for key, value in recording.read_entries.items() if value[:1] == VALUE}
        for subject in await subjects():
            recording.read_entries.clear()
            assert await subject.query() == subject.expected
            keys = [key for key, value in recording.read_entries.items() if value[:1] == VALUE]
            assert keys, subject.name
            for key in keys:
                before = unusable(cache)
                count = 0
                for name, forged in share(forgeries(key, recording.read_entries[key], stored)):
                    await recording.plant(key, forged)
                    assert await subject.query() == subject.expected, (subject.name, key, name)
                    count += 1
                tried += count
                assert unusable(cache) >= before + count, (subject.name, key)
        assert cache.stats.backend_errors == 0
        warned = sum("undecodable" in counters.warned for counters in cache.stats.by_cache.values())
    assert tried > 2_000 // SHARE
    logged = [message for message in caplog.messages if "signature is missing or wrong" in message]
    assert len(logged) == warned > 10


def unusable(cache: ModelCache) -> int:
    return sum(counters.undecodable + counters.mismatched for counters in cache.stats.by_cache.values())


async def test_an_entry_from_before_is_believed_again(database: BaseDBAsyncClient, recording: RecordingBackend) -> None:
    """A signature does not show that an entry is the last one: see SECURITY.md."""
    await fill_tables()
    async with ModelCache(recording, secret=SECRET):
        for _ in range(2):
            await Greeting("kim")
        [(key, stored)] = [(key, value) for key, value in recording.read_entries.items() if value[:1] == VALUE]
        await Greeting("kim").invalidate()
        await recording.plant(key, stored)
        async with assert_ops(recording, redis=["read"]):
            assert await Greeting("kim") == ["hello", "kim"]


@pytest.mark.parametrize(("before", "after"), [(None, SECRET), (SECRET, None), (SECRET, OTHER)])
async def test_entries_of_another_secret_are_replaced(
    database: BaseDBAsyncClient, backend: CountingBackend, before: bytes | None, after: bytes | None
) -> None:
    await fill_tables()
    async with ModelCache(backend, secret=before):
        for subject in await subjects():
            await subject.query()
    async with ModelCache(backend, secret=after) as cache:
        for subject in await subjects():
            assert await subject.query() == subject.expected, subject.name
        assert unusable(cache) > 0
        for subject in await subjects():
            await subject.query()
            async with assert_ops(backend, sql=0):
                assert await subject.query() == subject.expected, subject.name


async def test_a_secret_is_rotated_without_a_miss(database: BaseDBAsyncClient, backend: CountingBackend) -> None:
    await fill_tables()
    for secret in (OTHER, [OTHER, SECRET], (SECRET, OTHER)):
        async with ModelCache(backend, secret=secret), assert_ops(backend, sql=1 if secret is OTHER else 0):
            await Tariff.cache.get(name="full")
    async with ModelCache(backend, secret=[SECRET]), assert_ops(backend, sql=1):
        await Tariff.cache.get(name="full")


@pytest.mark.only_on("redis", because="a store in memory does not report changes")
async def test_near_entries_are_verified_when_they_are_read(database: BaseDBAsyncClient, backend_url: str) -> None:
    await fill_tables()
    async with ModelCache(backend_url, secret=SECRET, near=True) as cache:
        for _ in range(3):
            await Place.cache.get(name="place 1")
        before = cache.stats.round_trips, cache.stats.near.hits
        await Place.cache.get(name="place 1")
        assert (cache.stats.round_trips, cache.stats.near.hits) == (before[0], before[1] + 1)


WRONG: list[Any] = [
    b"",
    b"too short here",
    "a text of any length",
    [],
    [SECRET, b"short"],
    [SECRET, None],
    7,
    {SECRET: 1},
]


@pytest.mark.only_on("no store", because="it is about the settings")
@pytest.mark.parametrize("make", [CacheConfig, lambda secret: ModelCache("memory://", secret=secret)])
@pytest.mark.parametrize("secret", WRONG, ids=lambda secret: type(secret).__name__)
def test_a_secret_that_is_none_is_an_error_that_does_not_show_it(make: Callable[..., Any], secret: Any) -> None:
    message = r"CacheConfig\.secret is wrong: it must be 16 bytes or more, like secrets\.token_bytes\(32\), or a list"
    with pytest.raises(CacheConfigurationError, match=message) as caught:
        make(secret=secret)
    assert "short" not in str(caught.value)


@pytest.mark.only_on("no store", because="it is about the settings")
def test_no_repr_shows_the_secret() -> None:
    config = CacheConfig(secret=[SECRET])
    assert "secret" not in re.sub("aiomodelcache", "", repr(config))
    assert "of these tests" not in repr(ModelCache("memory://", secret=SECRET))


@pytest.mark.exhaustive(because="it is about the number of entries")
@pytest.mark.only_on("memory", because="no lookup is sent to the store")
async def test_no_made_up_entry_changes_an_answer(database: BaseDBAsyncClient, recording: RecordingBackend) -> None:
    """With a valid header and checksum, and the signature of another entry, a changed one or none."""
    await fill_tables()
    seed = random.randrange(2**32)
    chance, signer = random.Random(seed), Signer([SECRET])
    tried: Counter[str] = Counter()
    async with ModelCache(recording, secret=SECRET) as cache:
        for _ in range(3):
            recording.read_entries.clear()
            for subject in await subjects():
                await subject.query()
        signed = {key: value for key, value in recording.read_entries.items() if value[:1] == VALUE}
        payloads = [unpack_entry(value[:-SIGNATURE_SIZE]) for value in signed.values()]
        verify = cast("Any", cache.backend)._verify
        for number in range(FUZZED // 10):
            key, stored = chance.choice([*signed.items()])
            kind = chance.randrange(len(KINDS))
            state = chance.choice([VALUE] * 6 + [ABSENT, STALE])
            entry = pack_entry(state, new_token(), stored[GUARD], now_ms(), hostile(chance, payloads, kind))
            signature = bytearray(chance.choice([*signed.values()])[-SIGNATURE_SIZE:])
            if chance.randrange(2):
                signature[chance.randrange(SIGNATURE_SIZE)] ^= 1 << chance.randrange(8)
            forged = entry + signature[: chance.choice([SIGNATURE_SIZE, SIGNATURE_SIZE, chance.randrange(16)])]
            tried[KINDS[kind]] += 1
            assert verify(key, forged) is None, (seed, number)
            assert verify(key, signer.sign(key, entry)) == entry
    print(f"{tried.total():,} forged entries:", *[f"{count:,} {kind}" for kind, count in tried.items()])


@pytest.mark.only_on("redis", because="the URL has a password")
async def test_an_open_cache_shows_neither_its_secret_nor_the_password_of_its_store(
    database: BaseDBAsyncClient, backend_url: str
) -> None:
    async with ModelCache(f"{backend_url}&password=hunter2", secret=SECRET, require_backend=False) as cache:
        for shown in (cache, cache.open_cache, cache.backend, cache.config):
            assert "hunter2" not in repr(shown)
            assert SECRET.decode() not in repr(shown)
