"""Writes during an outage: invalidations are delivered later, or the writes are refused. None is lost silently."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.expressions import F
from tortoise.transactions import in_transaction

from aiomodelcache import BackendError, CacheWriteError, ModelCache
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.backends.opening import hurry
from tests.support.gates import PATIENCE, GatedBackend, gated_sql
from tests.support.models.shelves import Author, Book
from tests.support.servers import RedisServer
from tests.support.stored import ask_twice, cancel, expire_intents, no_intents, states, until_accepted

pytestmark = [
    pytest.mark.models("tests.support.models.shelves"),
    pytest.mark.only_on("sqlite", because="it is the store that fails; writes on every database are in tests/write"),
]


UNDELIVERED = "could not be delivered and is kept"
DELIVERED = "all invalidations are delivered"


class SeverableBackend(GatedBackend):
    """A gated backend whose connection a test can cut. The entries of the backend stay as they are meanwhile."""

    cut = False

    async def _send(self, operation: Any) -> Any:
        if self.cut:
            operation.close()
            raise BackendError("the connection is cut")
        return await operation

    async def read(self, *args: Any) -> Any:
        return await self._send(super().read(*args))

    async def lease(self, *args: Any) -> Any:
        return await self._send(super().lease(*args))

    async def fill(self, *args: Any) -> Any:
        return await self._send(super().fill(*args))

    async def mark(self, *args: Any) -> Any:
        return await self._send(super().mark(*args))

    async def clear(self, *args: Any) -> Any:
        return await self._send(super().clear(*args))


@pytest.fixture
def cable(backend: CountingBackend) -> SeverableBackend:
    return SeverableBackend(backend)


@pytest.fixture
async def cabled(database: BaseDBAsyncClient, cable: SeverableBackend) -> AsyncIterator[ModelCache]:
    """An open cache over the severable backend, which is connected again before the cache closes."""
    async with ModelCache(cable, breaker_cooldown=0.01, undelivered_limit=100) as opened:
        yield opened
        cable.cut = False


async def until_delivered(cache: ModelCache) -> None:
    """Waits until the cache has delivered all invalidations."""
    async with asyncio.timeout(PATIENCE):
        while cache.open_cache.guarded.has_undelivered:
            await asyncio.sleep(0.01)


def count_logged(caplog: pytest.LogCaptureFixture, text: str) -> int:
    return sum(text in record.getMessage() for record in caplog.records if record.name == "aiomodelcache")


class TestRetry:
    async def test_writes_succeed_during_an_outage_and_are_delivered_later(
        self, cabled: ModelCache, cable: SeverableBackend, backend: CountingBackend, caplog: pytest.LogCaptureFixture
    ) -> None:
        author = await Author.create(number=1, name="Kim")
        book, gone, other = [await Book.create(isbn=isbn, author=author) for isbn in (1, 2, 3)]
        keys = [Book.cache.get(id=each.id) for each in (book, gone, other)]
        keys += [Book.cache.get_or_none(isbn=isbn) for isbn in (4, 5)]
        queries = [*keys, Book.cache.filter(shelf=1), Book.cache.filter(shelf=2), Author.cache.get(number=1)]
        for query in queries:
            await ask_twice(query, cable)
        assert await states(cabled, *queries) == "VVVNNVVV"

        cable.cut = True
        book.isbn, book.shelf, book.title = 4, 2, "new"
        await book.save()
        await gone.delete()
        async with in_transaction():
            created = await Book.create(isbn=5)
            other.title = "other"
            await other.save()
        assert cabled.stats.undelivered == 3
        assert count_logged(caplog, UNDELIVERED) == 3
        # Before its keys are delivered, this process bypasses the cache, so it reads its own writes.
        before = cabled.stats.bypassed
        async with assert_ops(backend, redis=0):
            assert (await keys[0]).title == "new"
            assert [(await query).id for query in keys[3:]] == [book.id, created.id]
            assert [each.isbn for each in await Book.cache.filter(shelf=1)] == [3, 5]
            assert [each.title for each in await Book.cache.filter(shelf=2)] == ["new"]
        assert cabled.stats.bypassed > before
        old = await backend.read([query.locate(cabled.open_cache).key for query in queries])
        assert b"".join([entry[:1] for entry in old if entry]) == b"VVVNNVVV"
        assert count_logged(caplog, DELIVERED) == 0

        cable.cut = False
        await until_delivered(cabled)
        assert count_logged(caplog, DELIVERED) == 1
        assert (await states(cabled, *queries))[:3] == "..."
        assert await states(cabled, queries[-1]) == "V"  # the author was not written
        assert (await ask_twice(keys[0], cable)).title == "new"
        assert await ask_twice(Book.cache.get_or_none(id=gone.pk or 2), cable) is None
        assert [(await ask_twice(query, cable)).id for query in keys[3:]] == [book.id, created.id]
        assert [each.title for each in await ask_twice(queries[5], cable)] == ["other", ""]
        assert await ask_twice(queries[6], cable) == [book]
        assert cabled.stats.undelivered == 3

    @pytest.mark.only_on("redis", because="its server is killed")
    async def test_writes_during_the_death_of_a_server_are_delivered_after_its_restart(
        self, database: BaseDBAsyncClient, own_redis: RedisServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with ModelCache(own_redis.patient_url, breaker_cooldown=0.02) as cache:
            book = await Book.create(isbn=1)
            assert await Book.cache.get(isbn=1) == book
            own_redis.kill()
            for title in ("first", "second"):
                book.title = title
                await book.save()
                assert (await Book.cache.get(isbn=1)).title == title
            async with in_transaction():
                book.title = "third"
                await book.save()
            assert (await Book.cache.get(isbn=1)).title == "third"
            assert cache.stats.undelivered == count_logged(caplog, UNDELIVERED) == 3
            own_redis.restart()
            await until_delivered(cache)
            assert count_logged(caplog, DELIVERED) == 1
            await Book.cache.get(isbn=1)
            async with assert_ops(sql=0):
                assert (await Book.cache.get(isbn=1)).title == "third"
            book.title = "fourth"
            await book.save()
            assert (await Book.cache.get(isbn=1)).title == "fourth"
            assert cache.stats.undelivered == 3

    @pytest.mark.only_on("redis", because="its server is frozen")
    async def test_a_frozen_server_delays_a_write_by_two_timeouts(
        self, database: BaseDBAsyncClient, own_redis: RedisServer
    ) -> None:
        async with ModelCache(own_redis.patient_url, breaker_cooldown=0.02) as cache:
            book = await Book.create(isbn=1)
            assert await Book.cache.get(isbn=1) == book
            hurry(cache.backend, 0.1)
            own_redis.stop()
            started = time.monotonic()
            book.title = "new"
            async with asyncio.timeout(PATIENCE):
                await book.save()
            assert time.monotonic() - started >= 0.2
            assert cache.stats.backend_errors == 2
            assert (await Book.cache.get(isbn=1)).title == "new"
            own_redis.cont()
            await until_delivered(cache)
            assert (await Book.cache.get(isbn=1)).title == "new"

    async def test_past_the_limit_undelivered_keys_become_whole_models(
        self, cabled: ModelCache, cable: SeverableBackend, backend: CountingBackend, caplog: pytest.LogCaptureFixture
    ) -> None:
        books = [await Book.create(isbn=isbn) for isbn in range(60)]
        author = await Author.create(number=1, name="Kim")
        for query in (Book.cache.get(isbn=59), Author.cache.get(number=1)):
            await ask_twice(query, cable)
        cable.cut = True
        for book in books[:58]:
            book.title = "new"
            await book.save(update_fields=["title"])
            await book.save(update_fields=["title"])
        assert cabled.stats.undelivered == count_logged(caplog, UNDELIVERED) == 116
        cable.cut = False
        async with assert_ops(backend) as ops:
            await until_delivered(cabled)
        assert len(ops.operations) < 20
        async with assert_ops(cable, sql=0):
            assert await Author.cache.get(number=1) == author
        async with assert_ops(cable, sql=1):  # its entry has the old epoch
            assert (await Book.cache.get(isbn=59)).title == ""
        for isbn in (0, 57):
            assert (await ask_twice(Book.cache.get(isbn=isbn), cable)).title == "new"

    async def test_an_undelivered_write_of_an_expression_invalidates_the_computed_keys(
        self, cabled: ModelCache, cable: SeverableBackend
    ) -> None:
        book = await Book.create(isbn=1)
        for query in (Book.cache.filter(shelf=1), Book.cache.filter(shelf=2)):
            await ask_twice(query, cable)
        cable.cut = True
        book.shelf = F("shelf") + 1  # type: ignore[assignment]
        await book.save()
        cable.cut = False
        await until_delivered(cabled)
        assert await ask_twice(Book.cache.filter(shelf=1), cable) == []
        assert await ask_twice(Book.cache.filter(shelf=2), cable) == [book]

    @pytest.mark.parametrize("cut_off", ["mark", "clear"])
    async def test_a_write_whose_connection_is_cut_at_mark_or_clear_is_delivered_later(
        self, cabled: ModelCache, cable: SeverableBackend, cut_off: str
    ) -> None:
        book = await Book.create(isbn=1)
        assert await Book.cache.get(id=book.id) == book
        gate = cable.hold("mark", "before" if cut_off == "mark" else "after")
        book.title = "new"
        async with asyncio.TaskGroup() as group:
            group.create_task(book.save())
            await gate.reached()
            if cut_off == "mark":
                gate.open()
            cable.cut = True
            gate.open()
        assert cabled.stats.undelivered == 1
        assert (await Book.cache.get(id=book.id)).title == "new"
        cable.cut = False
        await until_delivered(cabled)
        assert await states(cabled, Book.cache.get(id=book.id)) == "."
        assert (await ask_twice(Book.cache.get(id=book.id), cable)).title == "new"

    async def test_writes_during_a_delivery_are_delivered_too(
        self, cabled: ModelCache, cable: SeverableBackend, backend: CountingBackend
    ) -> None:
        """The writes pass the limit, so the delivery in flight is replaced by that of the whole model."""
        books = [await Book.create(isbn=isbn) for isbn in range(4)]
        for book in books:
            await ask_twice(Book.cache.get(id=book.id), cable)
        cable.cut = True
        books[0].title = "new"
        await books[0].save(update_fields=["title"])
        cable.cut = False
        gate = cable.hold("clear")
        await gate.reached()  # the first delivery is in flight
        cable.cut = True
        for book in [books[1]] * 98 + books[2:]:  # the last write is past the limit
            book.title = "new"
            await book.save(update_fields=["title"])
        assert len(cabled.open_cache.writer._undelivered) == 1
        gate.open()
        await asyncio.sleep(0)
        assert cabled.open_cache.guarded.has_undelivered
        cable.cut = False
        await until_delivered(cabled)
        for book in books:
            assert (await ask_twice(Book.cache.get(id=book.id), cable)).title == "new"

    @pytest.mark.usefixtures("impatient")
    async def test_an_unknown_outcome_is_marked_as_soon_as_the_backend_is_back(
        self, cabled: ModelCache, cable: SeverableBackend, database: BaseDBAsyncClient, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The statement may run at any time, so the keys stay uncached until a mark from now on expires."""
        book = await Book.create(isbn=1)
        row = Book.cache.get(id=book.id)
        await ask_twice(row, cable)
        cable.cut = True
        with gated_sql(database) as sql:
            gate = sql.hold("UPDATE")
            book.title = "new"
            saving = asyncio.create_task(book.save())
            await gate.reached()
            await cancel(saving)
        assert (cabled.stats.unknown_outcomes, cabled.stats.undelivered) == (1, 1)
        assert (count_logged(caplog, "not known whether"), count_logged(caplog, UNDELIVERED)) == (1, 1)
        cable.cut = False
        await until_delivered(cabled)
        assert await states(cabled, row) == "W"
        assert (await row).title == ""
        await database.execute_query("UPDATE book SET title = 'new'")
        await expire_intents(cabled, row)
        assert (await ask_twice(row, cable)).title == "new"

    async def test_a_rolled_back_write_has_nothing_to_deliver(
        self, cabled: ModelCache, cable: SeverableBackend
    ) -> None:
        book = await Book.create(isbn=1)
        await ask_twice(Book.cache.get(isbn=1), cable)
        cable.cut = True
        async with in_transaction() as connection:
            book.title = "lost"
            await book.save()
            await connection.rollback()
        cable.cut = False
        assert not cabled.open_cache.guarded.has_undelivered
        assert cabled.stats.undelivered == 0
        assert (await ask_twice(Book.cache.get(isbn=1), cable)).title == ""


class TestClose:
    async def test_closing_the_cache_tries_to_deliver_once_more(
        self, database: BaseDBAsyncClient, cable: SeverableBackend, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with ModelCache(cable, lease_ttl=0.3):
            book = await Book.create(isbn=1)
            await ask_twice(Book.cache.get(id=book.id), cable)
            cable.cut = True
            book.title = "new"
            await book.save()
            cable.cut = False
        assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
        async with ModelCache(cable) as again:
            assert await states(again, Book.cache.get(id=book.id)) == "."
            assert (await Book.cache.get(id=book.id)).title == "new"

    async def test_closing_the_cache_logs_the_number_of_lost_invalidations(
        self, database: BaseDBAsyncClient, cable: SeverableBackend, caplog: pytest.LogCaptureFixture
    ) -> None:
        cache = await ModelCache(cable, breaker_cooldown=0.01).open()
        books = [await Book.create(isbn=isbn) for isbn in (1, 2)]
        cable.cut = True
        for book in books:
            await book.save()
        await cache.close()
        [error] = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
        assert "closed with 2 invalidations undelivered" in error

    async def test_closing_the_cache_waits_for_a_clear_in_flight(
        self, database: BaseDBAsyncClient, cable: SeverableBackend, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The cache waits up to ``lease_ttl``. After that the write counts as undelivered."""
        cache = await ModelCache(cable, lease_ttl=0.2).open()
        book = await Book.create(isbn=1)
        gate = cable.hold("clear")
        saving = asyncio.create_task(book.save())
        await gate.reached()
        closing = asyncio.create_task(cache.close())
        await asyncio.sleep(0)
        gate.open()
        await closing
        await saving
        assert count_logged(caplog, "undelivered") == 0

        cache = await ModelCache(cable, lease_ttl=0.05).open()
        gate = cable.hold("clear")
        saving = asyncio.create_task(book.save())
        await gate.reached()
        cable.cut = True
        await cache.close()
        await saving
        assert count_logged(caplog, "closed with 1 invalidations undelivered") == 1


class TestRaise:
    @pytest.mark.only_on("redis", because="its server is killed")
    async def test_a_refused_write_leaves_the_database_unchanged(
        self, database: BaseDBAsyncClient, own_redis: RedisServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with ModelCache(own_redis.patient_url, on_write_error="raise", breaker_cooldown=0.02) as cache:
            book = await Book.create(isbn=1, title="old")
            assert (await Book.cache.get(isbn=1)).title == "old"
            own_redis.kill()
            book.title = "new"
            for write in (
                book.save,
                book.delete,
                lambda: book.save(update_fields=["title"]),
                lambda: Book.create(isbn=2),
                lambda: Book.get_or_create(isbn=2),
                lambda: Book.update_or_create({"title": "new"}, isbn=1),
            ):
                with pytest.raises(CacheWriteError, match=r'The write was refused.*Use on_write_error="retry"'):
                    await write()
            assert [(each.isbn, each.title) for each in await Book.all()] == [(1, "old")]
            assert (await Book.cache.get(isbn=1)).title == "old"
            assert (cache.stats.undelivered, cache.stats.unknown_outcomes, count_logged(caplog, UNDELIVERED)) == (
                0,
                0,
                0,
            )
            own_redis.restart()
            await until_accepted(book)
            assert (await Book.cache.get(isbn=1)).title == "new"

    async def test_a_write_that_was_marked_is_not_refused(
        self, database: BaseDBAsyncClient, cable: SeverableBackend, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with ModelCache(cable, on_write_error="raise", breaker_cooldown=0.01) as cache:
            book = await Book.create(isbn=1)
            row = Book.cache.get(id=book.id)
            await ask_twice(row, cable)
            gate = cable.hold("mark", "after")
            book.title = "new"
            async with asyncio.TaskGroup() as group:
                group.create_task(book.save())
                await gate.reached()
                cable.cut = True
                gate.open()
            assert cache.stats.undelivered == count_logged(caplog, UNDELIVERED) == 1
            assert (await row).title == "new"
            cable.cut = False
            await until_delivered(cache)
            assert (await ask_twice(row, cable)).title == "new"

    async def test_a_mark_whose_reply_was_lost_expires(
        self, database: BaseDBAsyncClient, cable: SeverableBackend
    ) -> None:
        """The backend has marked the keys, and only its reply is lost."""

        class LosingReplies(SeverableBackend):
            losing = False

            async def mark(self, *args: Any) -> Any:
                kept = await super().mark(*args)
                if self.losing:
                    raise BackendError("the reply was lost")
                return kept

        lossy = LosingReplies(cable.backend)
        async with ModelCache(
            lossy, on_write_error="raise", intent_ttl=0.1, lease_ttl=0.5, breaker_cooldown=0.01
        ) as cache:
            book = await Book.create(isbn=1)
            row = Book.cache.get(id=book.id)
            await ask_twice(row, lossy)
            book.title = "new"
            lossy.losing = True
            with pytest.raises(CacheWriteError):
                await book.save()
            lossy.losing = False
            await no_intents(cache, row)
            assert (await ask_twice(row, lossy)).title == ""
