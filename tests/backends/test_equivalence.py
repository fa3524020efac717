"""Memory and Redis, given the same operations, answer the same and hold the same bytes."""

import os
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from aiomodelcache.backends.memory import MemoryBackend
from aiomodelcache.backends.protocol import Backend, Clear, Fill, Lease
from aiomodelcache.backends.redis.backend import RedisBackend
from aiomodelcache.testing.conformance import MINUTE

from .opening import opened

KEYS = [b"row", b"index", b"epoch", b"stamp"]
TOKENS = [bytes(16), b"0123456789abcdef", b"\xff" * 16]
PREFIXES = [b"", b"junk", b"V" + TOKENS[0], b"V" + TOKENS[1], b"L" + TOKENS[1], b"V" + TOKENS[0] + b"pay"]
VALUES = [
    b"",
    b"junk",
    b"junk and more",
    b"V" + TOKENS[0],
    b"V" + TOKENS[0] + b"payload",
    b"N" + TOKENS[1] + b"\r\n",
    b"S" + TOKENS[2] + b"Vold",
]
AS_READ = b"as read"
"""A placeholder for the first bytes of the key's present value."""

keys = st.sampled_from(KEYS)
tokens = st.sampled_from(TOKENS)
values = st.sampled_from(VALUES)
standing = st.sampled_from([*(b"L" + token for token in TOKENS), VALUES[4], VALUES[6][:17]])
allowed = st.dictionaries(keys, st.just(MINUTE // 2))
some_keys = st.lists(keys, max_size=3)


def lists_of(*parts: st.SearchStrategy[Any]) -> st.SearchStrategy[list[tuple[Any, ...]]]:
    return st.lists(st.tuples(*parts), max_size=4)


operations = st.one_of(
    st.tuples(st.just("read"), some_keys),
    st.tuples(st.just("lease"), lists_of(keys, st.sampled_from([*PREFIXES, AS_READ])), tokens, some_keys),
    st.tuples(st.just("fill"), lists_of(keys, standing, values)),
    st.tuples(st.just("mark"), some_keys, tokens, allowed),
    st.tuples(st.just("clear"), lists_of(keys, values, st.booleans()), tokens, some_keys),
    st.tuples(st.just("delete"), some_keys),
)


class Run:
    """One sequence of operations on one backend, described without random bytes and times."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._prefix = os.urandom(8)
        self._versions: dict[bytes, int] = {}
        self._until: dict[bytes, int] = {}

    def _key(self, key: bytes) -> bytes:
        return self._prefix + key

    def _describe(self, value: bytes | None) -> object:
        if value is None or value[:1] not in (b"E", b"W"):
            return value
        if value[:1] == b"E":
            return "version", self._versions.setdefault(value, len(self._versions)), len(value)
        return "intents", [value[at : at + 16] for at in range(1, len(value), 29)], len(value)

    async def stored_values(self) -> list[object]:
        return [self._describe(value) for value in await self._backend.read([self._key(key) for key in KEYS])]

    async def do(self, name: str, *arguments: Any) -> object:
        return await getattr(self, name)(*arguments)

    async def read(self, keys: list[bytes]) -> object:
        return [self._describe(value) for value in await self._backend.read([self._key(key) for key in keys])]

    async def lease(self, leases: list[tuple[bytes, bytes]], token: bytes, versions: list[bytes]) -> object:
        asked = [Lease(self._key(key), await self._prefix_of(key, prefix)) for key, prefix in leases]
        versions = [self._key(key) for key in versions]
        answer = await self._backend.lease(asked, token, MINUTE, versions)
        return [self._describe(value) for value in answer.values + answer.versions]

    async def _prefix_of(self, key: bytes, prefix: bytes) -> bytes:
        if prefix != AS_READ:
            return prefix
        [value] = await self._backend.read([self._key(key)])
        return (value or b"")[:17]

    async def fill(self, fills: list[tuple[bytes, bytes, bytes]]) -> object:
        return await self._backend.fill([Fill(self._key(key), *rest, MINUTE) for key, *rest in fills])

    async def mark(self, keys: list[bytes], token: bytes, allowed: dict[bytes, int]) -> object:
        allow = {self._key(key): allowed for key, allowed in allowed.items()}
        kept = await self._backend.mark([self._key(key) for key in keys], token, MINUTE, allow)
        self._until.update({key: until_ms for key, (_, until_ms) in kept.items()})
        return {key.removeprefix(self._prefix): entry for key, (entry, _) in kept.items()}

    async def clear(self, clears: list[tuple[bytes, bytes, bool]], token: bytes, stamps: list[bytes]) -> object:
        asked = [
            Clear(self._key(key), hint, MINUTE, self._until.get(self._key(key), 0) if kept else 0)
            for key, hint, kept in clears
        ]
        return await self._backend.clear(asked, token, [self._key(key) for key in stamps])

    async def delete(self, keys: list[bytes]) -> object:
        return await self._backend.delete([self._key(key) for key in keys])


@pytest.fixture
async def redis_backend(redis_url: str) -> AsyncIterator[RedisBackend]:
    async with opened(redis_url) as backend:
        yield backend


# All examples share the fixture, and each example has keys of its own.
@settings(
    max_examples=150,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(operations, max_size=15))
@example(
    [
        ("lease", [(b"row", b"")], TOKENS[0], [b"epoch"]),
        ("mark", [b"row", b"epoch"], TOKENS[1], {}),
        ("fill", [(b"row", b"L" + TOKENS[0], b"junk")]),
        ("mark", [b"row"], TOKENS[2], {}),
        ("lease", [(b"row", AS_READ)], TOKENS[0], [b"epoch"]),
        ("clear", [(b"row", b"junk", False), (b"epoch", b"", False)], TOKENS[1], [b"stamp"]),
        ("clear", [(b"row", b"junk", False)], TOKENS[2], [b"stamp"]),
    ]
)
@example(
    [
        ("lease", [(b"row", b"")], TOKENS[0], []),
        ("fill", [(b"row", b"L" + TOKENS[0], VALUES[4])]),
        ("fill", [(b"row", VALUES[4], VALUES[6])]),
        ("mark", [b"row", b"index"], TOKENS[1], {b"row": MINUTE, b"index": MINUTE}),
        ("clear", [(b"row", VALUES[6], True)], TOKENS[1], []),
        ("mark", [b"row"], TOKENS[2], {b"row": MINUTE}),
    ]
)
async def test_memory_and_redis_answer_alike_and_hold_the_same_bytes(
    redis_backend: RedisBackend, sequence: list[tuple[Any, ...]]
) -> None:
    memory, redis = Run(MemoryBackend()), Run(redis_backend)
    for operation in sequence:
        assert await memory.do(*operation) == await redis.do(*operation), operation
        assert await memory.stored_values() == await redis.stored_values(), operation
