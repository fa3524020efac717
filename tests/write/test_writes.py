"""Writes of instances: lookups find the written values at once, and a failed write leaves no trace."""

import asyncio
import copy
import pickle
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack
from typing import Any, Literal

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import DoesNotExist, IntegrityError, ValidationError
from tortoise.expressions import F
from tortoise.models import Model
from tortoise.signals import Signals
from tortoise.transactions import in_transaction

from aiomodelcache import MemoryBackend, ModelCache
from aiomodelcache.query.lookups import LookupQuery
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.gates import PATIENCE, GatedBackend, gated_sql
from tests.support.models.shelves import Author, Book, Loan, Note, Scrap, listening
from tests.support.stored import ask_twice, cancel, entries, expire_intents, states

pytestmark = pytest.mark.models("tests.support.models.shelves")


async def isbns(shelf: int) -> list[int]:
    return [book.isbn for book in await Book.cache.filter(shelf=shelf)]


class TestCosts:
    async def test_each_kind_of_write_costs_two_round_trips(self, cache: ModelCache, backend: CountingBackend) -> None:
        """One round trip before the statement and one after it, for any number of keys."""
        async with assert_ops(backend, sql=1, redis=["mark", "clear"], transactions=0):
            book = await Book.create(isbn=1)
        book.title = "one"
        async with assert_ops(backend, sql=1, redis=["mark", "clear"], transactions=0):
            await book.save()
        async with assert_ops(backend, sql=1, redis=["mark", "clear"], transactions=0):
            await book.save(update_fields=["title"])
        async with assert_ops(backend, sql=1, redis=["mark", "clear"], transactions=0):
            await book.delete()
        async with assert_ops(backend, redis=["mark", "clear"]):
            book, created = await Book.get_or_create(isbn=2)
            assert created
        async with assert_ops(backend, sql=1, redis=[]):
            assert await Book.get_or_create(isbn=2) == (book, False)
        async with assert_ops(backend, redis=["mark", "clear"]):
            assert await Book.update_or_create({"title": "two"}, isbn=2) == (book, False)
        async with assert_ops(backend, redis=["mark", "clear"]):
            await Book.update_or_create({"title": "three"}, isbn=3)

    async def test_a_write_to_a_model_without_a_cache_costs_nothing(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        async with assert_ops(backend, sql=3, redis=[]):
            scrap = await Scrap.create(number=1)
            await scrap.save()
            await scrap.delete()

    async def test_writes_to_a_plain_model_with_a_manager_are_captured(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        assert await ask_twice(lambda: Note.cache.get_or_none(number=1), backend) is None
        async with assert_ops(backend, sql=1, redis=["mark", "clear"]):
            note = await Note.create(number=1)
        assert await ask_twice(lambda: Note.cache.get_or_none(number=1), backend) == note
        note.number = 2
        await note.save()
        assert await ask_twice(lambda: Note.cache.get_or_none(number=1), backend) is None
        await note.delete()
        assert await ask_twice(lambda: Note.cache.get_or_none(number=2), backend) is None


class TestKeys:
    async def test_a_created_row_invalidates_cached_absences(self, cache: ModelCache, backend: CountingBackend) -> None:
        author = await Author.create(number=1, name="Kim")
        absent: list[Callable[[], LookupQuery[Any]]] = [
            lambda: Book.cache.get_or_none(id=7),
            lambda: Book.cache.get_or_none(isbn=70),
            lambda: Book.cache.get_or_none(shelf=7, number=1),
            lambda: Author.cache.get_or_none(number=2),
            lambda: Author.cache.get_or_none(name="Lee"),
        ]
        for query in absent:
            assert await ask_twice(query, backend) is None
        assert await ask_twice(lambda: Book.cache.filter(shelf=7), backend) == []
        assert not await ask_twice(lambda: Book.cache.exists(author=author), backend)
        lee = await Author.create(number=2, name="Lee")
        book = await Book.create(id=7, isbn=70, shelf=7, number=1, author=author)
        for query, row in zip(absent, [book, book, book, lee, lee], strict=True):
            assert await ask_twice(query, backend) == row
        assert await ask_twice(lambda: Book.cache.filter(shelf=7), backend) == [book]
        assert await ask_twice(lambda: Book.cache.count(author=1), backend) == 1

    async def test_a_written_row_is_found_without_an_index_query(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        """The writer stores the index entry, so a lookup reads only the row, by its primary key."""

        async def assert_reads_only_the_row(query: LookupQuery[Any]) -> None:
            async with assert_ops(backend, sql=1) as ops:
                row = await query
            quoted = ops.statements[0].partition("WHERE")[2].split("=")[0]
            assert quoted.strip(' "`') == row._meta.pk_attr, ops.statements

        book = await Book.create(isbn=1, number=1)
        assert await states(cache, Book.cache.get(isbn=1), Book.cache.get(shelf=1, number=1)) == "VV"
        await assert_reads_only_the_row(Book.cache.get(isbn=1))
        async with assert_ops(backend, sql=0):
            await Book.cache.get(shelf=1, number=1)
        book.isbn, book.number = 2, 2
        await book.save()
        await assert_reads_only_the_row(Book.cache.get(shelf=1, number=2))
        async with assert_ops(backend, sql=0):
            await Book.cache.get(isbn=2)
        await Author.create(number=1, name="Kim")
        await assert_reads_only_the_row(Author.cache.get(name="Kim"))

    async def test_a_row_is_found_by_its_changed_keys_only(self, cache: ModelCache, backend: CountingBackend) -> None:
        book = await Book.create(isbn=1, shelf=1, number=1)
        assert await Book.cache.get(isbn=1) == book == await Book.cache.get(shelf=1, number=1)
        for update_fields in (None, ["isbn", "number", "shelf"], ["number", "isbn"]):
            isbn, shelf, number = book.isbn, book.shelf, book.number
            assert await Book.cache.get_or_none(isbn=isbn + 1) is None
            assert await Book.cache.get_or_none(shelf=2, number=isbn + 1) is None
            book.isbn, book.shelf, book.number = isbn + 1, 2, isbn + 1
            await book.save(update_fields=update_fields)
            for key in ({"isbn": isbn}, {"shelf": shelf, "number": number}):
                with pytest.raises(DoesNotExist):
                    await Book.cache.get(**key)
                assert await ask_twice(lambda key=key: Book.cache.get_or_none(**key), backend) is None
            for key in ({"isbn": isbn + 1}, {"shelf": 2, "number": isbn + 1}):
                found = await ask_twice(lambda key=key: Book.cache.get(**key), backend)
                assert (found.id, found.isbn, found.number) == (book.id, isbn + 1, isbn + 1)

    async def test_rows_that_swap_a_unique_key_are_found_by_their_new_key(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        one, two = await Book.create(isbn=1), await Book.create(isbn=2)
        assert [await Book.cache.get(isbn=1), await Book.cache.get(isbn=2)] == [one, two]
        for book, isbn in ((one, 3), (two, 1), (one, 2)):
            book.isbn = isbn
            await book.save()
            assert await ask_twice(lambda isbn=isbn: Book.cache.get(isbn=isbn), backend) == book
        assert await ask_twice(lambda: Book.cache.get(isbn=1), backend) == two
        assert await ask_twice(lambda: Book.cache.get(isbn=2), backend) == one
        assert await ask_twice(lambda: Book.cache.get_or_none(isbn=3), backend) is None

    async def test_a_deleted_row_is_absent_by_every_key(self, cache: ModelCache, backend: CountingBackend) -> None:
        book = await Book.create(isbn=1, number=1)
        keys: list[dict[str, Any]] = [{"id": book.id}, {"isbn": 1}, {"shelf": 1, "number": 1}]
        for key in keys:
            assert await Book.cache.get(**key) == book
        await book.delete()
        for key in keys:
            assert await ask_twice(lambda key=key: Book.cache.get_or_none(**key), backend) is None
        again = await Book.create(isbn=1, number=1)
        for key in keys[1:]:
            assert await ask_twice(lambda key=key: Book.cache.get(**key), backend) == again

    async def test_saved_clones_and_forced_inserts_and_updates_are_captured(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        book = await Book.create(isbn=1)
        assert await Book.cache.get_or_none(isbn=2) is None
        clone = book.clone()
        clone.isbn = 2
        await clone.save()
        assert (await ask_twice(lambda: Book.cache.get(isbn=2), backend)).id == clone.id != book.id
        forced = Book(id=50, isbn=50)
        assert await Book.cache.get_or_none(id=50) is None
        with pytest.raises(IntegrityError):
            await forced.save(force_update=True)
        assert await ask_twice(lambda: Book.cache.get_or_none(id=50), backend) is None
        await forced.save(force_create=True)
        assert await ask_twice(lambda: Book.cache.get(id=50), backend) == forced
        forced.title = "forced"
        await forced.save(force_update=True)
        assert (await ask_twice(lambda: Book.cache.get(isbn=50), backend)).title == "forced"


class TestLists:
    async def test_inserts_moves_reorders_and_deletes_change_lists(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        kim = await Author.create(number=1, name="Kim")
        books = [await Book.create(isbn=isbn, place=isbn, author=kim) for isbn in (1, 2, 3)]
        assert await ask_twice(lambda: isbns(1), backend) == [1, 2, 3]
        assert await ask_twice(lambda: isbns(2), backend) == []
        assert await ask_twice(lambda: Book.cache.count(author=kim), backend) == 3
        await Book.create(isbn=4, place=0, author=kim)
        assert await ask_twice(lambda: isbns(1), backend) == [4, 1, 2, 3]
        assert await ask_twice(lambda: Book.cache.count(author=kim), backend) == 4
        books[0].place = 9
        await books[0].save()
        assert await ask_twice(lambda: isbns(1), backend) == [4, 2, 3, 1]
        books[1].place = -1
        await books[1].save(update_fields=["place"])
        assert await ask_twice(lambda: isbns(1), backend) == [2, 4, 3, 1]
        assert [book.isbn for book in await Book.cache.filter(shelf=1, place=9)] == [1]
        books[2].shelf = 2
        await books[2].save(update_fields=["shelf"])
        assert await ask_twice(lambda: isbns(1), backend) == [2, 4, 1]
        assert await ask_twice(lambda: isbns(2), backend) == [3]
        await books[0].delete()
        assert await ask_twice(lambda: isbns(1), backend) == [2, 4]
        assert await ask_twice(lambda: Book.cache.count(author=kim), backend) == 3
        assert not await ask_twice(lambda: Book.cache.exists(shelf=1, place=9), backend)

    async def test_a_changed_foreign_key_changes_both_lists(self, cache: ModelCache, backend: CountingBackend) -> None:
        kim, lee = [await Author.create(number=number, name=name) for number, name in ((1, "Kim"), (2, "Lee"))]
        book = await Book.create(isbn=1, author=kim)
        lists: list[Callable[[], Awaitable[Any]]] = [
            lambda: Book.cache.filter(author=kim),
            lambda: Book.cache.filter(author=2),
            lambda: Book.cache.filter(author=None),
        ]

        async def found() -> list[int]:
            return [len(await ask_twice(query, backend)) for query in lists]

        assert await found() == [1, 0, 0]
        book.author = lee
        await book.save()
        assert await found() == [0, 1, 0]
        assert await book.author == lee
        book.author = None
        await book.save(update_fields=["author_id"])
        assert await found() == [0, 0, 1]
        book.author_id = 1  # type: ignore[attr-defined]
        await book.save()
        assert await found() == [1, 0, 0]

    async def test_a_save_that_changes_no_key_keeps_lists(self, cache: ModelCache, backend: CountingBackend) -> None:
        book, _ = await Book.create(isbn=1), await Book.create(isbn=2)
        assert await isbns(1) == [1, 2]
        untouched = Book.cache.filter(shelf=1), Book.cache.get(isbn=1), Book.cache.get(isbn=2)
        before = await entries(cache, *untouched)
        assert None not in before
        book.title = "new"
        await book.save(update_fields=["title"])
        assert await entries(cache, *untouched) == before
        async with assert_ops(backend, sql=1) as ops:  # reads the written row by its primary key
            assert [row.title for row in await Book.cache.filter(shelf=1)] == ["new", ""]
        assert "shelf" not in ops.statements[0].partition("WHERE")[2]

    async def test_update_fields_invalidate_the_keys_of_the_stored_row(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        """The saved instance may be partial, outdated or changed, so its keys are not those of the row."""
        await Book.create(isbn=1, place=1)
        await Book.create(isbn=2, place=2)
        old = await Book.get(isbn=1)
        moved = await Book.get(isbn=1)
        for isbn in (3, 4):
            await Book.create(isbn=isbn, shelf=2, place=isbn)
        moved.shelf = 2
        await moved.save()
        assert await ask_twice(lambda: isbns(1), backend) == [2]
        assert await ask_twice(lambda: isbns(2), backend) == [1, 3, 4]
        old.place = 9  # the instance still has shelf 1
        await old.save(update_fields=["place"])
        assert await ask_twice(lambda: isbns(2), backend) == [3, 4, 1]
        old.shelf, old.place = 77, 0  # both are changed, only the place is saved
        await old.save(update_fields=["place"])
        assert await ask_twice(lambda: isbns(2), backend) == [1, 3, 4]
        partial = await Book.get(isbn=3).only("id", "place", "number")
        partial.place = 8
        await partial.save(update_fields=["place"])
        assert await ask_twice(lambda: isbns(2), backend) == [1, 4, 3]
        assert await ask_twice(lambda: Book.cache.get_or_none(shelf=2, number=5), backend) is None
        partial.number = 5
        await partial.save(update_fields=["number"])
        assert (await ask_twice(lambda: Book.cache.get(shelf=2, number=5), backend)).isbn == 3
        assert await ask_twice(lambda: isbns(77), backend) == []

    async def test_a_partial_instance_without_key_columns_can_be_saved_and_deleted(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        await Book.create(isbn=1)
        assert await isbns(1) == [1]
        partial = await Book.get(isbn=1).only("id", "title")
        partial.title = "new"
        async with assert_ops(backend, sql=1, redis=["mark", "clear"]):
            await partial.save(update_fields=["title"])
        assert (await ask_twice(lambda: Book.cache.get(isbn=1), backend)).title == "new"
        await partial.delete()
        assert await ask_twice(lambda: isbns(1), backend) == []


class TestValuesOnlyTheDatabaseKnows:
    async def test_columns_set_by_expressions_invalidate_the_computed_keys(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        book = await Book.create(isbn=1, shelf=1, number=1)
        await Book.create(isbn=2, place=5)
        assert await ask_twice(lambda: isbns(1), backend) == [1, 2]
        assert await ask_twice(lambda: isbns(2), backend) == []
        assert await ask_twice(lambda: Book.cache.get_or_none(shelf=2, number=1), backend) is None
        book.shelf = F("shelf") + 1  # type: ignore[assignment]
        await book.save(update_fields=["shelf"])
        assert await ask_twice(lambda: isbns(2), backend) == [1]
        assert await ask_twice(lambda: isbns(1), backend) == [2]
        assert await ask_twice(lambda: Book.cache.get(shelf=2, number=1), backend) == book
        await book.refresh_from_db()
        book.shelf, book.place = 1, F("place") + 9  # type: ignore[assignment]
        await book.save()
        assert await ask_twice(lambda: isbns(1), backend) == [2, 1]

    async def test_columns_set_by_database_defaults_invalidate_their_lists(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        assert await ask_twice(lambda: Loan.cache.filter(weeks=3), backend) == []
        assert await ask_twice(lambda: Loan.cache.count(weeks=3, reader=1), backend) == 0
        loan = await Loan.create(reader=1)
        assert await ask_twice(lambda: Loan.cache.filter(weeks=3), backend) == [loan]
        assert await ask_twice(lambda: Loan.cache.count(weeks=3, reader=1), backend) == 1
        loan.weeks = 4
        await loan.save()
        assert await ask_twice(lambda: Loan.cache.filter(weeks=3), backend) == []
        assert await ask_twice(lambda: Loan.cache.filter(weeks=4), backend) == [loan]


class ListenerError(Exception):
    """The error that a listener of the application raises."""


async def raise_listener_error(*_: Any) -> None:
    raise ListenerError


class TestFailedWrites:
    async def test_failed_writes_leave_no_intent_and_nothing_stale(
        self, cache: ModelCache, backend: CountingBackend, database: BaseDBAsyncClient
    ) -> None:
        book = await Book.create(isbn=1, shelf=1)
        await Book.create(isbn=2, shelf=1)

        async def assert_fails(error: type[Exception], write: Callable[[], Awaitable[Any]], *queries: Any) -> None:
            with pytest.raises(error):
                await write()
            assert "W" not in await states(cache, *queries)
            for query in queries:
                await ask_twice(lambda query=query: query, backend)

        looked_up = (
            Book.cache.get(id=book.id),
            Book.cache.get(isbn=1),
            Book.cache.get(isbn=2),
            Book.cache.filter(shelf=1),
        )
        await assert_fails(IntegrityError, lambda: Book.create(isbn=2), *looked_up)
        await assert_fails(IntegrityError, lambda: Book.create(id=book.id, isbn=3), *looked_up)
        book.isbn = 2
        await assert_fails(IntegrityError, book.save, *looked_up)
        await assert_fails(IntegrityError, lambda: book.save(update_fields=["isbn"]), *looked_up)
        book.isbn, book.title = 1, "x" * 65
        await assert_fails(ValidationError, book.save, *looked_up)
        book.title = "new"
        with listening(Book, Signals.pre_save, raise_listener_error):
            await assert_fails(ListenerError, book.save, *looked_up)
        with listening(Book, Signals.pre_save, raise_listener_error, first=True):
            await assert_fails(ListenerError, book.save, *looked_up)
        with listening(Book, Signals.pre_delete, raise_listener_error):
            await assert_fails(ListenerError, book.delete, *looked_up)
        assert (await Book.cache.get(isbn=1)).title == ""
        await book.save()
        assert (await Book.cache.get(isbn=1)).title == "new"

        note = await Note.create(number=1)
        await Note.create(number=2)
        notes = Note.cache.get(id=note.id), Note.cache.get(number=1), Note.cache.get(number=2)
        note.number = 2
        await assert_fails(IntegrityError, note.save, *notes)
        note.number, note.text = 1, "x" * 17
        await assert_fails(ValidationError, note.save, *notes)
        note.text = "new"
        with listening(Note, Signals.pre_save, raise_listener_error):
            await assert_fails(ListenerError, note.save, *notes)
        with listening(Note, Signals.pre_delete, raise_listener_error):
            await assert_fails(ListenerError, note.delete, *notes)
        await note.save()
        assert (await Note.cache.get(number=1)).text == "new"

    async def test_a_write_is_invalidated_although_a_listener_raises_after_it(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        book = await Book.create(isbn=1)
        assert await isbns(1) == [1]
        book.isbn, book.shelf = 2, 2
        with listening(Book, Signals.post_save, raise_listener_error, first=True), pytest.raises(ListenerError):
            await book.save()
        await cache.open_cache.tasks.finish(PATIENCE)
        assert await ask_twice(lambda: Book.cache.get(isbn=2), backend) == book
        assert await ask_twice(lambda: isbns(2), backend) == [1 + 1]
        assert await ask_twice(lambda: isbns(1), backend) == []
        with listening(Book, Signals.post_delete, raise_listener_error), pytest.raises(ListenerError):
            await book.delete()
        await cache.open_cache.tasks.finish(PATIENCE)
        assert await ask_twice(lambda: Book.cache.get_or_none(isbn=2), backend) is None


class TestListeners:
    """The application's listeners run beside the cache's own. They raise, change keys, write and are slow."""

    async def test_a_listener_that_raises_during_the_mark_leaves_no_intent(
        self, database: BaseDBAsyncClient, backend: CountingBackend
    ) -> None:
        """With two caches open, the mark of the second one has not begun yet and is not sent.

        The model is a plain one, in whose saves the cache is a listener among others.
        """
        gated, other = GatedBackend(backend), GatedBackend(MemoryBackend())
        async with ModelCache(gated) as cache, ModelCache(other) as second:
            note = await Note.create(number=1)
            with listening(Note, Signals.pre_save, raise_listener_error):
                gate = gated.hold("mark")
                async with asyncio.TaskGroup() as group:
                    saving = group.create_task(_expect_error(ListenerError, note.save()))
                    await gate.reached()
                    for _ in range(10):  # the write fails meanwhile
                        await asyncio.sleep(0)
                    gate.open()
            await saving
            assert await states(cache, Note.cache.get(id=note.id)) == "."
            assert other.operations.count("mark") == 1  # the mark of `create`
            note.text = "new"
            await note.save()
            for opened in (cache, second):
                assert (await opened.manager(Note).get(number=1)).text == "new"

    async def test_a_listener_that_raises_before_the_mark_sends_none(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        book = await Book.create(isbn=1)
        for signal, write in ((Signals.pre_save, book.save), (Signals.pre_delete, book.delete)):
            with listening(Book, signal, raise_listener_error):
                async with assert_ops(backend, sql=0, redis=[]):
                    await _expect_error(ListenerError, write())

    async def test_listeners_are_called_in_the_order_of_tortoise(self, cache: ModelCache) -> None:
        """Before the statement and after it, with Tortoise's arguments, and after the row is invalidated."""
        heard: list[tuple[Any, ...]] = []

        def hear(name: str) -> Any:
            async def listener(model: type[Model], instance: Book, *arguments: Any) -> None:
                shown = [each for each in arguments if not isinstance(each, BaseDBAsyncClient)]
                heard.append((name, model, *shown, await Book.cache.exists(isbn=1)))
                if instance.pk is not None and await Book.filter(id=instance.pk).exists():
                    heard.append((instance.title, (await Book.cache.get(id=instance.pk)).title))

            return listener

        with ExitStack() as listeners:
            for signal in Signals:
                listeners.enter_context(listening(Book, signal, hear(signal.name)))
            book = await Book.create(isbn=1)
            assert heard == [("pre_save", Book, None, False), ("post_save", Book, True, None, True), ("", "")]
            heard.clear()
            book.title = "new"
            await book.save(update_fields=["title"])
            assert heard == [
                ("pre_save", Book, ["title"], True),
                ("new", ""),
                ("post_save", Book, False, ["title"], True),
                ("new", "new"),
            ]
            heard.clear()
            await book.delete()
            assert heard == [("pre_delete", Book, True), ("new", "new"), ("post_delete", Book, False)]

    async def test_a_model_that_finds_its_listeners_itself_is_asked_for_them(
        self, cache: ModelCache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Tortoise finds listeners by the exact class, so applications override the method that calls them."""
        heard: list[Signals] = []

        async def wait_for_listeners(self: Book, signal: Signals, *arguments: Any) -> None:
            heard.append(signal)

        monkeypatch.setattr(Book, "_wait_for_listeners", wait_for_listeners)
        book = await Book.create(isbn=1)
        await book.delete()
        assert heard == [Signals.pre_save, Signals.post_save, Signals.pre_delete, Signals.post_delete]

    async def test_the_cache_is_no_listener_of_a_cached_model(self, cache: ModelCache) -> None:
        """Each listener costs a task. Of a plain model the cache is one."""
        for signal in Signals:
            assert not Model._listeners[signal].get(Book)  # type: ignore[index]
            assert len(Model._listeners[signal][Note]) == 1  # type: ignore[index]

    async def test_a_key_that_a_listener_changes_is_invalidated(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        async def renumber(model: type[Model], instance: Book, *_: Any) -> None:
            await asyncio.sleep(0)
            instance.isbn += 1

        assert await ask_twice(lambda: Book.cache.get_or_none(isbn=2), backend) is None
        with listening(Book, Signals.pre_save, renumber):
            book = await Book.create(isbn=1)
        assert await ask_twice(lambda: Book.cache.get(isbn=2), backend) == book
        assert await ask_twice(lambda: Book.cache.get_or_none(isbn=1), backend) is None

    @pytest.mark.parametrize("turns", range(8))
    async def test_a_key_that_a_listener_changes_late_is_invalidated(
        self, cache: ModelCache, backend: CountingBackend, turns: int
    ) -> None:
        """The listener changes the key after a varying number of event loop steps."""

        async def renumber(model: type[Model], instance: Book, *_: Any) -> None:
            for _ in range(turns):
                await asyncio.sleep(0)
            instance.isbn, instance.shelf = 2, 2

        book = await Book.create(isbn=1)
        assert await ask_twice(lambda: Book.cache.get_or_none(isbn=2), backend) is None
        assert await ask_twice(lambda: isbns(2), backend) == []
        assert await ask_twice(lambda: isbns(1), backend) == [1]
        with listening(Book, Signals.pre_save, renumber):
            await book.save()
        assert await ask_twice(lambda: Book.cache.get(isbn=2), backend) == book
        assert await ask_twice(lambda: isbns(2), backend) == [2]
        assert await ask_twice(lambda: isbns(1), backend) == []
        assert await ask_twice(lambda: Book.cache.get_or_none(isbn=1), backend) is None

    async def test_writes_by_a_listener_are_captured(self, cache: ModelCache, backend: CountingBackend) -> None:
        scribe = await Note.create(number=0)
        assert await Note.cache.get(number=0) == scribe

        async def write(model: type[Model], instance: Book, *_: Any) -> None:
            if instance.place < 3:
                instance.place += 1
                await instance.save()
            scribe.text = f"saved {instance.isbn}"
            await scribe.save()
            await instance.clone().delete() if instance.place > 9 else None

        book = await Book.create(isbn=1)
        assert await isbns(1) == [1]
        with listening(Book, Signals.pre_save, write), listening(Book, Signals.post_save, write, first=True):
            book.isbn = 2
            await book.save()
        assert await ask_twice(lambda: Note.cache.get(number=0), backend) == scribe
        assert (await Note.cache.get(number=0)).text == "saved 2"
        assert (await ask_twice(lambda: Book.cache.get(isbn=2), backend)).place == 3
        assert await ask_twice(lambda: Book.cache.get_or_none(isbn=1), backend) is None

    async def test_a_save_leaves_no_attribute_on_the_instance(self, cache: ModelCache) -> None:
        """A copy, clone or pickle that is made during a save has no attribute of the cache."""
        copies: list[Book] = []

        async def copy_it(model: type[Model], instance: Book, *_: Any) -> None:
            await asyncio.sleep(0)
            copies.append(pickle.loads(pickle.dumps(instance)))
            copies.extend([copy.copy(instance), copy.deepcopy(instance)])

        book = await Book.create(isbn=1)
        attributes = book.__dict__.keys()
        with listening(Book, Signals.pre_save, copy_it), listening(Book, Signals.post_save, copy_it):
            await book.save()
        assert len(copies) == 6
        for number, made in enumerate(copies):
            assert made.__dict__.keys() == attributes
            made.title = f"copy {number}"
            await made.save()
            assert (await Book.cache.get(isbn=1)).title == f"copy {number}"


async def _expect_error(error: type[BaseException], operation: Awaitable[Any]) -> None:
    with pytest.raises(error):
        await operation


class TestIterators:
    async def test_update_fields_may_be_an_iterator(self, cache: ModelCache) -> None:
        book, note = await Book.create(isbn=1), await Note.create(number=1)
        assert await Book.cache.get(isbn=1) == book
        assert await Note.cache.get(number=1) == note
        book.isbn, book.title, note.text = 2, "new", "new"
        await book.save(update_fields=(name for name in ("isbn", "title")))
        await note.save(update_fields=iter(["text"]))
        assert (await Book.cache.get(isbn=2)).title == (await Book.get(isbn=2)).title == "new"
        assert (await Note.cache.get(number=1)).text == (await Note.get(number=1)).text == "new"
        await book.save(update_fields=[])
        other = await Book.get(isbn=2)
        other.shelf = 2
        await other.save()
        await Book.create(isbn=3, shelf=2, place=1)
        assert await isbns(2) == [2, 3]
        book.place = 2  # the instance still has another shelf
        await book.save(update_fields=iter(["place"]))
        assert await isbns(2) == [3, 2]
        assert (await Book.cache.get(isbn=2)).title == "new"


@pytest.fixture
def store(backend: CountingBackend) -> GatedBackend:
    return GatedBackend(backend)


@pytest.fixture
async def gated(database: BaseDBAsyncClient, store: GatedBackend) -> AsyncIterator[ModelCache]:
    """An open cache over the gated backend."""
    async with ModelCache(store) as opened:
        yield opened


@pytest.mark.usefixtures("impatient")
class TestCancelledWrites:
    @pytest.mark.parametrize(
        ("operation", "moment", "left"),
        [
            ("mark", "before", "."),
            ("mark", "after", "."),
            ("UPDATE", "before", "W"),
            ("UPDATE", "after", "W"),
            ("clear", "before", "."),
            ("clear", "after", "."),
        ],
    )
    async def test_a_write_cancelled_at_any_step_leaves_nothing_stale(
        self,
        gated: ModelCache,
        store: GatedBackend,
        database: BaseDBAsyncClient,
        operation: str,
        moment: Literal["before", "after"],
        left: str,
    ) -> None:
        """A write that was certainly not made withdraws its intents at once. Otherwise its intents expire."""
        book = await Book.create(isbn=1)
        assert await Book.cache.get(id=book.id) == book
        with gated_sql(database) as sql:
            gate = (sql if operation == "UPDATE" else store).hold(operation, moment)
            book.title, book.shelf = "new", 2
            saving = asyncio.create_task(book.save())
            await gate.reached()
            await cancel(saving)
            written = operation == "clear" or (operation, moment) == ("UPDATE", "after")
            for found in (await Book.cache.get(id=book.id), await Book.get(id=book.id)):
                assert found.title == ("new" if written else "")
            gate.open()
        await gated.open_cache.tasks.finish(PATIENCE)
        row, shelf = Book.cache.get(id=book.id), Book.cache.filter(shelf=2)
        assert (await states(gated, row)).replace("V", ".") == left
        assert (gated.stats.unknown_outcomes, gated.stats.undelivered) == (left == "W", 0)
        await expire_intents(gated, row, shelf)
        assert (await ask_twice(lambda: row, store)).title == ("new" if written else "")
        assert len(await ask_twice(lambda: shelf, store)) == written
        assert await states(gated, row, shelf) == "VV"

    async def test_a_write_cancelled_while_it_waits_for_a_lock_keeps_its_intents(
        self, gated: ModelCache, store: GatedBackend, database: BaseDBAsyncClient
    ) -> None:
        """The driver is interrupted while another transaction holds the row, or all of SQLite.

        MariaDB still writes the row when it gets the lock, although its client has disconnected.
        """
        book = await Book.create(isbn=1)
        gate = store.hold("mark", "after")
        async with in_transaction() as transaction:
            await transaction.execute_query("UPDATE book SET place = 5")
            book.title = "new"
            saving = asyncio.create_task(book.save(using_db=database))
            await gate.reached()
            gate.open()
            await asyncio.sleep(0.05)
            await cancel(saving)
        assert await states(gated, Book.cache.get(id=book.id)) == "W"
        await expire_intents(gated, Book.cache.get(id=book.id), Book.cache.filter(shelf=1))
        [found] = await ask_twice(lambda: Book.cache.filter(shelf=1), store)
        assert vars(found) == vars(await Book.get(id=book.id))
        await book.save()
        assert (await Book.cache.get(id=book.id)).title == "new"

    async def test_a_write_cancelled_while_its_keys_are_read_back_clears_the_model(
        self, gated: ModelCache, store: GatedBackend, database: BaseDBAsyncClient
    ) -> None:
        """The row is committed but its keys are unknown, so all entries of the model are invalidated."""

        async def turn_the_page(model: type[Model], instance: Note, *_: Any) -> None:
            instance.page = F("page") + 1  # type: ignore[assignment]

        note = await Note.create(number=1)
        for page, found in ((1, [note]), (2, [])):
            assert await ask_twice(Note.cache.filter(page=page, number=1), store) == found
        with gated_sql(database) as sql, listening(Note, Signals.pre_save, turn_the_page):
            gate = sql.hold("SELECT")
            saving = asyncio.create_task(note.save())
            await gate.reached()
            await cancel(saving)
        for page, found in ((1, []), (2, [note])):
            assert await ask_twice(Note.cache.filter(page=page, number=1), store) == found

    async def test_a_save_whose_coroutine_is_closed_leaves_nothing_stale(
        self, gated: ModelCache, store: GatedBackend
    ) -> None:
        """An event loop that ends during a save closes its coroutine."""
        book = await Book.create(isbn=1)
        assert await Book.cache.get(isbn=1) == book
        saving = book.save()
        store.hold("mark", "after")
        waiting = saving.send(None)
        waiting.cancel()
        saving.close()
        await gated.open_cache.tasks.finish(PATIENCE)
        await expire_intents(gated, Book.cache.get(id=book.id), Book.cache.get(isbn=1))
        assert await ask_twice(lambda: Book.cache.get(isbn=1), store) == book


class TestConcurrentWrites:
    async def test_concurrent_saves_of_one_instance_leave_nothing_stale(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        book = await Book.create(isbn=1)
        assert await Book.cache.get(isbn=1) == book

        async def save(**values: Any) -> None:
            book.update_from_dict(values)
            await book.save(update_fields=list(values))

        async with assert_ops(backend, redis=10):
            await asyncio.gather(*[save(title=f"{number}", isbn=number) for number in (2, 3, 4)])
            await asyncio.gather(save(place=7), save(shelf=3))
        await asyncio.gather(book.save(), save(number=7))
        found = await ask_twice(lambda: Book.cache.get(isbn=book.isbn), backend)
        stored = await Book.get(id=book.id)
        assert (found.title, found.place, found.shelf) == (stored.title, 7, 3)
        assert await ask_twice(lambda: isbns(3), backend) == [stored.isbn]
        assert "W" not in await states(cache, *[Book.cache.get(isbn=isbn) for isbn in (1, 2, 3, 4)])

    @pytest.mark.usefixtures("impatient")
    async def test_the_intent_of_an_unknown_outcome_stays_when_another_write_ends(
        self, gated: ModelCache, store: GatedBackend, database: BaseDBAsyncClient
    ) -> None:
        book = await Book.create(isbn=1)
        row = Book.cache.get(id=book.id)
        with gated_sql(database) as sql:
            gate = sql.hold("UPDATE")
            book.title = "lost"
            saving = asyncio.create_task(book.save())
            await gate.reached()
            await cancel(saving)  # the statement may still run in the database
            await book.save(update_fields=["place"])
        assert await states(gated, row) == "W"
        assert (await row).title == ""
        await database.execute_query("UPDATE book SET title = 'lost'")  # the cancelled statement runs late
        await expire_intents(gated, row)
        assert (await ask_twice(lambda: row, store)).title == "lost"

    async def test_a_failed_write_does_not_withdraw_the_intent_of_another(
        self, gated: ModelCache, store: GatedBackend, database: BaseDBAsyncClient
    ) -> None:
        book, _ = await Book.create(isbn=1), await Book.create(isbn=2)
        row = Book.cache.get(id=book.id)
        with gated_sql(database) as sql:
            gate = sql.hold("UPDATE")
            book.title = "new"
            saving = asyncio.create_task(book.save(update_fields=["title"]))
            await gate.reached()
            book.isbn = 2
            with pytest.raises(IntegrityError):
                await book.save()
            assert await states(gated, row) == "W"
            gate.open()
            await saving
        assert (await ask_twice(lambda: row, store)).title == "new"


class TestSeveralCaches:
    async def test_a_write_invalidates_in_every_open_cache(self, cache: ModelCache, backend: CountingBackend) -> None:
        other = CountingBackend(MemoryBackend())
        async with ModelCache(other) as second, ModelCache(backend, namespace="third") as third:
            caches = [opened.manager(Book) for opened in (cache, second, third)]
            for manager in caches:
                assert await manager.get_or_none(isbn=1) is None
                assert await manager.filter(shelf=1) == []
            async with assert_ops(backend, sql=1, redis=["mark"] * 2 + ["clear"] * 2) as ops:
                book = await Book.create(isbn=1)
                book.title = "new"
            assert other.operations[-2:] == ["mark", "clear"]
            assert len(ops.operations) == 4
            for manager in caches:
                assert await manager.get(isbn=1) == book
                assert await manager.filter(shelf=1) == [book]
            book.title = "newer"
            await book.save()
            for manager in caches:
                assert (await manager.get(isbn=1)).title == "newer"
        book.title = "newest"
        async with assert_ops(backend, redis=["mark", "clear"]):
            await book.save()
        assert (await cache.manager(Book).get(isbn=1)).title == "newest"

    async def test_writes_without_an_open_cache_send_nothing(
        self, database: BaseDBAsyncClient, backend: CountingBackend
    ) -> None:
        async with assert_ops(backend, sql=3, redis=[]):
            book, note = await Book.create(isbn=1), await Note.create(number=1)
            await book.save()
        async with ModelCache(backend):
            await book.save()
            assert await Book.cache.get(isbn=1) == book
        async with assert_ops(backend, sql=3, redis=[]):
            await book.save()
            await note.save()
            await note.delete()

    async def test_a_cache_that_closes_during_a_write_leaves_nothing_stale(
        self, database: BaseDBAsyncClient, store: GatedBackend
    ) -> None:
        cache = await ModelCache(store).open()
        open_cache = cache.open_cache
        book = await Book.create(isbn=1)
        with gated_sql(database) as sql:
            gate = sql.hold("UPDATE")
            book.title = "new"
            saving = asyncio.create_task(book.save())
            await gate.reached()
            await cache.close()
            gate.open()
            await saving
        assert open_cache.closed
        async with ModelCache(store) as again:
            assert (await Book.cache.get(isbn=1)).title == "new"
            await expire_intents(again, Book.cache.get(id=book.id), Book.cache.get(isbn=1))
            assert (await ask_twice(lambda: Book.cache.get(isbn=1), store)).title == "new"
