"""The public names for tests of applications."""

from typing import assert_type

from aiomodelcache import Backend, MemoryBackend, ModelCache
from aiomodelcache.testing import (
    CountingBackend,
    Ops,
    assert_ops,
    count_ops,
    isolated_cache,
    transaction_as_autocommit,
)
from aiomodelcache.testing.conformance import BackendConformance


async def counts(cache: ModelCache) -> None:
    async with assert_ops(redis=1, sql=0, transactions=0) as ops:
        assert_type(ops, Ops)
        assert_type(ops.operations, list[str])
        assert_type(ops.statements, list[str])
        assert_type(ops.transactions, int)
    async with assert_ops(cache, redis=["read"]), assert_ops(cache=cache):
        pass
    with assert_ops(sql=0) as ops, assert_ops(cache, redis=1) as other:
        assert_type([ops, other], list[Ops])
    with count_ops() as ops, count_ops(cache) as other:
        assert_type([ops, other], list[Ops])
    backend = CountingBackend(MemoryBackend())
    async with ModelCache(backend), assert_ops(backend, redis=("mark", "clear")):
        assert_type(backend.operations, list[str])


async def isolated() -> None:
    async with isolated_cache() as cache:
        assert_type(cache, ModelCache)
    async with isolated_cache("redis://localhost:6379/0", timeout=60):
        pass
    with transaction_as_autocommit():
        pass


class TestMemory(BackendConformance):
    many = 100

    async def make_backend(self) -> Backend:
        return MemoryBackend()


async def wrong(cache: ModelCache) -> None:
    async with assert_ops(redis=1.5):  # wrong
        pass
    async with assert_ops(None, 0):  # wrong
        pass
    async with assert_ops("memory://"):  # wrong
        pass
    async with isolated_cache(timout=60):  # wrong
        pass
    async with isolated_cache(cache):  # wrong
        pass


class TestNothing(BackendConformance):
    def make_backend(self) -> Backend:  # wrong
        return MemoryBackend()
