"""The contexts that a cache depends on: the one that it was opened in, and Tortoise's own of its callers."""

import asyncio
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ClassVar

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.context import TortoiseContext
from tortoise.expressions import Q
from tortoise.manager import Manager
from tortoise.queryset import QuerySet
from tortoise.transactions import in_transaction

from aiomodelcache import BatchCacheQuery, CacheConfigurationError, ModelCache, TenantError, cached, local_cache
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.gates import Outside
from tests.support.models.result_models import Member, MemberCount, Numbers

pytestmark = pytest.mark.models("tests.support.models.result_models")


class TestOpenedInATransaction:
    async def test_computations_see_what_is_committed(
        self, database: BaseDBAsyncClient, backend: CountingBackend
    ) -> None:
        await Member.create(team=1, number=1)
        async with in_transaction():
            cache = await ModelCache(backend).open()
        try:
            async with in_transaction():
                await Member.create(team=1, number=2)
            assert await Numbers(1) == [1, 2]
            assert await MemberCount(1) == 2
        finally:
            await cache.close()

    @pytest.mark.only_on("postgres", "mariadb", because="SQLite has one connection, so others wait for the transaction")
    async def test_computations_see_nothing_uncommitted(
        self, database: BaseDBAsyncClient, backend: CountingBackend, outside: Outside
    ) -> None:
        async def numbers() -> Any:
            return await Numbers(1)

        await Member.create(team=1, number=1)
        async with in_transaction():
            cache = await ModelCache(backend).open()
            await Member.create(team=1, number=2)
            assert await outside(numbers()) == [1]
        try:
            assert await Numbers(1) == [1, 2]
        finally:
            await cache.close()


@pytest.mark.only_on("sqlite", because="no statement is sent in the second context")
class TestSecondTortoiseContext:
    async def test_every_lookup_in_it_is_refused_hits_too(self, cache: ModelCache) -> None:
        @cached()
        async def name() -> str:
            return (await Member.get(id=1)).name

        await Member.create(id=1, team=1, number=1, name="first")
        assert (await Member.cache.get(id=1)).name == "first"
        assert await MemberCount(1) == 1
        lookups = [
            lambda: Member.cache.get(id=1),
            lambda: Member.cache.get_many([1]),
            lambda: MemberCount(1),
            lambda: Numbers(1),
            lambda: name.query(),
            lambda: BatchCacheQuery(member=Member.cache.get(id=1)),
        ]
        with TortoiseContext():
            for lookup in lookups:
                with pytest.raises(TenantError, match="another TortoiseContext"):
                    await lookup()  # type: ignore[no-untyped-call]
                with local_cache(), pytest.raises(TenantError, match="another TortoiseContext"):
                    await lookup()  # type: ignore[no-untyped-call]
            with pytest.raises(TenantError, match=r"ModelCache\(tenant="):
                await asyncio.create_task(Member.cache.get(id=1).resolve())
        for lookup in lookups:
            await lookup()  # type: ignore[no-untyped-call]


current: ContextVar[int] = ContextVar("current", default=0)


class Shelves(Manager):
    """A manager whose rows depend on a function that its code does not name."""

    functions: ClassVar[dict[str, Callable[[], Any]]] = {}

    def get_queryset(self) -> QuerySet[Any]:
        return super().get_queryset().filter(team=self.functions["chosen"]())


class Reading(Manager):
    def get_queryset(self) -> QuerySet[Any]:
        return super().get_queryset().filter(team=current.get())


def _chosen() -> int:
    return current.get()


class Calling(Manager):
    def get_queryset(self) -> QuerySet[Any]:
        return self._rows()

    def _rows(self) -> QuerySet[Any]:
        teams = [_chosen() for _ in range(1)]
        return super().get_queryset().filter(team__in=teams)


def _enclosing(variable: ContextVar[int]) -> type[Manager]:
    class Enclosed(Manager):
        def get_queryset(self) -> QuerySet[Any]:
            return super().get_queryset().filter(team=variable.get())

    return Enclosed


class Soft(Manager):
    """A manager that hides rows, by the rows alone."""

    def get_queryset(self) -> QuerySet[Any]:
        return super().get_queryset().filter(~Q(name="deleted"))


@contextmanager
def managed(manager: Manager) -> Iterator[None]:
    """Gives the model another manager inside the block."""
    meta: Any = Member._meta
    before, manager._model = meta.manager, Member
    meta.manager = manager
    try:
        yield
    finally:
        meta.manager = before


@pytest.mark.only_on("sqlite", because="which rows a manager selects depends on no database")
class TestManagersThatDependOnAContext:
    @pytest.mark.parametrize("manager", [Reading, Calling, _enclosing(current)], ids=lambda each: each.__name__)
    async def test_one_that_reads_a_context_variable_is_refused_when_the_cache_opens(
        self, database: BaseDBAsyncClient, backend: CountingBackend, manager: type[Manager]
    ) -> None:
        with managed(manager()):
            with pytest.raises(CacheConfigurationError, match=r"Member: \w+.get_queryset reads .*'current'.*tenant="):
                await ModelCache(backend).open()
            async with ModelCache(backend, tenant=current.get):
                assert await Member.cache.get_or_none(id=1) is None

    async def test_one_that_turns_out_to_depend_on_it_is_refused_before_its_statement(
        self, database: BaseDBAsyncClient, backend: CountingBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(Shelves.functions, "chosen", lambda: current.get())
        await Member.create(id=1, team=1, number=1)
        await Member.create(id=2, team=0, number=2)
        lookups: list[Callable[[], Any]] = [
            lambda: Member.cache.get_or_none(id=1),
            lambda: Member.cache.get_many([1, 2]),
            lambda: MemberCount(1),
            lambda: Numbers(1),
            lambda: BatchCacheQuery(member=Member.cache.get_or_none(id=1)),
        ]
        with managed(Shelves()):
            async with ModelCache(backend):
                current.set(1)
                async with assert_ops(sql=0):
                    for lookup in lookups:
                        with pytest.raises(TenantError, match=r"Member: its manager or a router selects other rows"):
                            await lookup()
                        with local_cache(), pytest.raises(TenantError, match=r"ModelCache\(tenant="):
                            await lookup()
                current.set(0)
                for lookup in lookups:
                    await lookup()
                assert await Member.cache.get_or_none(id=1) is None
                assert (await Member.cache.get(id=2)).number == 2
                async with in_transaction():
                    current.set(1)
                    assert (await Member.cache.get(id=1)).number == 1
                current.set(0)

    async def test_one_that_depends_on_the_time_or_the_rows_is_not_refused(
        self, database: BaseDBAsyncClient, backend: CountingBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ticks = itertools.count()
        monkeypatch.setitem(Shelves.functions, "chosen", lambda: next(ticks))
        for manager in (Soft(), Shelves()):
            with managed(manager):
                async with ModelCache(backend):
                    current.set(1)
                    assert await Member.cache.get_or_none(id=1) is None
                    current.set(0)
