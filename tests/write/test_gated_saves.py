"""Saves in autocommit mode: the statement waits for the mark, and on PostgreSQL the clear does not wait for a reset."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import IntegrityError, ValidationError
from tortoise.models import Model

from aiomodelcache import CacheWriteError, MemoryBackend, ModelCache
from aiomodelcache.exceptions import BackendError
from aiomodelcache.testing import CountingBackend, count_ops
from tests.support.gates import PATIENCE, GatedBackend
from tests.support.models.shelves import Book
from tests.support.stored import ask_twice, states

pytestmark = pytest.mark.models("tests.support.models.shelves")

TURNS = 30
"""Turns of the event loop in which a write that need not wait is done."""
RESET = pytest.mark.only_on("postgres", because="asyncpg alone resets its connections")


@pytest.fixture
async def store(backend: CountingBackend) -> GatedBackend:
    return GatedBackend(backend.backend)


@pytest.fixture
async def gated(database: BaseDBAsyncClient, store: GatedBackend) -> AsyncIterator[ModelCache]:
    async with ModelCache(store) as opened:
        yield opened


async def create() -> None:
    await Book.create(id=5, isbn=5)


async def save() -> None:
    book = await Book.get(isbn=1)
    book.title = "new"
    await book.save()


async def save_a_column() -> None:
    book = await Book.get(isbn=1)
    book.title = "new"
    await book.save(update_fields=["title"])


async def delete() -> None:
    await (await Book.get(isbn=1)).delete()


@pytest.mark.parametrize("write", [create, save, save_a_column, delete])
class TestOrder:
    async def test_no_statement_is_sent_before_the_mark_is_acknowledged(
        self, write: Callable[[], Awaitable[None]], gated: ModelCache, store: GatedBackend
    ) -> None:
        await Book.create(id=1, isbn=1)
        gate = store.hold("mark", "after")
        with count_ops(gated) as ops:
            writing = asyncio.ensure_future(write())
            await gate.reached()
            for _ in range(TURNS):
                await asyncio.sleep(0)
            assert not [sent for sent in ops.statements if sent.startswith(("INSERT", "UPDATE", "DELETE"))]
            gate.open()
            await writing
        assert len([sent for sent in ops.statements if sent.startswith(("INSERT", "UPDATE", "DELETE"))]) == 1

    async def test_no_write_returns_before_the_clear_is_acknowledged(
        self, write: Callable[[], Awaitable[None]], gated: ModelCache, store: GatedBackend
    ) -> None:
        await Book.create(id=1, isbn=1)
        gate = store.hold("clear", "after")
        writing = asyncio.ensure_future(write())
        await gate.reached()
        for _ in range(TURNS):
            await asyncio.sleep(0)
        assert not writing.done()
        gate.open()
        await writing


class TestFailures:
    async def test_a_value_that_is_refused_while_the_mark_is_under_way_leaves_no_intent(
        self, gated: ModelCache, store: GatedBackend
    ) -> None:
        book = await Book.create(id=1, isbn=1)
        book.title = "x" * 65
        gate = store.hold("mark", "after")
        saving = asyncio.ensure_future(book.save())
        await gate.reached()
        gate.open()
        with pytest.raises(ValidationError):
            await saving
        assert store.operations[-2:] == ["mark", "clear"]
        assert await states(gated, Book.cache.get(id=1)) == "."

    async def test_a_save_below_that_tries_again_waits_for_the_first_mark(
        self, gated: ModelCache, store: GatedBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The first attempt fails before its statement, and leaves its mark under way."""
        book = await Book.create(id=1, isbn=1)
        original: Any = Model.save

        async def save_twice(self: Any, *arguments: Any) -> None:
            try:
                await original(self, *arguments)
            except ValidationError:
                self.title = "short"
                await original(self, *arguments)

        monkeypatch.setattr(Model, "save", save_twice)
        book.title = "x" * 65
        gate = store.hold("mark", "after")
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
            group.create_task(book.save())
            await gate.reached()
            gate.open()
        assert (await ask_twice(lambda: Book.cache.get(id=1), store)).title == "short"

    @pytest.mark.only_on("memory", because="the store refuses the mark itself")
    async def test_a_mark_that_is_refused_refuses_the_write(
        self, database: BaseDBAsyncClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = MemoryBackend()
        async with ModelCache(store, on_write_error="raise") as cache:
            book = await Book.create(id=1, isbn=1)

            async def refuse(*_: Any) -> Any:
                await asyncio.sleep(0)
                raise BackendError("no answer")

            with monkeypatch.context() as patched:
                patched.setattr(store, "mark", refuse)
                book.title = "new"
                with count_ops(cache) as ops, pytest.raises(CacheWriteError):
                    await book.save()
                assert not ops.statements
            assert cache.stats.unknown_outcomes == 0
            assert (await Book.cache.get(id=1)).title == ""

    @pytest.mark.parametrize("deleted", [False, True])
    async def test_a_forced_update_of_a_row_that_is_gone_leaves_no_hint(
        self, gated: ModelCache, deleted: bool, store: GatedBackend
    ) -> None:
        book = await Book.create(id=1, isbn=1)
        if deleted:
            await Book.filter(id=1).delete()
        book.title = "new"
        if deleted:
            with pytest.raises(IntegrityError):
                await book.save(force_update=True)
        else:
            await book.save(force_update=True)
        assert await states(gated, Book.cache.get(isbn=1)) == ("." if deleted else "V")


@pytest.fixture
def resets(monkeypatch: pytest.MonkeyPatch, store: GatedBackend) -> list[list[str]]:
    """The operations of the store before each reset of a connection."""
    import asyncpg

    found: list[list[str]] = []
    original: Any = asyncpg.connection.Connection.reset

    async def reset(self: Any, **options: Any) -> None:
        found.append(store.operations.copy())
        store.operations.clear()
        await original(self, **options)

    monkeypatch.setattr(asyncpg.connection.Connection, "reset", reset)
    return found


@RESET
class TestResets:
    async def test_the_clear_is_sent_before_the_connection_is_reset(
        self, gated: ModelCache, store: GatedBackend, resets: list[list[str]]
    ) -> None:
        book = await Book.create(id=1, isbn=1)
        store.operations.clear()
        resets.clear()
        book.title = "new"
        await book.save()
        await book.save(update_fields=["title"])
        await book.delete()
        assert resets == [["mark", "clear"]] * 3

    async def test_a_row_that_is_not_found_is_not_cleared_before_all_its_keys_are_marked(
        self, gated: ModelCache, store: GatedBackend, resets: list[list[str]]
    ) -> None:
        """Another writer has moved the row to another list, from which the save takes it back."""
        await Book.create(id=1, isbn=1)
        book = await Book.get(id=1)
        await Book.filter(id=1).update(shelf=2)
        assert [each.id for each in await Book.cache.filter(shelf=1)] == []
        store.operations.clear()
        resets.clear()
        await book.save()
        assert resets == [["mark"], ["mark", "clear"]]
        assert [each.id for each in await Book.cache.filter(shelf=1)] == [1]

    async def test_a_committed_row_is_cleared_although_its_connection_breaks(
        self, gated: ModelCache, store: GatedBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import asyncpg

        book = await Book.create(id=1, isbn=1)
        assert (await Book.cache.get(id=1)).title == ""

        async def fail(self: Any, **options: Any) -> None:
            raise asyncpg.InterfaceError("broken")

        book.title = "new"
        with monkeypatch.context() as patched:
            patched.setattr(asyncpg.connection.Connection, "reset", fail)
            with pytest.raises(Exception, match="broken"):
                await book.save()
        await gated.open_cache.tasks.finish(PATIENCE)
        assert await states(gated, Book.cache.get(id=1)) == "."
        assert gated.stats.unknown_outcomes == 0
        assert (await Book.cache.get(id=1)).title == "new"
