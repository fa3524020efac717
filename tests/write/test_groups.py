"""``queries_by``: a write touches the queries of the groups that rows are in before and after it, and no others."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import DoesNotExist
from tortoise.expressions import F, Q, Subquery
from tortoise.transactions import in_transaction

from aiomodelcache import CacheConfigurationError, CacheQuery, ModelCache, writes_without_cache
from aiomodelcache.backends.protocol import NOTHING_ALLOWED, ReplacedEntry
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.models.derived_models import Seat

pytestmark = pytest.mark.models("tests.support.models.derived_models")


class Marks(CountingBackend):
    """A store that keeps the keys that writers mark."""

    def __init__(self, backend: Any) -> None:
        super().__init__(backend)
        self.marked: set[str] = set()

    async def mark(
        self, keys: Sequence[bytes], token: bytes, ttl_ms: int, allow: Mapping[bytes, int] = NOTHING_ALLOWED
    ) -> dict[bytes, ReplacedEntry]:
        self.marked.update(key.decode() for key in keys)
        return await super().mark(keys, token, ttl_ms, allow)

    @property
    def groups(self) -> set[int]:
        """The groups that were marked."""
        found = [re.fullmatch(r"amc:t:\w+:seat:i(\d+)", key) for key in self.marked]
        return {int(match[1]) for match in found if match}


@pytest.fixture
async def marks(database: BaseDBAsyncClient, backend: CountingBackend) -> AsyncIterator[Marks]:
    with writes_without_cache():
        await Seat.bulk_create([Seat(id=at, line=at // 10) for at in (10, 11, 20, 30, 31)])
    store = Marks(backend.backend)
    async with ModelCache(store, bulk_limit=3):
        yield store


async def save(**changes: int) -> None:
    await (await Seat.get(id=10)).update_from_dict(changes).save()


async def save_stale() -> None:
    """Another writer has moved the row since it was loaded."""
    seat = await Seat.get(id=10)
    await Seat.filter(id=10).update(line=5)
    await seat.save()


async def save_some(**changes: int) -> None:
    await (await Seat.get(id=10)).update_from_dict(changes).save(update_fields=list(changes))


async def in_a_transaction() -> None:
    async with in_transaction():
        await save(line=4)


WRITES: list[tuple[str, Callable[[], Awaitable[Any]], set[int]]] = [
    ("create", lambda: Seat.create(id=99, line=9), {9}),
    ("save that moves", lambda: save(line=4), {1, 4}),
    ("save that stays", lambda: save(price=4), {1}),
    ("save of some columns that moves", lambda: save_some(line=4), {1, 4}),
    ("save of some columns that stays", lambda: save_some(price=4), {1}),
    ("save of an ignored column", lambda: save_some(looked_at=4), set()),
    ("save over a newer row", save_stale, {1, 5}),
    ("transaction", in_a_transaction, {1, 4}),
    ("update that moves", lambda: Seat.filter(line=1).update(line=4), {1, 4}),
    ("update by an expression", lambda: Seat.filter(id__in=[10, 20]).update(line=F("line") + 5), {1, 2, 6, 7}),
    ("update that stays", lambda: Seat.filter(line=3).update(price=4), {3}),
    ("delete", lambda: Seat.filter(id__in=[10, 20]).delete(), {1, 2}),
    ("delete of an instance", lambda: delete(20), {2}),
    ("bulk_create", lambda: Seat.bulk_create([Seat(id=at, line=at // 10) for at in (71, 81)]), {7, 8}),
    ("bulk_update that moves", lambda: bulk_update(["line"]), {1, 2, 6}),
]


async def delete(pk: int) -> None:
    await (await Seat.get(id=pk)).delete()


async def bulk_update(fields: list[str]) -> None:
    seats = await Seat.filter(id__in=[10, 20])
    for seat in seats:
        seat.line = 6
    await Seat.bulk_update(seats, fields)


@pytest.mark.exhaustive(because="every way of writing")
@pytest.mark.parametrize(("write", "expected"), [case[1:] for case in WRITES], ids=[case[0] for case in WRITES])
async def test_a_write_marks_the_groups_of_old_and_new_values(
    write: Callable[[], Awaitable[Any]], expected: set[int], marks: Marks
) -> None:
    await write()
    assert marks.groups == expected


async def test_a_write_past_the_limit_marks_the_epoch(marks: Marks) -> None:
    await Seat.all().update(price=1)
    assert any(re.fullmatch(r"amc:e:\w+:seat", key) for key in marks.marked)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"queries_by": ["nothing"]}, "queries_by names 'nothing', which is not a field of Seat"),
        ({"queries_by": [], "queries": 1}, r"Seat\.CacheMeta\.queries is 1: use True or False"),
        ({"queries_by": ["line"], "queries": False}, r"queries_by has no effect with queries = False: remove one"),
        ({"queries_by": 5}, r"Seat\.CacheMeta\.queries_by is 5: it must be a list of field names"),
        ({"queries_ignore": ["id"]}, "queries_ignore names 'id', the primary key, which every query reads"),
        ({"queries_ignore": ["no"]}, "queries_ignore names 'no', which is not a field of Seat"),
    ],
)
@pytest.mark.only_on("sqlite", because="declarations do not depend on the database")
async def test_a_wrong_setting_is_an_error_with_its_remedy(
    settings: dict[str, Any],
    message: str,
    database: BaseDBAsyncClient,
    backend: CountingBackend,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Seat, "CacheMeta", type("CacheMeta", (), settings))
    with pytest.raises(CacheConfigurationError, match=message):
        await ModelCache(backend).open()


def of_line(line: int) -> CacheQuery[list[Seat]]:
    return Seat.cache.query(Seat.filter(line=line).order_by("id"))


@pytest.mark.exhaustive(because="every way of writing")
@pytest.mark.parametrize(("write", "expected"), [case[1:] for case in WRITES], ids=[case[0] for case in WRITES])
async def test_a_write_ends_the_queries_of_these_groups_alone(
    write: Callable[[], Awaitable[Any]], expected: set[int], marks: Marks
) -> None:
    for line in range(10):
        await of_line(line)
    await write()
    for line in range(10):
        number = None if line in expected else 0
        async with assert_ops(marks, sql=number):
            answer = await of_line(line)
        assert [(seat.id, seat.price) for seat in answer] == await Seat.filter(line=line).order_by("id").values_list(
            "id", "price"
        )


QUERIES: list[tuple[str, Callable[[], Any], bool]] = [
    ("by keyword", lambda: Seat.filter(line=1), True),
    ("by Q", lambda: Seat.filter(Q(line=1), Q(price=0) | Q(price=5)), True),
    ("count", lambda: Seat.filter(line=1).count(), True),
    ("exists", lambda: Seat.filter(line=1, price=7).exists(), True),
    ("values", lambda: Seat.filter(line=1).order_by("id").values("id", "price"), True),
    ("get", lambda: Seat.get(line=1, id=10), True),
    ("all", lambda: Seat.all(), False),
    ("by another column", lambda: Seat.filter(price=0), False),
    ("or", lambda: Seat.filter(Q(line=1) | Q(price=1)), False),
    ("not", lambda: Seat.filter(~Q(line=1)), False),
    ("exclude", lambda: Seat.exclude(line=1), False),
    ("range", lambda: Seat.filter(line__in=[1]), False),
    ("subquery", lambda: Seat.filter(line=1, id__in=Subquery(Seat.filter(price=0).values("id"))), False),
    ("expression", lambda: Seat.filter(line=F("line")), False),
    ("ignored column", lambda: Seat.filter(line=1, looked_at=0), False),
]


@pytest.mark.parametrize(("query", "narrow"), [case[1:] for case in QUERIES], ids=[case[0] for case in QUERIES])
async def test_a_query_of_one_group_ignores_writes_to_others(
    query: Callable[[], Any], narrow: bool, marks: Marks
) -> None:
    """A query that may contain rows of several groups depends on the whole table."""
    cached = Seat.cache.query(query())
    await cached
    await cached
    await Seat.filter(id=31).update(price=1)
    async with assert_ops(marks, sql=0 if narrow else None):
        answer = await cached
    assert answer == await query()
    await Seat.filter(id=10).update(price=2)
    assert await cached == await query()
    await Seat.filter(id=10).update(line=3)
    assert await outcome(cached) == await outcome(query())


async def outcome(query: Awaitable[Any]) -> Any:
    try:
        return await query
    except DoesNotExist:
        return DoesNotExist
