"""The request scope: a repeated lookup returns the same object without I/O, until a write inside the scope."""

import asyncio
import contextvars
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import DoesNotExist, IntegrityError
from tortoise.expressions import F
from tortoise.transactions import in_transaction

from aiomodelcache import BatchCacheQuery, MemoryBackend, ModelCache, local_cache
from aiomodelcache.scopes.request import current_scope
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.gates import GatedBackend, gated_sql
from tests.support.models.shelves import Author, Book, Note
from tests.support.stored import cancel

pytestmark = [
    pytest.mark.models("tests.support.models.shelves"),
    pytest.mark.only_on("sqlite", because="what a scope remembers depends on no database"),
]


@pytest.fixture
def store(backend: CountingBackend) -> GatedBackend:
    return GatedBackend(backend)


@pytest.fixture
async def gated(database: BaseDBAsyncClient, store: GatedBackend) -> AsyncIterator[ModelCache]:
    async with ModelCache(store) as opened:
        yield opened


async def in_task(work: Awaitable[Any]) -> Any:
    """Awaits ``work`` in a child task."""

    async def run() -> Any:
        return await work

    return await asyncio.create_task(run())


async def saved(book: Book) -> None:
    book.isbn = 2
    await book.save()


async def saved_in_part(book: Book) -> None:
    book.number = 2
    await book.save(update_fields=["number"])


async def saved_in_a_transaction(book: Book) -> None:
    async with in_transaction():
        book.isbn, book.title = 2, "refused"
        await book.save()


async def saved_in_a_transaction_that_goes_on(book: Book) -> None:
    async with in_transaction():
        book.isbn = 2
        try:
            await book.save()
        except IntegrityError as error:
            refused = error
    raise refused


async def saved_by_a_wrong_name(book: Book) -> None:
    book.title = "refused"
    await book.save(update_fields=["titel"])


async def saved_under_another_primary_key(book: Book) -> None:
    book.id, book.isbn = 77, 2
    await book.save(force_create=True)


async def saved_with_others(book: Book) -> None:
    book.isbn = 2
    await Book.bulk_update([book], ["isbn"])


REFUSED = [
    saved,
    saved_in_part,
    saved_in_a_transaction,
    saved_in_a_transaction_that_goes_on,
    saved_by_a_wrong_name,
    saved_under_another_primary_key,
    saved_with_others,
]


class TestLookups:
    async def test_a_repeated_lookup_returns_the_same_object_without_io(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        author = await Author.create(number=1, name="Kim")
        book = await Book.create(isbn=1, number=5, author=author)
        other = await Book.create(isbn=2)
        with local_cache():
            found = await Book.cache.get(id=book.id)
            assert found == book
            for again in (
                await Book.cache.get(isbn=1),
                await Book.cache.get(shelf=1, number=5),
                (await Book.cache.filter(shelf=1))[0],
                (await Book.cache.filter(author=author))[0],
                (await Book.cache.get_many([other.id, book.id]))[1],
                (await Book.cache.in_bulk([1], key="isbn"))[1],
            ):
                assert again is found
            writer = await found.author
            assert writer == author
            async with assert_ops(backend, sql=0, redis=0):
                assert await Book.cache.get(id=book.id) is found
                assert await Book.cache.get_or_none(isbn=1) is found
                assert await Book.cache.get(number=5, shelf=1) is found
                assert [row is found for row in await Book.cache.filter(shelf=1)] == [True, False]
                assert await Book.cache.filter(author=1) == [found]
                assert (await Book.cache.in_bulk([book.id, other.id]))[book.id] is found
                assert (await Book.cache.get_many([1], key="isbn"))[0] is found
                assert await Author.cache.get(number=1) is writer
                assert await found.author is writer
                assert (await Book.cache.count(shelf=1), await Book.cache.exists(author=1)) == (2, True)
        async with assert_ops(backend, sql=0, redis=1):
            assert await Book.cache.get(id=book.id) is not found

    async def test_absent_rows_and_empty_lists_are_remembered(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        async with local_cache():
            for _ in range(2):
                with pytest.raises(DoesNotExist):
                    await Book.cache.get(id=404)
                assert await Book.cache.get_or_none(isbn=404) is None
                assert await Book.cache.filter(shelf=404) == []
                assert not await Book.cache.exists(shelf=405)
                assert await Book.cache.count(shelf=406) == 0
                assert await Book.cache.get_many([405, 406]) == []
                async with assert_ops(backend, sql=0, redis=0):
                    assert await Book.cache.get_or_none(isbn=404) is None
                    assert await Book.cache.count(shelf=406) == 0

    async def test_a_batch_reads_only_lookups_that_the_scope_does_not_hold(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        book, other = await Book.create(isbn=1), await Book.create(isbn=2, shelf=2)
        for query in (Book.cache.get(isbn=1), Book.cache.get(isbn=2), Book.cache.filter(shelf=1)):
            await query
        async with local_cache():
            found = await Book.cache.get(isbn=1)
            batch = BatchCacheQuery(
                {"same": Book.cache.get(isbn=1), "list": Book.cache.filter(shelf=1), "other": Book.cache.get(isbn=2)}
            )
            async with assert_ops(backend, sql=0, redis=["read"]):
                answer = await batch.get()
            assert answer["same"] is answer["list"][0] is found == book
            assert answer["other"] == other
            async with assert_ops(backend, sql=0, redis=0):
                again = await batch
                assert (await batch.get(only_cache=True)).keys() == answer.keys()
            assert [again[name] is answer[name] for name in ("same", "other")] == [True, True]
            assert await Book.cache.get(id=other.id) is answer["other"]

    async def test_concurrent_lookups_return_one_object(self, cache: ModelCache) -> None:
        await Book.create(isbn=1)
        async with local_cache():
            found = await asyncio.gather(
                *[Book.cache.get(isbn=1) for _ in range(3)], Book.cache.get(id=1), in_task(Book.cache.get(isbn=1))
            )
            assert len({id(book) for book in found}) == 1
            assert (await Book.cache.filter(shelf=1))[0] is found[0]

    async def test_each_call_returns_a_list_of_its_own(self, cache: ModelCache) -> None:
        await Book.create(isbn=1)
        with local_cache():
            (await Book.cache.filter(shelf=1)).clear()
            (await Book.cache.filter(shelf=1)).clear()
            assert len(await Book.cache.filter(shelf=1)) == 1


class TestExtent:
    async def test_tasks_started_inside_share_the_scope(self, cache: ModelCache, backend: CountingBackend) -> None:
        await Book.create(isbn=1)
        found: list[Book] = []

        async def look() -> None:
            found.append(await Book.cache.get(isbn=1))

        with local_cache():
            await asyncio.gather(look(), look())
            async with assert_ops(backend, sql=0, redis=0):
                async with asyncio.TaskGroup() as group:
                    group.create_task(look())
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(look)
                    tasks.start_soon(look)
                await look()
        assert len(found) == 6
        assert len({id(book) for book in found}) == 1

    async def test_an_inner_scope_starts_empty_and_leaves_the_outer_scope_unchanged(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        await Book.create(isbn=1)
        with local_cache():
            outer = await Book.cache.get(isbn=1)
            async with local_cache():
                async with assert_ops(backend, sql=0, redis=1):
                    inner = await Book.cache.get(isbn=1)
                assert inner is not outer
                assert await Book.cache.get(isbn=1) is inner
            assert await Book.cache.get(isbn=1) is outer
        assert current_scope() is None

    async def test_concurrent_scopes_share_no_objects(self, cache: ModelCache) -> None:
        await Book.create(isbn=1)
        all_entered, all_read = asyncio.Barrier(3), asyncio.Barrier(3)

        async def request(scope: local_cache) -> Book:
            async with scope:
                await all_entered.wait()
                book = await Book.cache.get(isbn=1)
                await all_read.wait()
                assert await Book.cache.get(isbn=1) is book
                return book

        shared = local_cache()  # a scope can be entered several times at once, in any number of tasks
        books = await asyncio.gather(request(local_cache()), request(shared), request(shared))
        assert len({id(book) for book in books}) == 3
        assert current_scope() is None

    async def test_a_scope_does_not_leak_out_of_its_task(self, cache: ModelCache, backend: CountingBackend) -> None:
        await Book.create(isbn=1)
        await Book.cache.get(isbn=1)

        async def request() -> None:
            with local_cache():
                await Book.cache.get(isbn=1)
                inside.set()
                await proceed.wait()

        inside, proceed = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(request())
        await inside.wait()
        assert current_scope() is None
        async with assert_ops(backend, sql=0, redis=1):
            await Book.cache.get(isbn=1)
        proceed.set()
        await task
        for error in (ValueError, asyncio.CancelledError):
            with pytest.raises(error):
                await self._fail(error())
            assert current_scope() is None

    @staticmethod
    async def _fail(error: BaseException) -> None:
        async with local_cache():
            raise error

    async def test_a_task_that_outlives_all_its_scopes_has_no_scope(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        book = await Book.create(isbn=1, title="old")
        over = asyncio.Event()

        async def late() -> str:
            held = await Book.cache.get(isbn=1)
            await over.wait()
            found = await Book.cache.get(isbn=1)
            assert found is not held
            assert await Book.cache.get(isbn=1) is not found
            return found.title

        with local_cache():
            outer = await Book.cache.get(isbn=1)
            with local_cache():
                task = asyncio.create_task(late())
                await Book.cache.get(isbn=1)
            inner_over = asyncio.create_task(in_task(Book.cache.get(isbn=1)))
            assert await inner_over is outer
        book.title = "new"
        await book.save()
        over.set()
        assert await task == "new"

    async def test_a_task_that_outlives_an_inner_scope_uses_the_outer_scope(self, cache: ModelCache) -> None:
        await Book.create(isbn=1)
        over = asyncio.Event()

        async def late() -> Book:
            await over.wait()
            return await Book.cache.get(isbn=1)

        with local_cache():
            outer = await Book.cache.get(isbn=1)
            with local_cache():
                task = asyncio.create_task(late())
            over.set()
            assert await task is outer

    async def test_a_scope_can_end_in_another_context_than_it_began_in(self, cache: ModelCache) -> None:
        """The setup and the teardown of a fixture may run in different contexts."""
        await Book.create(isbn=1)
        scope = local_cache()
        began = contextvars.copy_context()
        began.run(scope.__enter__)
        task = asyncio.create_task(in_task(Book.cache.get(isbn=1)), context=began)
        await task
        with local_cache():
            other = current_scope()
            scope.__exit__(None, None, None)
            assert current_scope() is other is not None
        assert current_scope() is None
        assert began.run(current_scope) is None

    async def test_an_answer_that_arrives_after_the_end_of_its_scope_is_not_remembered(
        self, gated: ModelCache, store: GatedBackend
    ) -> None:
        await Book.create(isbn=1)
        gate = store.hold("read")
        with local_cache():
            scope = current_scope()
            assert scope is not None
            reading = asyncio.ensure_future(Book.cache.get(isbn=1))
            await gate.reached()
        gate.open()
        key = Book.cache.get(isbn=1).locate(gated.open_cache).key
        assert (await reading).isbn == 1
        assert scope.find(key) is None

    async def test_a_cancelled_lookup_does_not_affect_later_lookups(
        self, gated: ModelCache, store: GatedBackend
    ) -> None:
        await Book.create(isbn=1)
        with local_cache():
            gate = store.hold("read")
            reading = asyncio.ensure_future(Book.cache.get(isbn=1))
            await gate.reached()
            await cancel(reading)
            gate.open()
            found = await Book.cache.get(isbn=1)
            assert await Book.cache.get(isbn=1) is found


class TestWrites:
    async def test_a_write_invalidates_only_the_lookups_that_it_affects(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        author = await Author.create(number=1, name="Kim")
        book, other = await Book.create(isbn=1, author=author), await Book.create(isbn=2, shelf=2)
        async with local_cache():
            kept = [await Author.cache.get(number=1), await Book.cache.get(isbn=2)]
            assert await Book.cache.get_or_none(isbn=3) is None
            assert await Book.cache.filter(shelf=1) == [book]
            assert await Book.cache.count(shelf=3) == 0
            held = await Book.cache.get(isbn=1)
            book.isbn, book.shelf, book.title = 3, 3, "new"
            await book.save()
            found = await Book.cache.get(isbn=3)
            assert found is not held
            assert found.title == "new"
            assert await Book.cache.get(id=book.id) is found
            assert await Book.cache.get_or_none(isbn=1) is None
            assert await Book.cache.filter(shelf=1) == []
            assert (await Book.cache.filter(shelf=3))[0] is found
            assert await Book.cache.count(shelf=3) == 1
            assert (await Book.cache.filter(author=author))[0] is found
            async with assert_ops(backend, sql=0, redis=0):
                assert await Author.cache.get(number=1) is kept[0]
                assert await Book.cache.get(isbn=2) is kept[1]
                assert await Book.cache.get(isbn=2) == other

    async def test_every_kind_of_write_is_seen_by_later_lookups(self, cache: ModelCache) -> None:
        book = await Book.create(isbn=1)

        async def look_up() -> tuple[Any, ...]:
            row = await Book.cache.get_or_none(isbn=1)
            return (
                row and row.title,
                [row.isbn for row in await Book.cache.filter(shelf=1)],
                await Book.cache.exists(shelf=1, place=7),
                await Note.cache.get_or_none(number=1),
            )

        async def in_one_transaction() -> None:
            async with in_transaction():
                book.title = "third"
                await book.save()

        async def save(**values: Any) -> None:
            await book.update_from_dict(values).save(update_fields=list(values))

        async def move() -> None:
            book.place = F("place") + 7  # type: ignore[assignment]
            await book.save(update_fields=["place"])

        async with local_cache():
            assert await look_up() == ("", [1], False, None)
            await save(title="first")
            assert await look_up() == ("first", [1], False, None)
            await in_task(save(title="second"))
            assert await look_up() == ("second", [1], False, None)
            await in_one_transaction()
            assert await look_up() == ("third", [1], False, None)
            await in_task(in_one_transaction())
            await Book.create(isbn=2, place=-1)
            assert await look_up() == ("third", [2, 1], False, None)
            await in_task(move())
            assert await look_up() == ("third", [2, 1], True, None)
            note = await in_task(Note.create(number=1))
            assert await look_up() == ("third", [2, 1], True, note)
            await Book.update_or_create({"title": "fourth"}, isbn=1)
            assert await look_up() == ("fourth", [2, 1], True, note)
            await book.refresh_from_db()
            await in_task(book.delete())
            await note.delete()
            assert await look_up() == (None, [2], False, None)

    async def test_clearing_invalidates_the_lookups_of_inner_and_outer_scopes(
        self, cache: ModelCache, database: BaseDBAsyncClient
    ) -> None:
        await Book.create(isbn=1)
        with local_cache():
            outer = await Book.cache.get(isbn=1)
            with local_cache():
                assert (await Book.cache.get(isbn=1)).title == ""
                await database.execute_query("UPDATE book SET title = 'raw'")
                await in_task(Book.cache.clear())
                assert (await Book.cache.get(isbn=1)).title == "raw"
            assert await Book.cache.get(isbn=1) is not outer
            await database.execute_query("UPDATE book SET title = 'again'")
            await cache.clear_all()
            assert (await Book.cache.get(isbn=1)).title == "again"

    async def test_a_write_in_an_inner_scope_is_seen_in_the_outer_scope(self, cache: ModelCache) -> None:
        book = await Book.create(isbn=1)
        with local_cache():
            assert (await Book.cache.get(isbn=1)).title == ""
            with local_cache():
                assert (await Book.cache.get(isbn=1)).title == ""
                book.title = "new"
                await in_task(book.save())
                assert (await Book.cache.get(isbn=1)).title == "new"
            assert (await Book.cache.get(isbn=1)).title == "new"

    async def test_a_write_outside_the_scope_is_not_seen_before_the_scope_ends(self, cache: ModelCache) -> None:
        book = await Book.create(isbn=1)
        outside = contextvars.copy_context()
        with local_cache():
            held = await Book.cache.get(isbn=1)
            book.title = "new"
            await asyncio.create_task(book.save(), context=outside.copy())
            assert await Book.cache.get(isbn=1) is held
        assert (await Book.cache.get(isbn=1)).title == "new"

    async def test_a_lookup_that_a_write_overtakes_is_not_remembered(
        self, gated: ModelCache, store: GatedBackend, database: BaseDBAsyncClient
    ) -> None:
        book = await Book.create(isbn=1)
        async with local_cache():
            for title in ("first", "second"):
                with gated_sql(database) as sql:
                    gate = sql.hold("SELECT", "after") if title == "first" else store.hold("read", "after")
                    reading = asyncio.ensure_future(Book.cache.get(id=book.id))
                    await gate.reached()
                    book.title = title
                    await in_task(book.save())
                    gate.open()
                    await reading
                assert (await Book.cache.get(id=book.id)).title == title
                await in_task(book.save())

    async def test_after_a_failed_write_lookups_return_the_unchanged_row(
        self, gated: ModelCache, store: GatedBackend
    ) -> None:
        book, _ = await Book.create(isbn=1), await Book.create(isbn=2)
        async with local_cache():
            held = await Book.cache.get(id=book.id)
            book.isbn = 2
            with pytest.raises(IntegrityError):
                await book.save()
            assert (await Book.cache.get(id=book.id)).isbn == 1
            assert held.isbn == 1

    @pytest.mark.parametrize("refused", REFUSED, ids=lambda write: write.__name__)
    async def test_the_scope_forgets_an_instance_whose_save_failed(
        self, gated: ModelCache, store: GatedBackend, refused: Callable[[Book], Awaitable[Any]]
    ) -> None:
        """Whatever the instance was changed to, and wherever it was saved: later lookups return the row."""
        book, _ = await Book.create(isbn=1, number=1), await Book.create(isbn=2, number=2)
        with local_cache():
            outer = await Book.cache.get(id=book.id)
            with local_cache():
                held = await Book.cache.get(id=book.id)
                [listed, _] = await Book.cache.filter(shelf=1)
                assert listed is held
                for changed in (held, outer):
                    with pytest.raises((IntegrityError, KeyError)):
                        await refused(changed)
                found = [await Book.cache.get(id=book.id), *await Book.cache.filter(shelf=1)]
            found.append(await Book.cache.get(id=book.id))
        assert [(row.isbn, row.number, row.title) for row in found] == [(1, 1, ""), (1, 1, ""), (2, 2, ""), (1, 1, "")]

    async def test_the_scope_returns_unsaved_changes(self, gated: ModelCache, store: GatedBackend) -> None:
        book = await Book.create(isbn=1)
        async with local_cache():
            (await Book.cache.get(id=book.id)).title = "unsaved"
            assert (await Book.cache.get(id=book.id)).title == "unsaved"
            await Book.filter(id=book.id).update(place=1)
            assert (await Book.cache.get(id=book.id)).title == ""

    @pytest.mark.usefixtures("impatient")
    async def test_a_cancelled_write_invalidates_the_lookups_that_it_may_affect(
        self, gated: ModelCache, store: GatedBackend, database: BaseDBAsyncClient
    ) -> None:
        book = await Book.create(isbn=1)
        async with local_cache():
            assert (await Book.cache.get(id=book.id)).title == ""
            with gated_sql(database) as sql:
                gate = sql.hold("UPDATE", "after")
                book.title = "new"
                saving = asyncio.create_task(book.save())
                await gate.reached()
                await cancel(saving)
            assert (await Book.cache.get(id=book.id)).title == "new"


class TestTransactions:
    async def test_lookups_in_a_transaction_bypass_the_scope(self, gated: ModelCache, store: GatedBackend) -> None:
        """Each lookup queries the database on the transaction's connection. The scope remembers no answer."""
        book = await Book.create(isbn=1)
        async with local_cache():
            held = await Book.cache.get(isbn=1)
            async with in_transaction() as connection:
                first = await Book.cache.get(isbn=1)
                assert held is not first
                assert await Book.cache.get(isbn=1) is not first
                book.title = "lost"
                await book.save()
                assert (await Book.cache.get(isbn=1)).title == "lost"
                await (await Book.cache.get(isbn=1)).delete()
                assert await Book.cache.get_or_none(isbn=1) is None
                assert await Book.cache.filter(shelf=1) == []
                await connection.rollback()
            assert (await Book.cache.get(isbn=1)).title == ""
            assert await Book.cache.filter(shelf=1) == [book]

    async def test_a_commit_invalidates_rows_that_other_tasks_read_before_it(
        self, gated: ModelCache, store: GatedBackend
    ) -> None:
        """Another task of the request reads the old row after the write and before the commit."""
        book = await Book.create(isbn=1)
        await Book.cache.get(isbn=1)
        async with local_cache():
            beside = contextvars.copy_context()
            async with in_transaction():
                book.title = "new"
                await book.save()
                reading = asyncio.create_task(in_task(Book.cache.get(isbn=1)), context=beside.copy())
                assert (await reading).title == ""
            assert (await Book.cache.get(isbn=1)).title == "new"

    @pytest.mark.usefixtures("impatient")
    async def test_a_cancelled_commit_invalidates_rows_that_other_tasks_read_before_it(
        self, gated: ModelCache, store: GatedBackend
    ) -> None:
        book = await Book.create(isbn=1)
        await Book.cache.get(isbn=1)
        committed = asyncio.Event()

        async def write() -> None:
            async with in_transaction() as connection:
                commit = connection.commit

                async def commit_and_hang() -> None:
                    await commit()
                    committed.set()
                    await asyncio.Event().wait()

                connection.commit = commit_and_hang  # type: ignore[method-assign]
                book.title = "new"
                await book.save()
                assert (await asyncio.create_task(in_task(Book.cache.get(isbn=1)), context=beside.copy())).title == ""

        async with local_cache():
            beside = contextvars.copy_context()
            writing = asyncio.create_task(write())
            await committed.wait()
            await cancel(writing)
            assert (await Book.cache.get(isbn=1)).title == "new"


class TestSeveralCaches:
    async def test_several_caches_share_no_objects_in_one_scope(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        book = await Book.create(isbn=1)
        look_up_by_isbn: Callable[[ModelCache], Awaitable[Book]] = lambda opened: opened.manager(Book).get(isbn=1)  # noqa: E731
        async with ModelCache(MemoryBackend(), namespace="second") as second, local_cache():
            found = await look_up_by_isbn(cache)
            assert await look_up_by_isbn(second) is not found
            book.title = "new"
            await book.save()
            assert [(await look_up_by_isbn(opened)).title for opened in (cache, second)] == ["new", "new"]
