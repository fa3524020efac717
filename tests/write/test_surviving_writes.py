"""Writes that survive a rollback leave nothing stale.

MySQL and MariaDB end a transaction at any DDL statement and at a deadlock, and later statements of the block commit by
themselves. Tables of engines without transactions keep every write.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import IntegrityError, OperationalError
from tortoise.queryset import QuerySet
from tortoise.signals import Signals
from tortoise.transactions import in_transaction

from aiomodelcache import ModelCache
from aiomodelcache.query.lookups import LookupQuery
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.gates import Outside
from tests.support.models.shelves import Note, listening

pytestmark = [
    pytest.mark.models("tests.support.models.shelves"),
    pytest.mark.only_on("mariadb", because="in the others a rollback undoes every write"),
    pytest.mark.only_on("redis", because="the store has no part in it"),
    pytest.mark.slow(because="changes tables"),
]

DDL = "CREATE TABLE ended (number INT)"


class Rollback(Exception):
    """The error that rolls a transaction back."""


async def save(note: Note) -> None:
    note.number, note.page = 7, 2
    await note.save()


async def save_some(note: Note) -> None:
    note.page = 2
    await note.save(update_fields=["page"])


async def save_without_an_answer(note: Note) -> None:
    async def fail(*_: Any) -> None:
        raise LookupError

    note.number, note.page = 7, 2
    with listening(Note, Signals.post_save, fail, first=True), suppress(LookupError):
        await note.save()


async def create(note: Note) -> None:
    await Note.create(number=7, page=1)


async def delete(note: Note) -> None:
    await note.delete()


async def update_many(note: Note) -> None:
    await Note.filter(page=1).update(page=2)


async def delete_many(note: Note) -> None:
    await Note.filter(page=1).delete()


async def bulk_create(note: Note) -> None:
    await Note.bulk_create([Note(number=7), Note(number=8)])


async def bulk_update(note: Note) -> None:
    note.page = 2
    await Note.bulk_update([note], ["page"])


async def bulk_create_in_part(note: Note) -> None:
    with suppress(IntegrityError):
        await Note.bulk_create([Note(number=7), Note(number=note.number)])


async def update_in_part(note: Note) -> None:
    with suppress(IntegrityError):
        await Note.all().order_by("id").update(number=7)


Write = Callable[[Note], Awaitable[None]]
WRITES: list[Write] = [
    save,
    save_some,
    save_without_an_answer,
    create,
    delete,
    update_many,
    delete_many,
    bulk_create,
    bulk_update,
    bulk_create_in_part,
    update_in_part,
]


@pytest.fixture
async def notes(cache: ModelCache) -> list[Note]:
    """Three rows."""
    return [await Note.create(number=number) for number in (1, 2, 3)]


NUMBERS, PAGES = (1, 3, 7, 8), (1, 2)


def lookups() -> list[LookupQuery[Any]]:
    found: list[LookupQuery[Any]] = [Note.cache.get_or_none(id=id) for id in range(1, 7)]
    found += [Note.cache.get_or_none(number=number) for number in NUMBERS]
    return found + [Note.cache.filter(page=page, number=number) for page in PAGES for number in NUMBERS]


async def stored(client: BaseDBAsyncClient) -> list[Any]:
    rows = await QuerySet(Note).using_db(client).values()
    found: list[Any] = [[row for row in rows if row["id"] == id] for id in range(1, 7)]
    found += [[row for row in rows if row["number"] == number] for number in NUMBERS]
    listed = [(page, number) for page in PAGES for number in NUMBERS]
    return found + [[row for row in rows if (row["page"], row["number"]) == values] for values in listed]


def as_rows(answer: Any) -> list[dict[str, Any]]:
    notes = answer if isinstance(answer, list) else [answer] if answer is not None else []
    return [{name: getattr(note, name) for name in ("id", "number", "page", "text")} for note in notes]


async def check(backend: CountingBackend, client: BaseDBAsyncClient) -> None:
    answers = [as_rows(answer) for answer in await asyncio.gather(*lookups())]
    assert answers == await stored(client)
    async with assert_ops(backend, sql=0):  # all of it is cached
        await asyncio.gather(*lookups())


async def rolled_back(write: Write, note: Note) -> None:
    with suppress(Rollback):
        async with in_transaction():
            await write(note)
            raise Rollback


async def rolled_back_by_hand(write: Write, note: Note) -> None:
    async with in_transaction() as client:
        await write(note)
        await client.rollback()


async def rolled_back_to_a_savepoint(write: Write, note: Note) -> None:
    async with in_transaction():
        await rolled_back(write, note)


async def before_ddl(write: Write, note: Note) -> None:
    with suppress(Rollback):
        async with in_transaction() as client:
            await write(note)
            await client.execute_script(DDL)
            raise Rollback


async def after_ddl(write: Write, note: Note) -> None:
    with suppress(Rollback):
        async with in_transaction() as client:
            await client.execute_script(DDL)
            await write(note)
            raise Rollback


async def ddl_in_a_savepoint(write: Write, note: Note) -> None:
    async def block() -> None:
        async with in_transaction(), in_transaction() as client:
            await write(note)
            await client.execute_script(DDL)

    with pytest.raises(Exception, match=r"SAVEPOINT .* does not exist"):
        await block()


Block = Callable[[Write, Note], Awaitable[None]]


@pytest.mark.parametrize("write", [save, save_without_an_answer, create, bulk_create_in_part, update_many])
@pytest.mark.parametrize("block", [before_ddl, after_ddl, ddl_in_a_savepoint])
@pytest.mark.usefixtures("cache")
async def test_a_write_that_a_ddl_statement_commits(
    backend: CountingBackend, database: BaseDBAsyncClient, notes: list[Note], write: Write, block: Block
) -> None:
    await check(backend, database)
    await block(write, notes[0])
    await check(backend, database)


@pytest.mark.parametrize(
    ("block", "write"),
    [
        *((rolled_back, write) for write in WRITES),
        (rolled_back_by_hand, save),
        (rolled_back_to_a_savepoint, save),
        (rolled_back_to_a_savepoint, bulk_create_in_part),
    ],
)
@pytest.mark.usefixtures("cache")
async def test_a_write_to_a_table_without_transactions(
    backend: CountingBackend, database: BaseDBAsyncClient, notes: list[Note], write: Write, block: Block
) -> None:
    await database.execute_script("ALTER TABLE note ENGINE=MyISAM")
    await check(backend, database)
    await block(write, notes[0])
    await check(backend, database)


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("ends", ["rolled back", "committed"])
async def test_writes_after_a_deadlock_that_the_block_has_caught(
    backend: CountingBackend, database: BaseDBAsyncClient, notes: list[Note], outside: Outside, ends: str
) -> None:
    """The database rolls the whole transaction back, and later statements of the block commit by themselves."""
    await Note.bulk_create([Note(number=number) for number in range(100, 120)])
    await check(backend, database)
    locked, caught = asyncio.Event(), asyncio.Event()

    async def other() -> None:
        async with in_transaction() as client:
            # The transaction that has changed more rows survives.
            await client.execute_query("UPDATE note SET text = 'other' WHERE id > 3")
            await client.execute_query("UPDATE note SET text = 'other' WHERE id = 2")
            locked.set()
            await client.execute_query("UPDATE note SET text = 'other' WHERE id = 1")
            await caught.wait()

    with suppress(Rollback):
        async with in_transaction():
            notes[0].text = "lost"
            await notes[0].save()
            blocked = outside(other())
            try:
                await locked.wait()
                await blocking(database)
                notes[1].text = "lost"
                with pytest.raises(OperationalError, match="Deadlock"):
                    await notes[1].save()
            finally:
                caught.set()
                await blocked
            notes[2].text = "kept"
            await notes[2].save()
            if ends == "rolled back":
                raise Rollback
    await Note.cache.invalidate(Note.exclude(id=3))  # written by raw SQL
    assert (await Note.cache.get(number=3)).text == "kept"
    await check(backend, database)


async def blocking(client: BaseDBAsyncClient) -> None:
    """Waits until a transaction waits for a lock."""
    waiting = "SELECT COUNT(*) AS n FROM information_schema.INNODB_TRX WHERE trx_state = 'LOCK WAIT'"
    async with asyncio.timeout(10):
        while not (await client.execute_query_dict(waiting))[0]["n"]:
            await asyncio.sleep(0.2)  # the table shows what it showed, unless it was not read for 0.1 s
