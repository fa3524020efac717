"""Two releases of a program, whose models have other columns, over one store and one table (``adopt_rows``)."""

import asyncio
import datetime
import decimal
import random
import sqlite3
import sys
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager, closing
from contextvars import copy_context
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import pytest
from tortoise import fields
from tortoise.backends.base import executor
from tortoise.context import TortoiseContext
from tortoise.fields.base import Field

from aiomodelcache import CachedModel, ModelCache, writes_without_cache
from aiomodelcache.backends.protocol import Fill, Lease
from aiomodelcache.encoding.layout import VALUE, new_token
from aiomodelcache.engine import shape_sharing
from aiomodelcache.entries.shapes import StoredShapes, stored_shapes
from aiomodelcache.testing import CountingBackend
from tests.support.effort import share
from tests.support.gates import awaited, until

pytestmark = [
    pytest.mark.no_tables,
    pytest.mark.only_on("sqlite", because="the store decides, and each release has a connection of its own"),
]

T = TypeVar("T")
COLUMNS: dict[str, Any] = {
    "name": lambda: fields.CharField(max_length=20, default="kim"),
    "rank": lambda: fields.IntField(default=7),
    "score": lambda: fields.FloatField(null=True),
    "price": lambda: fields.DecimalField(max_digits=8, decimal_places=2, default=decimal.Decimal("1.50")),
    "born": lambda: fields.DateField(default=datetime.date(2000, 1, 2)),
    "token": lambda: fields.UUIDField(null=True),
    "notes": lambda: fields.JSONField(default=dict),
    "data": lambda: fields.BinaryField(null=True),
    "seen": lambda: fields.DatetimeField(default=datetime.datetime(2020, 5, 6, tzinfo=datetime.UTC)),
    "live": lambda: fields.BooleanField(default=True),
}
"""The columns that a release may have, beside the primary key."""


def model_of(columns: Mapping[str, Field[Any]], *, key: str | None = None, version: int = 0) -> Any:
    """Returns a release's model of the table ``released``."""

    class Meta:
        table = "released"

    class CacheMeta:
        filter_key_fields_list = [(key,)] if key else []

    CacheMeta.version = version  # type: ignore[attr-defined]
    body = {"id": fields.IntField(primary_key=True), **columns, "Meta": Meta, "CacheMeta": CacheMeta}
    return type("Released", (CachedModel,), {**body, "__module__": __name__})


class Release:
    """A process of one release. What it does, it does in the Tortoise context of its own."""

    def __init__(self, model: Any, cache: ModelCache) -> None:
        self.model = model
        self.cache = cache
        self.columns: tuple[str, ...] = model._meta.fields_db_projection
        self._rows = cache.manager(model)
        self._context = copy_context()

    @property
    def statements(self) -> int:
        return self.cache.stats.statements

    @property
    def adopted(self) -> int:
        return self.cache.stats.of("Released").adopted

    async def _own(self, work: Coroutine[Any, Any, T]) -> T:
        answer = await asyncio.get_running_loop().create_task(work, context=self._context.copy())
        await until(lambda: not self.cache.open_cache.tasks.busy)
        return answer

    async def row(self, pk: int = 1) -> dict[str, Any]:
        """Returns the columns that the cache answers, which must be those of the database."""

        async def look_up() -> dict[str, Any]:
            found, expected = await self._rows.get(id=pk), await self.model.get(id=pk)
            values = {name: getattr(found, name) for name in self.columns}
            assert values == {name: getattr(expected, name) for name in self.columns}
            return values

        return await self._own(look_up())

    async def get_or_none(self, pk: int) -> Any:
        return await self._own(awaited(self._rows.get_or_none(id=pk)))

    async def refresh(self, pk: int) -> None:
        await self._own(awaited(self._rows.refresh(id=pk)))

    async def ranked(self, rank: int) -> list[int]:
        return [row.id for row in await self._own(awaited(self._rows.filter(rank=rank)))]

    async def write(self, pk: int = 1, **values: Any) -> None:
        async def save() -> None:
            row = await self.model.get(id=pk)
            await row.update_from_dict(values).save()

        await self._own(save())

    async def explained(self) -> str | None:
        return (await self._own(self._rows.explain(id=1))).reason

    async def clear(self) -> None:
        await self._own(self._rows.clear())

    async def create(self, pk: int) -> None:
        await self._own(self.model.create(id=pk))


class NoCache(dict[Any, Any]):
    """A replacement of Tortoise's cache of statements, which it keeps by the names of connection and table."""

    def __setitem__(self, key: Any, value: Any) -> None:
        pass


@asynccontextmanager
async def connected(folder: Path, model: Any) -> AsyncIterator[TortoiseContext]:
    name = model.__module__ = f"release_{id(model)}"
    sys.modules[name] = module = ModuleType(name)
    vars(module)["Released"] = model
    try:
        async with TortoiseContext() as context:
            await context.init(db_url=f"sqlite://{folder}/released.db", modules={"app": [name]})
            yield context
    finally:
        del sys.modules[name]


@asynccontextmanager
async def release(folder: Path, backend: CountingBackend, model: Any, **settings: Any) -> AsyncIterator[Release]:
    async with connected(folder, model), ModelCache(backend, **{"adopt_rows": True, **settings}) as cache:
        await until(lambda: not cache.open_cache.tasks.busy)  # it reads and adds columns
        yield Release(model, cache)


@pytest.fixture
async def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a database whose table has all columns and two rows."""
    monkeypatch.setattr(executor, "EXECUTOR_CACHE", NoCache())
    monkeypatch.setattr(shape_sharing, "ASK_INTERVAL", 0.0)
    model = model_of({name: make() for name, make in COLUMNS.items()})
    async with connected(tmp_path, model) as context:
        await context.generate_schemas()
        with writes_without_cache():
            await model.create(id=1, notes={"a": [1]}, data=b"\x00\xff", score=0.5)
            await model.create(id=2, name="lee", rank=8)
    return tmp_path


def some(*names: str) -> dict[str, Field[Any]]:
    return {name: COLUMNS[name]() for name in names}


async def test_a_release_without_a_column_reads_the_rows_of_the_last_one(table: Path, backend: CountingBackend) -> None:
    async with release(table, backend, model_of(some("name", "rank", "notes"))) as before:
        await before.row()
        assert before.statements == 1
        async with release(table, backend, model_of(some("rank", "name"))) as after:
            assert await after.row() == {"id": 1, "rank": 7, "name": "kim"}
            assert (after.statements, after.adopted) == (0, 1)
            assert await after.explained() == "hit"
            assert "mismatched" not in after.cache.stats.of("Released").warned


async def test_processes_of_the_last_release_read_the_rows_of_one_with_more_columns(
    table: Path, backend: CountingBackend
) -> None:
    """They were opened before it, so they learn of its columns from its first row."""
    async with (
        release(table, backend, model_of(some("name"))) as before,
        release(table, backend, model_of(some("name", "price", "seen"))) as after,
    ):
        await after.row(1)
        await after.row(2)
        await before.row(1)
        assert before.statements == 1
        await after.row(1)
        assert await before.row(2) == {"id": 2, "name": "lee"}
        assert (before.statements, before.adopted) == (1, 1)


async def test_a_row_that_lacks_a_column_is_a_miss_even_with_a_default(table: Path, backend: CountingBackend) -> None:
    """The counterexample: the older release stores the row once more after the newer one has written the column."""
    async with (
        release(table, backend, model_of(some("name"))) as before,
        release(table, backend, model_of(some("name", "rank"))) as after,
    ):
        await after.write(rank=99)
        await before.row()
        assert (await after.row())["rank"] == 99
        assert (after.statements, after.adopted) == (1, 0)


async def test_a_write_of_either_release_invalidates_for_both(table: Path, backend: CountingBackend) -> None:
    async with (
        release(table, backend, model_of(some("name", "rank", "live"))) as wide,
        release(table, backend, model_of(some("name", "rank"))) as narrow,
    ):
        for number, (writer, reader) in enumerate([(wide, narrow), (narrow, wide), (narrow, narrow), (wide, narrow)]):
            await wide.row()
            await writer.write(rank=number)
            assert (await reader.row())["rank"] == number
            assert (await writer.row())["rank"] == number


async def test_clearing_the_model_of_either_release_clears_that_of_both(table: Path, backend: CountingBackend) -> None:
    async with (
        release(table, backend, model_of(some("name", "rank"))) as wide,
        release(table, backend, model_of(some("rank"))) as narrow,
    ):
        for clears in (wide, narrow):
            await wide.refresh(1)
            await clears.clear()
            await clears.row(2)  # a new epoch
            statements = narrow.statements
            await narrow.row()
            assert (narrow.statements, narrow.adopted) == (statements + 1, 0)


async def test_an_absence_is_one_for_both(table: Path, backend: CountingBackend) -> None:
    async with (
        release(table, backend, model_of(some(*COLUMNS))) as wide,
        release(table, backend, model_of(some("rank"))) as narrow,
    ):
        assert await wide.get_or_none(404) is None
        assert await narrow.get_or_none(404) is None
        assert (narrow.statements, narrow.adopted) == (0, 1)
        await wide.create(404)
        assert (await narrow.row(404))["rank"] == 7


async def test_lists_are_those_of_both_if_their_columns_are_the_same(table: Path, backend: CountingBackend) -> None:
    async with (
        release(table, backend, model_of(some("name", "rank"), key="rank")) as wide,
        release(table, backend, model_of(some("rank"), key="rank")) as narrow,
    ):
        assert await wide.ranked(7) == [1]
        assert await narrow.ranked(7) == [1]
        assert narrow.statements == 0
        await narrow.write(2, rank=7)
        assert await wide.ranked(7) == [1, 2]


@pytest.mark.parametrize(
    ("stored", "read"),
    [
        (model_of(some("name")), model_of({"name": fields.CharField(max_length=30, default="")})),
        (model_of(some("name", "rank")), model_of({"rank": fields.BigIntField(default=0)})),
        (model_of(some("name", "rank"), version=1), model_of(some("rank"), version=2)),
    ],
    ids=["size", "type", "version"],
)
async def test_columns_of_other_types_and_other_versions_are_not_read(
    table: Path, backend: CountingBackend, stored: Any, read: Any
) -> None:
    async with release(table, backend, stored) as before, release(table, backend, read) as after:
        await before.row()
        await after.row()
        assert (after.statements, after.adopted) == (1, 0)


async def test_by_default_rows_of_other_releases_are_not_read(table: Path, backend: CountingBackend) -> None:
    async with release(table, backend, model_of(some("name", "rank")), adopt_rows=False) as before:
        assert not backend.operations
        await before.row()
        async with release(table, backend, model_of(some("rank")), adopt_rows=False) as after:
            await after.row()
            assert (after.statements, after.adopted) == (1, 0)


async def test_a_column_that_moved_into_another_one_is_why_it_is_no_default(
    table: Path, backend: CountingBackend
) -> None:
    """The counterexample: SQL of the migration, which no cache sees, writes a column that stays and drops another one.

    By default the new release finds no entry with its columns, so it reads what the migration has written.
    """
    async with release(table, backend, model_of(some("name", "rank"))) as before:
        assert (await before.row())["name"] == "kim"
        with closing(sqlite3.connect(table / "released.db")) as connection, connection:
            connection.execute("UPDATE released SET name = name || ' ' || rank")
        for adopts, expected in ((True, "kim"), (False, "kim 7")):
            async with release(table, backend, model_of(some("name")), adopt_rows=adopts) as after:
                assert (await after.get_or_none(1)).name == expected


async def test_damaged_and_hostile_columns_are_misses(table: Path, backend: CountingBackend) -> None:
    async with release(table, backend, model_of(some("name", "rank"))) as before:
        await before.row()
        [key] = [each.key for each in [before.cache.open_cache.models[before.model].rows.shapes] if each is not None]
        for shapes in (b"", b"\xc1", b"\x91\xc4\x03[[[", b"\x91\xc4\x01(", b"\x91\xc4\x04None", b"\x91\xc4\x022]"):
            await backend.delete([key])
            token = new_token()
            await backend.lease([Lease(key)], token, 60_000)
            await backend.fill([Fill(key, b"L" + token, stored_shapes(new_token(), shapes), 60_000)])
            async with release(table, backend, model_of(some("rank"))) as after:
                await after.row()
                assert after.adopted == 0


async def test_only_the_latest_releases_are_kept(table: Path, backend: CountingBackend) -> None:
    names = list(COLUMNS)
    for number in range(10):
        async with release(table, backend, model_of(some(*names[: number + 1]))) as last:
            shapes = last.cache.open_cache.models[last.model].rows.shapes
            assert isinstance(shapes, StoredShapes)
            [held] = await backend.read([shapes.key])
            assert held is not None
            assert held[:1] == VALUE
            assert shapes.learn(held) is None, "its own columns are there"
            assert len(shapes._codecs) <= 9
            assert len(held) < 8 * 1_000


@pytest.mark.parametrize("seed", share(range(40)))
async def test_rows_of_any_two_releases_are_never_wrong(table: Path, backend: CountingBackend, seed: int) -> None:
    """A row is adopted exactly if the reader's columns are some of those that were stored."""
    chance = random.Random(seed)
    stored = chance.sample(list(COLUMNS), chance.randrange(2, len(COLUMNS) + 1))
    read = chance.sample(stored, chance.randrange(1, len(stored)))
    if seed % 3 == 0:
        read += [name for name in COLUMNS if name not in stored][:1]
    async with (
        release(table, backend, model_of(some(*stored))) as one,
        release(table, backend, model_of(some(*read))) as other,
    ):
        await other.row(2)
        await one.row(2)  # each has seen a row of the other one
        await other.row(2)
        for number in range(8):
            writer, reader = chance.sample([one, other], 2)
            await writer.write(**({"rank": number} if "rank" in writer.columns else {}))
            await writer.row()
            statements, adopted = reader.statements, reader.adopted
            await reader.row()
            fits = set(reader.columns) <= set(writer.columns)
            assert (reader.statements - statements, reader.adopted - adopted) == ((0, 1) if fits else (1, 0))
