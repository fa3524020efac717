"""Writes in transactions: intents are marked right before COMMIT, cleared after it, and no entry is ever stale."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractContextManager, nullcontext, suppress
from contextvars import copy_context
from typing import Any, TypeVar

import pytest
from asyncmy.errors import InterfaceError
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import IntegrityError
from tortoise.transactions import atomic, in_transaction

from aiomodelcache import CacheWriteError, MemoryBackend, ModelCache, local_cache
from aiomodelcache.query.lookups import LookupQuery
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.databases import DatabaseUrl, after_rollback
from tests.support.gates import PATIENCE, GatedBackend, Gates, Moment, gated_sql
from tests.support.models.shelves import Author, Book, Note, Scrap
from tests.support.servers import RedisServer
from tests.support.stored import ask_twice, cancel, expire_intents, states, until_accepted

pytestmark = pytest.mark.models("tests.support.models.shelves")

T = TypeVar("T")
Outside = Callable[[Coroutine[Any, Any, T]], asyncio.Task[T]]


@pytest.fixture
def store(backend: CountingBackend) -> GatedBackend:
    return GatedBackend(backend)


@pytest.fixture
async def gated(database: BaseDBAsyncClient, store: GatedBackend) -> AsyncIterator[ModelCache]:
    """An open cache over the gated backend."""
    async with ModelCache(store) as opened:
        yield opened


@pytest.fixture
def outside() -> Outside[Any]:
    """Runs a coroutine in a task outside the test's transaction."""
    context = copy_context()
    return lambda work: asyncio.create_task(work, context=context.copy())


class Rollback(Exception):
    """The error that a test raises to roll a transaction back."""


def rolled_back(error: type[Exception] = Rollback, match: str | None = None) -> AbstractContextManager[Any]:
    """Asserts that the block, a transaction, ends with this error."""
    return pytest.raises(error, match=match)


async def title(query: LookupQuery[Any]) -> str:
    return (await query).title


def gate_commit(connection: Any, gates: Gates) -> None:
    """Puts a gate around a transaction's COMMIT. Call it before the transaction writes."""
    commit = connection.commit

    async def gated_commit() -> None:
        await gates.through("commit", commit)

    connection.commit = gated_commit


class TestCommit:
    async def test_a_transaction_costs_two_round_trips_for_any_number_of_writes(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        book = await Book.create(isbn=1, shelf=3)
        assert await ask_twice(Book.cache.get(isbn=1), backend) == book
        async with assert_ops(backend, sql=22, redis=["mark", "clear"], transactions=1) as ops:
            async with in_transaction():
                for number in range(10, 20):
                    await Book.create(isbn=number)
                    await Author.create(number=number, name=f"{number}")
                book.isbn = 2
                await book.save()
                await book.save(update_fields=["title"])
                assert ops.operations == []
            assert ops.operations == ["mark", "clear"]
        assert len(await ask_twice(Book.cache.filter(shelf=1), backend)) == 10
        assert await ask_twice(Book.cache.get(isbn=2), backend) == book
        assert await ask_twice(Book.cache.get_or_none(isbn=1), backend) is None
        async with assert_ops(backend, sql=2, redis=[]), in_transaction():
            await Scrap.create(number=1)
            assert await Book.cache.get(isbn=2) == book

    async def test_other_tasks_use_cached_entries_until_commit(
        self, gated: ModelCache, store: GatedBackend, outside: Outside[Any]
    ) -> None:
        """Lookups inside the transaction read its own writes. Outside, entries answer until the mark."""
        book = await Book.create(isbn=1, title="old")
        row, absent, shelf = Book.cache.get(id=book.id), Book.cache.get_or_none(isbn=2), Book.cache.filter(shelf=1)
        for query in (row, absent, shelf):
            await ask_twice(query, store)
        async with in_transaction() as connection:
            gates = Gates()
            gate_commit(connection, gates)
            book.title = "new"
            await book.save()
            second = await Book.create(isbn=2, title="second")
            assert (await title(row), await absent, await shelf) == ("new", second, [book, second])
            async with assert_ops(store, sql=0, redis=["read"]):
                found = await outside(_all(row, absent, shelf))
            assert (found[0].title, found[1:]) == ("old", [None, [book]])
            assert await states(gated, row, absent, shelf) == "VNV"
            gate, cleared = gates.hold("commit"), store.hold("clear")
            committing = asyncio.create_task(connection.commit())
            await gate.reached()
            assert await states(gated, row, absent, shelf) == "WWW"
            gate.open()
            await cleared.reached()
            assert await states(gated, row, absent, shelf) == "WWW"
            cleared.open()
            await committing
            assert await states(gated, row, absent, shelf) == ".V."
        assert await ask_twice(row, store) == book
        assert await ask_twice(absent, store) == second
        assert await ask_twice(shelf, store) == [book, second]

    async def test_commit_and_rollback_called_by_hand_are_captured(
        self, cache: ModelCache, backend: CountingBackend, db_url: DatabaseUrl
    ) -> None:
        book = await Book.create(isbn=1)
        assert await ask_twice(Book.cache.get(isbn=1), backend) == book
        async with in_transaction() as connection:
            book.title = "first"
            await book.save()
            async with assert_ops(backend, redis=["mark", "clear"]):
                await connection.commit()
            assert await title(Book.cache.get(isbn=1)) == "first"
            book.title = "second"
            async with assert_ops(backend, redis=["mark", "clear"]):
                await book.save(using_db=connection)
        assert await title(Book.cache.get(isbn=1)) == "second" == (await Book.get(isbn=1)).title
        async with assert_ops(backend, redis=after_rollback(db_url, ["clear"])), in_transaction() as connection:
            book.title = "third"
            await book.save()
            await connection.rollback()
        assert await title(Book.cache.get(isbn=1)) == "second" == (await Book.get(isbn=1)).title

    async def test_an_atomic_function_invalidates_at_commit(
        self, cache: ModelCache, backend: CountingBackend, db_url: DatabaseUrl
    ) -> None:
        @atomic()
        async def write(fail: bool) -> None:
            book.title = "failed" if fail else "written"
            await book.save()
            if fail:
                raise Rollback

        book = await Book.create(isbn=1)
        assert await title(Book.cache.get(isbn=1)) == ""
        async with assert_ops(backend, redis=["mark", "clear"]):
            await write(False)
        assert await title(Book.cache.get(isbn=1)) == "written"
        async with assert_ops(backend, redis=after_rollback(db_url, ["clear"])):
            with pytest.raises(Rollback):
                await write(True)
        assert await title(Book.cache.get(isbn=1)) == "written"

    async def test_a_commit_invalidates_in_every_open_cache(self, cache: ModelCache, backend: CountingBackend) -> None:
        other = CountingBackend(MemoryBackend())
        async with ModelCache(other) as second:
            caches = cache.manager(Book), second.manager(Book)
            book = await Book.create(isbn=1)
            assert [await manager.get(isbn=1) for manager in caches] == [book, book]
            other.operations.clear()
            async with assert_ops(backend, redis=["mark", "clear"]), in_transaction():
                book.title = "new"
                await book.save()
                assert other.operations == []
            assert other.operations == ["mark", "clear"]
            assert [(await manager.get(isbn=1)).title for manager in caches] == ["new", "new"]


async def _all(*queries: LookupQuery[Any]) -> list[Any]:
    return list(await asyncio.gather(*queries))


class TestClear:
    @pytest.mark.parametrize("how", ["manager", "cache", "all"])
    async def test_clear_in_a_transaction_takes_effect_at_commit(
        self, cache: ModelCache, backend: CountingBackend, database: BaseDBAsyncClient, outside: Outside[Any], how: str
    ) -> None:
        """Entries that readers store between the call and the COMMIT have the old epoch, so they are ignored later."""
        clears = {"manager": Book.cache.clear, "cache": lambda: cache.clear(Book), "all": cache.clear_all}
        waits = database.capabilities.dialect == "sqlite"  # readers wait for SQLite's one connection
        known, unknown = await Book.create(isbn=1, title="old"), await Book.create(isbn=2, title="old")
        await ask_twice(Book.cache.get(id=known.id), backend)
        async with local_cache():
            await Book.cache.get(id=known.id)
            async with in_transaction() as connection:
                await connection.execute_script("UPDATE book SET title = 'new'")
                async with assert_ops(backend, redis=0):
                    await clears[how]()
                assert await title(Book.cache.get(id=known.id)) == "new"
        async with in_transaction() as connection:
            await connection.execute_script("UPDATE book SET title = 'newer'")
            await clears[how]()
            if not waits:
                assert await outside(title(Book.cache.get(id=known.id))) == "new"
                assert await outside(title(Book.cache.get(id=unknown.id))) == "new"
        for book in (known, unknown):
            assert await title(Book.cache.get(id=book.id)) == "newer"

    @pytest.mark.only_on("sqlite", "postgres", because="on MariaDB a rollback clears the keys")
    async def test_entries_answer_until_commit_and_after_a_rollback(
        self, cache: ModelCache, backend: CountingBackend, outside: Outside[Any]
    ) -> None:
        book = await Book.create(isbn=1, title="old")
        query = Book.cache.get(id=book.id)
        await ask_twice(query, backend)
        with rolled_back():
            async with in_transaction():
                await Book.cache.clear()
                async with assert_ops(backend, sql=0, redis=["read"]):
                    await outside(title(query))
                raise Rollback
        async with assert_ops(backend, sql=0, redis=["read"]):
            await query


class TestRollback:
    @pytest.mark.only_on("sqlite", "postgres", because="on MariaDB a rollback clears the keys")
    async def test_a_rolled_back_transaction_sends_nothing_and_leaves_entries(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        book, note = await Book.create(isbn=1), await Note.create(number=1)
        queries = [Book.cache.get(isbn=1), Book.cache.filter(shelf=1), Note.cache.get(number=1)]
        for query in queries:
            await ask_twice(query, backend)
        async with assert_ops(backend, redis=[]):
            with rolled_back():
                async with in_transaction():
                    book.isbn, book.shelf, note.text = 2, 2, "new"
                    await book.save()
                    await note.delete()
                    await Book.create(isbn=3)
                    raise Rollback
            with rolled_back(IntegrityError):
                async with in_transaction():
                    await book.save()
                    await Book.create(isbn=2)
        async with assert_ops(backend, sql=0):
            assert [(await queries[0]).isbn, len(await queries[1]), await queries[2]] == [1, 1, note]
        assert await Book.cache.get_or_none(isbn=2) is None

    async def test_writes_of_a_rolled_back_savepoint_leave_nothing_stale(
        self, cache: ModelCache, backend: CountingBackend, db_url: DatabaseUrl
    ) -> None:
        first, second = await Book.create(isbn=1), await Book.create(isbn=2)
        queries = Book.cache.get(id=first.id), Book.cache.get(id=second.id)
        for query in queries:
            await ask_twice(query, backend)
        async with assert_ops(backend, redis=["mark", "clear"]), in_transaction():
            first.title = "outer"
            await first.save()
            with rolled_back():
                async with in_transaction() as inner:
                    second.title = "lost"
                    await second.save(using_db=inner)
                    raise Rollback
            async with in_transaction() as inner:
                second.title = "inner"
                await second.save(using_db=inner)
            assert [await title(query) for query in queries] == ["outer", "inner"]
        assert [(await ask_twice(query, backend)).title for query in queries] == ["outer", "inner"]
        async with assert_ops(backend, redis=after_rollback(db_url, ["clear"])):
            with rolled_back():
                async with in_transaction():
                    async with in_transaction() as inner:
                        second.title = "lost"
                        await second.save(using_db=inner)
                    raise Rollback
        assert [await title(query) for query in queries] == ["outer", "inner"]

    @pytest.mark.only_on("sqlite", "postgres", because="MariaDB has no constraint that is checked by COMMIT")
    async def test_a_commit_that_the_database_refuses_withdraws_its_intents(
        self, cache: ModelCache, backend: CountingBackend, database: BaseDBAsyncClient
    ) -> None:
        await database.execute_script(
            "CREATE TABLE later (number INT REFERENCES author (number) DEFERRABLE INITIALLY DEFERRED)"
        )
        book = await Book.create(isbn=1)
        assert await ask_twice(Book.cache.get(isbn=1), backend) == book
        async with assert_ops(backend, redis=["mark", "clear"]):
            with rolled_back(Exception, match=r"(?i)foreign key"):
                async with in_transaction() as connection:
                    book.title = "lost"
                    await book.save()
                    await Book.create(isbn=2)
                    await connection.execute_query("INSERT INTO later VALUES (404)")
        assert cache.stats.unknown_outcomes == 0
        assert await states(cache, Book.cache.get(id=book.id), Book.cache.get(isbn=2)) == ".."
        assert (await ask_twice(Book.cache.get(isbn=1), backend)).title == ""
        async with in_transaction():
            await book.save()
        assert await title(Book.cache.get(isbn=1)) == "lost"

    @pytest.mark.only_on("postgres", "mariadb", because="SQLite has no connection to lose")
    async def test_a_connection_lost_at_commit_keeps_the_keys_uncached(
        self, gated: ModelCache, store: GatedBackend, db_url: DatabaseUrl
    ) -> None:
        """The outcome of the COMMIT is unknown, so the keys stay uncached until their intents expire."""
        book = await Book.create(isbn=1)
        assert await ask_twice(Book.cache.get(isbn=1), store) == book
        for moment in ("before COMMIT", "after an error"):
            with rolled_back(Exception, match=r"(?i)connect|closed|reach|lost|rollback"):
                async with in_transaction() as connection:
                    book.title = "lost"
                    await book.save()
                    raw: Any = connection._connection
                    raw.terminate() if db_url.dialect == "postgres" else raw.close()
                    if moment == "after an error":
                        raise Rollback("rollback")
            left = "W" if moment == "before COMMIT" else after_rollback(db_url, ".") or "V"
            assert await states(gated, Book.cache.get(id=book.id)) == left
            assert gated.stats.unknown_outcomes == 1
            await expire_intents(gated, Book.cache.get(id=book.id), Book.cache.get(isbn=1))
            assert (await ask_twice(Book.cache.get(isbn=1), store)).title == ""
        async with in_transaction():
            await book.save()
        assert await title(Book.cache.get(isbn=1)) == "lost"


class TestTasks:
    async def test_child_tasks_write_in_the_transaction_of_their_parent(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        books = [await Book.create(isbn=isbn) for isbn in range(5)]
        await ask_twice(Book.cache.filter(shelf=1), backend)

        async def write_all(fail: bool) -> None:
            async with in_transaction(), asyncio.TaskGroup() as group:
                for book in books:
                    book.shelf += 1
                    group.create_task(book.save())
                if fail:
                    raise Rollback

        async with assert_ops(backend, redis=["mark", "clear"]):
            await write_all(False)
        assert await ask_twice(Book.cache.filter(shelf=1), backend) == []
        assert await ask_twice(Book.cache.filter(shelf=2), backend) == books
        async with assert_ops(backend, redis=[]):
            # asyncmy closes a connection whose statement is cancelled, and then there is no ROLLBACK.
            with pytest.raises((BaseExceptionGroup, InterfaceError)):
                await write_all(True)
        assert await ask_twice(Book.cache.filter(shelf=2), backend) == books

    async def test_a_task_that_outlives_its_transaction_leaves_nothing_stale(
        self, gated: ModelCache, store: GatedBackend, outside: Outside[Any]
    ) -> None:
        book = await Book.create(isbn=1)
        over = asyncio.Event()

        async def late() -> None:
            await over.wait()
            assert await title(Book.cache.get(isbn=1)) == "first"
            book.title = "late"
            with suppress(Exception):  # drivers differ in whether a finished connection can write
                await book.save()

        async with in_transaction():
            book.title = "first"
            await book.save()
            child = asyncio.create_task(late())
        assert await title(Book.cache.get(isbn=1)) == "first"
        over.set()
        await child
        assert await title(Book.cache.get(isbn=1)) == (await Book.get(isbn=1)).title
        await expire_intents(gated, Book.cache.get(id=book.id), Book.cache.get(isbn=1))
        assert (await ask_twice(Book.cache.get(isbn=1), store)).title == (await Book.get(isbn=1)).title

    async def test_a_task_that_writes_during_the_commit_leaves_nothing_stale(
        self, gated: ModelCache, store: GatedBackend
    ) -> None:
        """Writing or opening a cache during the COMMIT is an error of the program, but leaves no stale entry."""
        first, second = await Book.create(isbn=1), await Book.create(isbn=2)
        for query in (Book.cache.get(isbn=1), Book.cache.get(isbn=2)):
            await ask_twice(query, store)
        async with asyncio.TaskGroup() as group, in_transaction():
            first.title = "new"
            await first.save()
            gate = store.hold("mark")

            async def write() -> None:
                await gate.reached()
                await late.open()
                second.title = "new"
                await second.save()
                note = Note(number=1)
                await note.save()
                gate.open()

            late = ModelCache(MemoryBackend())
            group.create_task(write())
        await late.close()
        assert (await ask_twice(Book.cache.get(isbn=1), store)).title == "new"
        assert (await ask_twice(Book.cache.get(isbn=2), store)).title == "new"
        assert await ask_twice(Note.cache.get(number=1), store)


class TestRaces:
    MOMENTS: list[tuple[str, Moment]] = [
        (operation, moment) for operation in ("mark", "commit", "clear") for moment in ("before", "after")
    ]

    @pytest.mark.exhaustive(because="lets readers run at every moment")
    async def test_readers_at_any_moment_around_commit_leave_nothing_stale(
        self, gated: ModelCache, store: GatedBackend, outside: Outside[Any]
    ) -> None:
        for number, (operation, moment) in enumerate(self.MOMENTS, start=1):
            isbn = 10 * number
            book = await Book.create(isbn=isbn, shelf=isbn)
            queries = [
                Book.cache.get(id=book.id),
                Book.cache.get_or_none(isbn=isbn),
                Book.cache.get_or_none(isbn=isbn + 1),
                Book.cache.filter(shelf=isbn),
                Book.cache.filter(shelf=isbn + 1),
            ]
            for query in queries[number % 2 :: 2]:  # half of the lookups are cached before
                await query
            gates = Gates()
            gate = (gates if operation == "commit" else store).hold(operation, moment)

            async def write(book: Book, gates: Gates) -> None:
                async with in_transaction() as connection:
                    gate_commit(connection, gates)
                    book.isbn += 1
                    book.shelf += 1
                    await book.save()

            writing = asyncio.create_task(write(book, gates))
            await gate.reached()
            readers = [asyncio.ensure_future(query) for query in queries]
            await asyncio.wait(readers, timeout=0.1)  # with SQLite, readers wait for its one connection
            gate.open()
            await writing
            await asyncio.gather(*readers)
            row, old, new, left, joined = [await ask_twice(query, store) for query in queries]
            assert (row.isbn, old, new, left, joined) == (isbn + 1, None, book, [], [book]), (operation, moment)

    @pytest.mark.exhaustive(because="tries every moment of a race")
    @pytest.mark.parametrize("mode", ["autocommit", "transaction"])
    async def test_a_write_at_any_step_of_a_reader_leaves_nothing_stale(
        self, gated: ModelCache, store: GatedBackend, database: BaseDBAsyncClient, mode: str
    ) -> None:
        """A reader pauses at each of its steps while the whole write happens."""
        steps: list[tuple[str, Moment]] = [("read", "after"), ("lease", "before"), ("lease", "after")]
        steps += [("SELECT", "before"), ("SELECT", "after"), ("fill", "before"), ("fill", "after")]
        for number, (operation, moment) in enumerate(steps, start=1):
            isbn = 10 * number
            book = await Book.create(isbn=isbn, shelf=isbn)
            for query in (
                Book.cache.get(id=book.id),
                Book.cache.get_or_none(isbn=isbn),
                Book.cache.get_or_none(isbn=isbn + 1),
                Book.cache.filter(shelf=isbn),
                Book.cache.filter(shelf=isbn + 1),
            ):
                await book.save()  # invalidates all entries of the book
                with gated_sql(database) as sql:
                    gate = (sql if operation == "SELECT" else store).hold(operation, moment)
                    reading = asyncio.ensure_future(query)
                    await gate.reached()
                    if mode == "transaction":
                        async with in_transaction():
                            await self._move(book)
                    else:
                        await self._move(book)
                    gate.open()
                    await reading
                found = await query
                stored = await self._from_the_database(query, book)
                assert found == stored, (operation, moment, query)
                assert not isinstance(found, Book) or vars(found) == vars(stored), (operation, moment, query)
                book.isbn, book.shelf, book.title = isbn, isbn, ""

    @staticmethod
    async def _move(book: Book) -> None:
        book.isbn += 1
        book.shelf += 1
        book.title = "moved"
        await book.save()

    @staticmethod
    async def _from_the_database(query: Any, book: Book) -> Any:
        [(name, value)] = query._filters.items()
        rows = await Book.filter(**{name: value})
        return rows if name == "shelf" else next(iter(rows), None)


@pytest.mark.usefixtures("impatient")
class TestCancellation:
    async def test_cancellation_at_any_step_of_commit_leaves_nothing_stale(
        self, gated: ModelCache, store: GatedBackend, db_url: DatabaseUrl
    ) -> None:
        for operation, moment in TestRaces.MOMENTS:
            if db_url.dialect == "sqlite" and (operation, moment) == ("commit", "before"):
                continue  # impossible: SQLite's thread has the COMMIT before a caller can cancel it
            book = await Book.create(isbn=1, title="old")
            row = Book.cache.get(id=book.id)
            assert (await ask_twice(row, store)).title == "old"
            gates = Gates()
            gate = (gates if operation == "commit" else store).hold(operation, moment)

            async def write(book: Book, gates: Gates) -> None:
                async with in_transaction() as connection:
                    gate_commit(connection, gates)
                    book.title = "new"
                    await book.save()

            writing = asyncio.create_task(write(book, gates))
            await gate.reached()
            await cancel(writing)
            committed = operation == "clear" or (operation, moment) == ("commit", "after")
            expected = "new" if committed else "old"
            # The connection is usable, and the lookup agrees with the row.
            async with in_transaction():
                assert (await Book.get(id=book.id)).title == expected, (operation, moment)
            assert await title(row) == expected, (operation, moment)
            gate.open()
            await gated.open_cache.tasks.finish(PATIENCE)
            left = await states(gated, row)
            assert (left == "W") == (operation == "commit"), (operation, moment)
            await expire_intents(gated, row)
            assert (await ask_twice(row, store)).title == expected, (operation, moment)
            await book.delete()

    @pytest.mark.exhaustive(because="cancels at every await")
    @pytest.mark.parametrize("mode", ["autocommit", "transaction"])
    async def test_cancellation_at_any_await_leaves_nothing_stale(
        self, gated: ModelCache, store: GatedBackend, database: BaseDBAsyncClient, mode: str
    ) -> None:
        """Cancels after each number of event loop steps, so awaits of the driver and the backend are interrupted."""
        book, other = await Book.create(isbn=1), await Book.create(isbn=2)
        queries = Book.cache.get(id=book.id), Book.cache.get(isbn=2)

        begun = asyncio.Event()

        async def write(text: str) -> None:
            book.title = other.title = text
            async with in_transaction() if mode == "transaction" else nullcontext():
                begun.set()
                await book.save()
                await other.save()

        async def same(query: Any) -> bool:
            return (await query).title == (await Book.get(**query._filters)).title

        for steps in [*range(12), *(int(1.2**power) for power in range(14, 38))]:
            for query in queries:
                await query
            begun.clear()
            writing = asyncio.create_task(write(f"{steps}"))
            await begun.wait()  # Tortoise never recovers from a cancelled BEGIN
            for _ in range(steps):
                await asyncio.sleep(0)
            writing.cancel()
            await asyncio.wait([writing])  # asyncmy may raise its own error from the ROLLBACK
            async with asyncio.timeout(PATIENCE):  # an intent expires in time, a stale entry would not
                while not all([await same(query) for query in queries]):
                    await asyncio.sleep(0.01)
        await write("end")
        await expire_intents(gated, *queries, Book.cache.get(id=other.id))
        for query in queries:
            assert (await ask_twice(query, store)).title == "end"


class TestRefusal:
    """``on_write_error="raise"``: a transaction whose intents the backend cannot take is rolled back."""

    @pytest.mark.only_on("redis", because="its server is killed")
    async def test_a_refused_transaction_leaves_the_database_unchanged(
        self, database: BaseDBAsyncClient, own_redis: RedisServer, db_url: DatabaseUrl
    ) -> None:
        async with ModelCache(own_redis.patient_url, on_write_error="raise", breaker_cooldown=0.05) as cache:
            book = await Book.create(isbn=1, title="old")
            assert await title(Book.cache.get(isbn=1)) == "old"
            own_redis.kill()
            book.title = "new"
            for _ in range(2):
                with rolled_back(CacheWriteError, match=r"refused.*retry"):
                    async with in_transaction():
                        await Scrap.create(number=1)
                        await book.save()
                assert (await Book.get(isbn=1)).title == "old"
                assert await Scrap.all().count() == 0
            async with in_transaction() as connection:
                await book.save()
                with pytest.raises(CacheWriteError):
                    await connection.commit()
            async with in_transaction():  # writes no cached model
                await Scrap.create(number=2)
            assert await Scrap.all().count() == 1
            assert (await Book.get(isbn=1)).title == "old"
            assert cache.stats.unknown_outcomes == 0
            assert cache.stats.undelivered == len(after_rollback(db_url, "..."))
            own_redis.restart()
            await until_accepted(book)
            assert await title(Book.cache.get(isbn=1)) == "new"

    async def test_a_transaction_is_refused_if_one_of_two_caches_refuses(
        self, database: BaseDBAsyncClient, store: GatedBackend, own_redis: RedisServer
    ) -> None:
        async with ModelCache(store) as first, ModelCache(own_redis.patient_url, on_write_error="raise") as second:
            book = await Book.create(isbn=1)
            for opened in (first, second):
                assert await opened.manager(Book).get(isbn=1) == book
            own_redis.kill()
            async with assert_ops(store, redis=["mark", "clear"]):
                with rolled_back(CacheWriteError):
                    async with in_transaction():
                        book.title = "new"
                        await book.save()
            assert (await ask_twice(first.manager(Book).get(isbn=1), store)).title == ""
            with pytest.raises(CacheWriteError):
                await book.save()
            assert await states(first, Book.cache.get(id=book.id)) == "."
            assert (await ask_twice(first.manager(Book).get(isbn=1), store)).title == ""
            assert (await Book.get(isbn=1)).title == ""
