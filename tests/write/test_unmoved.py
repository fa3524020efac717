"""A save of all columns that moves no row leaves the lists that hold the row, and every other save invalidates them."""

import copy
import datetime
import pickle
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.expressions import F
from tortoise.queryset import QuerySet
from tortoise.signals import Signals
from tortoise.transactions import in_transaction

from aiomodelcache import ModelCache, local_cache
from aiomodelcache.query.lookups import LookupQuery
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.databases import DatabaseUrl
from tests.support.models.shelves import listening
from tests.support.models.unmoved_models import Chore, Errand, Kind, Task
from tests.support.stored import ask_twice, states

pytestmark = [
    pytest.mark.models("tests.support.models.unmoved_models"),
    pytest.mark.slow(because="compares every lookup with the database after each save"),
]


def by_number(number: int = 1) -> LookupQuery[Any]:
    return Task.cache.get_or_none(number=number)


def by_owner(owner: int = 1) -> LookupQuery[Any]:
    return Task.cache.filter(owner=owner)


def by_room(room: int | None = None) -> LookupQuery[Any]:
    return Task.cache.filter(room=room)


def by_both(owner: int = 1, room: int | None = None) -> LookupQuery[Any]:
    return Task.cache.filter(owner=owner, room=room)


def lookups() -> list[LookupQuery[Any]]:
    return [by_number(), by_owner(), by_room(), by_both()]


@pytest.fixture
async def tasks(cache: ModelCache) -> list[Task]:
    """Three rows, with all lists in the cache."""
    rows = [await Task.create(number=number) for number in (1, 2, 3)]
    await warm()
    return rows


async def warm() -> None:
    for query in (*lookups(), by_owner(2), by_room(2), by_both(2), by_number(7)):
        await query


async def check() -> None:
    """Asserts that every lookup agrees with the database."""
    rows = [(row.id, row.number, row.owner, row.room) for row in await QuerySet(Task).order_by("place", "id")]
    for _ in range(2):
        for number in (1, 2, 3, 7):
            found = await by_number(number)
            assert (found and found.id) == next((row[0] for row in rows if row[1] == number), None)
        for owner in (1, 2):
            assert [task.id for task in await by_owner(owner)] == [row[0] for row in rows if row[2] == owner]
        for room in (None, 2):
            assert [task.id for task in await by_room(room)] == [row[0] for row in rows if row[3] == room]
            wanted = [row[0] for row in rows if row[2:] == (1, room)]
            assert [task.id for task in await by_both(1, room)] == wanted


async def created() -> Task:
    task = await Task.create(number=9)
    await warm()
    return task


async def saved() -> Task:
    task = await Task.get(number=2)
    task.number, task.owner = 1, 3
    await Task.filter(number=1).delete()
    await task.save()
    await warm()
    return task


async def refreshed() -> Task:
    task = await Task.get(number=1)
    task.owner = 5
    await task.refresh_from_db()
    return task


async def within_a_scope() -> Task:
    async with local_cache():
        await by_owner()
        return await by_number()


async def changed_back() -> Task:
    task = await Task.get(number=1)
    return task.update_from_dict({"number": 1, "owner": 1, "room": None, "place": 0, "title": "form"})


LOADS: dict[str, Callable[[], Awaitable[Task]]] = {
    "from the cache": lambda: Task.cache.get(number=1),
    "from a cached list": lambda: _first(by_owner()),
    "from the database": lambda: Task.get(number=1),
    "from a list in the database": lambda: _first(Task.filter(owner=1)),
    "created": created,
    "saved before": saved,
    "refreshed": refreshed,
    "in a scope": within_a_scope,
    "changed to the same values": changed_back,
    "copied": lambda: _by(copy.copy),
    "copied with its values": lambda: _by(copy.deepcopy),
    "pickled": lambda: _by(lambda task: pickle.loads(pickle.dumps(task))),
}


async def _first(query: Any) -> Task:
    return (await query)[0]  # type: ignore[no-any-return]


async def _by(make: Callable[[Task], Task]) -> Task:
    return make(await Task.cache.get(number=1))


@pytest.mark.parametrize("load", LOADS)
async def test_a_save_that_moves_no_row_leaves_its_lists(
    cache: ModelCache, backend: CountingBackend, tasks: list[Task], load: str
) -> None:
    task = await LOADS[load]()
    task.title = "changed"
    assert await states(cache, *lookups()) == "VVVV"
    async with assert_ops(backend, sql=1, redis=["mark", "clear"], transactions=0):
        await task.save()
    assert await states(cache, *lookups()) == "VVVV"
    assert (await Task.cache.get(id=task.id)).title == "changed"  # reads the row again
    async with assert_ops(backend, sql=0):
        for query in lookups():
            await query
    await check()


async def test_a_save_invalidates_the_lists_by_the_columns_that_were_changed(
    cache: ModelCache, backend: CountingBackend, tasks: list[Task]
) -> None:
    task = await Task.cache.get(number=1)
    task.room = 2
    async with assert_ops(backend, sql=1, redis=["mark", "clear"]):
        await task.save()
    assert await states(cache, by_number(), by_owner(), by_room(2), by_both(1, 2)) == "VV.."
    await check()
    task.place = 5  # the order of all lists
    async with assert_ops(backend, sql=1, redis=["mark", "clear"]):
        await task.save()
    assert await states(cache, by_owner(), by_room(2), by_both(1, 2)) == "..."
    await check()
    await warm()
    task.title = "again"
    await task.save()
    assert await states(cache, by_number(), by_owner(), by_both(1, 2)) == "VVV"
    await check()


@pytest.mark.parametrize("within", ["autocommit", "transaction"])
@pytest.mark.parametrize("column", ["owner", "room", "number", "place"])
async def test_a_stale_instance_that_moves_its_row_back_invalidates_its_lists(
    cache: ModelCache, backend: CountingBackend, tasks: list[Task], column: str, within: str
) -> None:
    """Another writer has moved the row since the instance was loaded, and readers have cached lists without it."""
    stale = await Task.cache.get(number=1)
    await Task.filter(id=stale.id).update(**{column: 7 if column == "number" else 2})
    await warm()
    await check()
    stale.title = "stale"
    if within == "autocommit":
        async with assert_ops(backend, sql=2, redis=["mark", "mark", "clear"], transactions=0):
            await stale.save()
    else:
        async with assert_ops(backend, sql=2, redis=["mark", "clear"]), in_transaction():
            await stale.save()
    assert (await Task.get(id=stale.id)).title == "stale"
    assert getattr(await Task.get(id=stale.id), column) == getattr(stale, column)
    await check()
    stale.title = "current"
    async with assert_ops(backend, sql=1, redis=["mark", "clear"]):
        await stale.save()
    await check()


async def test_a_row_that_raw_sql_has_moved_is_moved_back(
    cache: ModelCache, database: BaseDBAsyncClient, tasks: list[Task]
) -> None:
    await database.execute_script("UPDATE task SET owner = 2 WHERE number = 1")
    await Task.cache.clear()
    await warm()
    await tasks[0].save()
    await check()


async def test_a_deleted_row_stays_deleted(cache: ModelCache, tasks: list[Task]) -> None:
    await Task.filter(number=1).delete()
    await warm()
    tasks[0].title = "gone"
    await tasks[0].save()
    assert await QuerySet(Task).filter(number=1).count() == 0
    await check()


async def test_values_that_a_listener_changes_are_invalidated(cache: ModelCache, tasks: list[Task]) -> None:
    async def move(model: type[Task], task: Task, *_: Any) -> None:
        task.owner, task.number = 2, 7

    with listening(Task, Signals.pre_save, move):
        await tasks[0].save()
    await check()


@pytest.mark.parametrize("value", [F("owner") + 1, 2])
async def test_an_expression_invalidates_the_list_of_its_result(
    cache: ModelCache, tasks: list[Task], value: Any
) -> None:
    tasks[0].owner = value
    await tasks[0].save()
    await check()


async def test_a_save_that_was_rolled_back(cache: ModelCache, backend: CountingBackend, tasks: list[Task]) -> None:
    """The instance has values that the row has not."""
    task = await Task.cache.get(number=1)
    with suppress(ZeroDivisionError):
        async with in_transaction():
            task.owner = 2
            await task.save()
            raise ZeroDivisionError
    await warm()
    task.title = "second"
    await task.save()
    assert (await Task.get(id=task.id)).owner == 2
    await check()


async def test_a_save_after_a_savepoint_that_was_rolled_back(cache: ModelCache, tasks: list[Task]) -> None:
    task = await Task.cache.get(number=1)
    async with in_transaction():
        with suppress(ZeroDivisionError):
            async with in_transaction():
                task.owner = 2
                await task.save()
                raise ZeroDivisionError
        await task.save()
    await check()


async def test_a_refused_save_is_still_a_move(cache: ModelCache, tasks: list[Task]) -> None:
    task = await Task.cache.get(number=1)
    task.number = 2
    with pytest.raises(Exception, match=r"(?i)unique|duplicate"):
        await task.save()
    task.number = 7
    await task.save()
    await check()


async def test_a_save_without_any_change(cache: ModelCache, database: BaseDBAsyncClient) -> None:
    """MariaDB counts only rows whose values differ, so the writer cannot know that the row was not moved."""
    errand = await Errand.create(owner=1)
    manager = cache.manager(Errand)
    assert len(await manager.filter(owner=1)) == 1
    await errand.save()
    assert len(await manager.filter(owner=1)) == 1


async def test_a_plain_model_with_a_separate_manager(
    cache: ModelCache, backend: CountingBackend, database: BaseDBAsyncClient
) -> None:
    manager = cache.manager(Errand)
    await Errand.create(owner=1)
    for load in (lambda: Errand.get(owner=1), lambda: _first(manager.filter(owner=1))):
        await ask_twice(manager.filter(owner=1), backend)
        errand = await load()
        errand.title += "x"
        async with assert_ops(backend, sql=1, redis=["mark", "clear"]):
            await errand.save()
        assert await states(cache, manager.filter(owner=1)) == "V"
    errand.owner = 2
    async with assert_ops(backend, sql=1, redis=["mark", "clear"]):
        await errand.save()
    assert await manager.filter(owner=1) == []
    assert await manager.filter(owner=2) == [errand]


async def test_values_of_every_type(cache: ModelCache, backend: CountingBackend, db_url: DatabaseUrl) -> None:
    """Databases do not compare floats and decimals exactly, so a save always invalidates lists by them."""
    values: dict[str, Any] = {
        "done": True,
        "code": uuid.UUID(int=7),
        "day": datetime.date(2026, 2, 3),
        "kind": Kind.ERRAND,
        "due": datetime.datetime(2026, 2, 3, 4, 5, 6, 789, tzinfo=datetime.UTC),
        "price": Decimal("1.50"),
        "effort": 0.1,
    }
    await Chore.create(**values)
    queries = [Chore.cache.filter(**{name: value}) for name, value in values.items()]
    for load in (lambda: Chore.get(id=1), lambda: Chore.cache.get(id=1)):
        for query in queries:
            assert len(await query) == 1
        chore = await load()
        chore.title += "x"
        async with assert_ops(backend, sql=1, redis=["mark", "clear"]):
            await chore.save()
        assert await states(cache, *queries) == "VVVVV.."
