"""``@cached`` and ``ValueCache``: a result is forgotten when anything changes that it was computed from."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.expressions import Q, Subquery
from tortoise.functions import Count
from tortoise.transactions import in_transaction

from aiomodelcache import (
    BatchCacheQuery,
    CacheError,
    DontCache,
    InvalidationType,
    ModelCache,
    ValueCache,
    cached,
    depends_on,
    local_cache,
    writes_without_cache,
)
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.databases import DatabaseUrl
from tests.support.effort import FULL
from tests.support.models.derived_models import Frozen, Happening, Label, Organizer, Plain, Shelf

pytestmark = pytest.mark.models("tests.support.models.derived_models")

calls: list[str] = []


@pytest.fixture(autouse=True)
async def rows(database: BaseDBAsyncClient) -> None:
    calls.clear()
    with writes_without_cache():
        await rows_again()


def connection() -> Any:
    return Happening._meta.db


async def slugs(rows: Awaitable[list[Happening]]) -> list[str]:
    return [row.slug for row in await rows]


async def by_cache() -> Any:
    return await slugs(Happening.cache.filter(organizer=1).resolve())


async def by_key() -> Any:
    return (await Happening.cache.get(slug="h1")).level


async def by_many() -> Any:
    return [row.level for row in await Happening.cache.get_many([1, 2])]


async def by_batch() -> Any:
    answers = await BatchCacheQuery(one=Happening.cache.get(id=1), all=Happening.cache.filter(organizer=1))
    return [answers["one"].level, len(answers["all"])]


async def by_gather() -> Any:
    return await asyncio.gather(by_cache(), by_key())


async def by_task_group() -> Any:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(by_key()), group.create_task(by_sql())]
    return [task.result() for task in tasks]


async def by_foreign_key() -> Any:
    happening = await Happening.cache.get(id=1)
    return (await happening.organizer).name


async def by_sql() -> Any:
    return await Happening.filter(organizer_id=1).order_by("id").values_list("slug", "level")


async def by_prefetch() -> Any:
    rows = await Happening.filter(organizer_id=1).order_by("id").prefetch_related("labels", "organizer")
    return [(row.slug, row.level, row.organizer.name, sorted(label.name for label in row.labels)) for row in rows]


async def by_fetch_related() -> Any:
    row = await Happening.cache.get(id=1)
    await row.fetch_related("labels")
    return [label.name for label in row.labels]


async def by_join() -> Any:
    return await Happening.filter(organizer__name="kim").order_by("id").values_list("slug", flat=True)


async def by_q() -> Any:
    return await Happening.filter(Q(level__gt=0) | Q(organizer__name="kim")).count()


async def by_aggregate() -> Any:
    rows = await Organizer.annotate(number=Count("happenings")).order_by("id").values_list("name", "number")
    return [list(row) for row in rows]


async def by_subquery() -> Any:
    wanted = Organizer.filter(name="kim").values("id")
    return await Happening.filter(organizer_id__in=Subquery(wanted)).order_by("id").values_list("slug", flat=True)


async def by_exists() -> Any:
    return await Happening.filter(level=5).exists()


async def by_raw() -> Any:
    rows = await connection().execute_query_dict("SELECT slug, level FROM happening ORDER BY id")
    return [dict(row) for row in rows]


async def by_union() -> Any:
    query = Happening.filter(level=5).union(Happening.filter(organizer_id=1))
    return sorted([row.slug for row in await query])


async def by_link_table() -> Any:
    return await Happening.filter(labels__id=1).order_by("id").values_list("slug", flat=True)


async def saved() -> None:
    row = await Happening.get(id=1)
    row.level, row.slug = 5, "other"
    await row.save()


async def updated() -> None:
    await Happening.filter(id=1).update(level=5, slug="other")


async def bulk_updated() -> None:
    row = await Happening.get(id=1)
    row.level, row.slug = 5, "other"
    await Happening.bulk_update([row], ["level", "slug"])


async def created() -> None:
    await Happening.create(id=9, slug="new", level=5, organizer_id=1)


async def bulk_created() -> None:
    await Happening.bulk_create([Happening(id=9, slug="new", level=5, organizer_id=1)])


async def deleted() -> None:
    await (await Happening.get(id=1)).delete()


async def deleted_in_bulk() -> None:
    await Happening.filter(id=1).delete()


async def cascaded() -> None:
    await (await Organizer.get(id=1)).delete()


async def cascaded_in_bulk() -> None:
    await Organizer.filter(id=1).delete()


async def renamed() -> None:
    await Organizer.filter(id=1).update(name="kay")


async def unlinked() -> None:
    await (await Happening.get(id=1)).labels.clear()


async def unlinked_from_the_other_side() -> None:
    await (await Label.get(id=1)).happenings.remove(await Happening.get(id=1))


async def label_deleted() -> None:
    await Label.filter(id=1).delete()


async def written_in_a_transaction() -> None:
    async with in_transaction():
        await updated()


async def invalidated_by_hand() -> None:
    await connection().execute_script("UPDATE happening SET level = 5 WHERE id = 1")
    await Happening.cache.invalidate(1)


async def cleared() -> None:
    await connection().execute_script("UPDATE happening SET level = 5 WHERE id = 1")
    await Happening.cache.clear()


READS = [value for name, value in list(globals().items()) if name.startswith("by_")]
WRITES = [
    saved,
    updated,
    bulk_updated,
    created,
    bulk_created,
    deleted,
    deleted_in_bulk,
    cascaded,
    cascaded_in_bulk,
    renamed,
    unlinked,
    unlinked_from_the_other_side,
    label_deleted,
    written_in_a_transaction,
    invalidated_by_hand,
    cleared,
]


async def outcome(read: Callable[[], Awaitable[Any]]) -> Any:
    try:
        return await read()
    except Exception as error:
        return type(error)


@pytest.mark.exhaustive(because="computes every result again after each of all writes")
@pytest.mark.parametrize("read", READS, ids=lambda read: read.__name__)
async def test_a_result_is_what_would_be_computed_now(
    read: Callable[[], Awaitable[Any]], cache: ModelCache, backend: CountingBackend, db_url: DatabaseUrl
) -> None:
    """The result is answered from the cache until a write, of any kind, and never after one that changes it.

    On database servers, each kind of read meets a third of the writes.
    """
    writes = WRITES if FULL or db_url.dialect == "sqlite" else WRITES[READS.index(read) % 3 :: 3]

    @cached
    async def result() -> Any:
        calls.append(read.__name__)
        return await read()

    @cached
    async def outer() -> Any:
        return [await result()]

    for write in writes:
        await rows_again()
        first = await outcome(result)
        assert await outcome(outer) == ([first] if not isinstance(first, type) else first)
        if not isinstance(first, type):
            number = len(calls)
            async with assert_ops(backend, sql=0, redis=None):
                assert [await result(), await outer()] == [first, [first]], write
            assert len(calls) == number, f"it is not cached before {write.__name__}"
        await write()
        now = await outcome(read)
        assert await outcome(result) == now, write
        assert await outcome(outer) == ([now] if not isinstance(now, type) else now), write


async def rows_again() -> None:
    """Brings all rows to the state in which a test begins, by captured writes."""
    await Happening.all().delete()
    await Label.all().delete()
    await Organizer.all().delete()
    await Organizer.bulk_create([Organizer(id=1, name="kim"), Organizer(id=2, name="lee")])
    organizers = {1: 1, 2: 1, 3: 2}
    await Happening.bulk_create([Happening(id=at, slug=f"h{at}", organizer_id=by) for at, by in organizers.items()])
    label = await Label.create(id=1, name="free")
    for at in (1, 2):
        await (await Happening.get(id=at)).labels.add(label)


async def test_a_nested_result_depends_on_what_the_inner_one_was_read_from_and_on_itself(cache: ModelCache) -> None:
    """Its bytes stay although a row has changed, and by hand it changes although no row has."""
    counter = iter(range(100))

    @cached
    async def inner() -> int:
        await by_key()
        return next(counter)

    @cached
    async def outer() -> int:
        return await inner()

    assert [await inner(), await outer(), await outer()] == [0, 0, 0]
    await Happening.filter(id=1).update(level=5)
    assert await outer() == 1
    await inner.invalidate()
    assert await outer() == 2
    await inner.clear()
    assert await outer() == 3


async def test_a_task_that_began_earlier_has_no_tracker_so_its_work_is_not_stored(cache: ModelCache) -> None:
    wanted: asyncio.Queue[asyncio.Future[int]] = asyncio.Queue()

    async def work() -> None:
        while True:
            future = await wanted.get()
            future.set_result((await Happening.get(id=1)).level)

    worker = asyncio.create_task(work())

    @cached
    async def level() -> int:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        await wanted.put(future)
        return await future

    assert await level() == 0
    await Happening.filter(id=1).update(level=5)
    assert await level() == 5
    worker.cancel()


async def test_a_function_that_reads_nothing_is_cached_by_its_arguments(cache: ModelCache) -> None:
    @cached(timeout=60)
    async def square(number: int) -> int:
        calls.append("square")
        return number * number

    assert [await square(3), await square(3), await square(4)] == [9, 9, 16]
    assert calls == ["square"] * 2


async def test_in_a_transaction_a_result_is_computed_there_and_not_stored(cache: ModelCache) -> None:
    @cached
    async def level() -> int:
        return (await Happening.get(id=1)).level

    assert await level() == 0
    async with in_transaction():
        await Happening.filter(id=1).update(level=5)
        assert await level() == 5
        assert (await BatchCacheQuery(level=level.query()))["level"] == 5
        outside = await asyncio.create_task(as_another_caller(level))
        assert outside == 5, "a task of the transaction is in it"
    assert await level() == 5


async def as_another_caller(function: Callable[[], Awaitable[int]]) -> int:
    return await function()


async def test_a_result_computed_in_a_transaction_of_its_own_is_not_stored(cache: ModelCache) -> None:
    @cached
    async def level() -> int:
        calls.append("level")
        async with in_transaction():
            return (await Happening.get(id=1)).level

    assert [await level(), await level()] == [0, 0]
    assert calls == ["level"] * 2


async def test_a_function_that_writes_is_not_stored(cache: ModelCache) -> None:
    @cached
    async def count_up() -> int:
        row = await Happening.get(id=1)
        row.level += 1
        await row.save()
        return row.level

    assert [await count_up(), await count_up()] == [1, 2]


async def test_columns_that_queries_ignore_leave_them_valid(cache: ModelCache, backend: CountingBackend) -> None:
    @cached
    async def names() -> Any:
        return await Organizer.all().order_by("id").values_list("name", flat=True)

    organizer = await Organizer.get(id=1)
    await names()
    organizer.seen = 7
    await organizer.save(update_fields=["seen"])
    await Organizer.filter(id=1).update(seen=8)
    async with assert_ops(backend, sql=0):
        await names()
    await Organizer.filter(id=1).update(seen=9, name="kay")
    assert await names() == ["kay", "lee"]


@pytest.mark.only_on("postgres", because="other databases have no name for a whole row")
async def test_a_row_as_a_whole_has_the_columns_that_queries_ignore(cache: ModelCache) -> None:
    @cached
    async def rows() -> Any:
        return await connection().execute_query_dict("SELECT to_jsonb(o)::text AS row FROM organizer o ORDER BY id")

    before = await rows()
    await Organizer.filter(id=1).update(seen=8)
    assert '"seen": 8' in (await rows())[0]["row"] != before[0]["row"]


@pytest.mark.only_on("sqlite", because="other databases take a subquery there")
async def test_a_table_after_in_is_a_dependency(cache: ModelCache) -> None:
    @cached
    async def number() -> int:
        sql = "SELECT COUNT(*) AS number FROM happening WHERE (1, 'renamed') IN label"
        return int((await connection().execute_query_dict(sql))[0]["number"])

    assert await number() == 0
    await Label.filter(id=1).update(name="renamed")
    assert await number() == 3


class TestUntracked:
    """Tables whose writes nothing notices: those of models without a cache, or with ``queries = False``."""

    @pytest.mark.parametrize("model", [Plain, Shelf, Frozen])
    async def test_a_result_that_reads_such_a_table_is_not_stored(
        self, model: Any, cache: ModelCache, caplog: pytest.LogCaptureFixture
    ) -> None:
        await model.create(id=1)

        @cached
        async def level() -> Any:
            return (await model.get(id=1)).level

        assert [await level(), await level()] == [0, 0]
        await model.filter(id=1).update(level=5)
        assert await level() == 5
        (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
        table = model._meta.db_table
        assert (
            f"level reads {connection().connection_name}.{table}, whose writes are not noticed, so"
            in warning.getMessage()
        )

    async def test_an_error_is_raised_where_it_is_read(self, backend: CountingBackend, database: Any) -> None:
        @cached
        async def count() -> int:
            return await Plain.all().count()

        async with ModelCache(backend, untracked_reads="error"):
            with pytest.raises(CacheError, match=r"count reads \w+\.plain, whose writes are not noticed"):
                await count()

    @pytest.mark.parametrize("awaited", [True, False])
    async def test_it_is_stored_if_the_function_says_what_it_depends_on(
        self, awaited: bool, cache: ModelCache, caplog: pytest.LogCaptureFixture
    ) -> None:
        @cached
        async def levels() -> Any:
            calls.append("levels")
            declared = depends_on(Happening, Organizer)
            if awaited:
                await declared
            return [await Plain.all().count(), (await Happening.get(id=1)).level]

        assert [await levels(), await levels()] == [[0, 0]] * 2
        assert calls == ["levels"]
        await Organizer.filter(id=1).update(name="kay")
        await levels()
        assert calls == ["levels"] * 2
        assert not caplog.records

    @pytest.mark.parametrize(
        ("how", "others"),
        [("awaited", False), ("not awaited", True), ("beside another", True), ("in a transaction", True)],
    )
    async def test_an_instance_stands_for_its_row_or_for_the_table(
        self, how: str, others: bool, cache: ModelCache
    ) -> None:
        organizer = await Organizer.get(id=1)

        @cached
        async def number() -> int:
            calls.append("number")
            if how == "beside another":
                depends_on(await Organizer.cache.get(id=3))
            if how == "not awaited":
                depends_on(organizer)
            async with in_transaction() if how == "in a transaction" else nullcontext():
                if how != "not awaited":
                    await depends_on(organizer)
                return await Plain.all().count()

        await Organizer.create(id=3, name="lou")
        for _ in range(3):
            await number()
        assert calls[-1:] == ["number"]
        calls.clear()
        await number()
        assert not calls
        await Organizer.filter(id=2).update(name="kay")
        await number()
        assert bool(calls) is others
        await number()
        calls.clear()
        await number()
        assert not calls
        await Organizer.filter(id=1).update(name="kit")
        await number()
        assert calls == ["number"]
        await organizer.delete()
        await number()
        assert calls == ["number"] * 2

    async def test_an_instance_that_is_not_saved_stands_for_the_table(self, cache: ModelCache) -> None:
        @cached
        async def number() -> int:
            calls.append("number")
            await depends_on(Organizer(name="new"))
            return await Plain.all().count()

        assert [await number(), await number()] == [0, 0]
        await Organizer.filter(id=2).update(name="kay")
        await number()
        assert calls == ["number"] * 2

    async def test_models_can_be_declared_by_setting(self, cache: ModelCache) -> None:
        @cached(depends_on=(Organizer,))
        async def number() -> int:
            calls.append("number")
            return 1

        await number()
        await number()
        await Organizer.filter(id=2).update(name="kay")
        await number()
        assert calls == ["number"] * 2

    async def test_a_setting_says_the_same_as_a_call(self, cache: ModelCache, caplog: pytest.LogCaptureFixture) -> None:
        @cached(depends_on=Organizer)
        async def plain() -> int:
            calls.append("plain")
            return await Plain.all().count()

        for wanted in (plain, PlainCount):
            calls.clear()
            assert [await wanted(), await wanted()] == [0, 0]
            assert calls == ["plain"]
            await Organizer.filter(id=1).update(name="kay")
            await wanted()
            assert calls == ["plain"] * 2
        assert not caplog.records

    async def test_outside_of_a_computation_it_does_nothing(self, cache: ModelCache) -> None:
        await depends_on(Happening)
        with pytest.raises(TypeError, match="takes models and instances of models; got"):
            depends_on(1)  # type: ignore[arg-type]


async def test_an_instance_as_an_argument_is_read_again(cache: ModelCache) -> None:
    """Only its primary key is in the key, so that its values, which may be older, must not decide the result."""

    @cached
    async def level(happening: Happening) -> int:
        return happening.level

    old = await Happening.get(id=1)
    await Happening.filter(id=1).update(level=5)
    assert await level(old) == 5
    unsaved = await Happening.get(id=1)
    unsaved.level = 99
    assert await level(unsaved) == 5
    await Happening.filter(id=1).update(level=6)
    assert await level(old) == 6


async def test_answers_of_a_request_scope_have_no_token(cache: ModelCache) -> None:
    @cached
    async def level() -> int:
        with local_cache():
            await Happening.cache.get(id=1)
            return (await Happening.cache.get(id=1)).level

    assert await level() == 0
    await Happening.filter(id=1).update(level=5)
    assert await level() == 5


async def test_with_invalidation_off_nothing_is_recorded(cache: ModelCache) -> None:
    @cached(invalidation=InvalidationType.OFF)
    async def level() -> int:
        return (await Happening.get(id=1)).level

    assert await level() == 0
    await Happening.filter(id=1).update(level=5)
    assert await level() == 0
    await level.invalidate()
    assert await level() == 5


class PlainCount(ValueCache[int]):
    depends_on = (Organizer,)

    async def get_value(self) -> int:
        calls.append("plain")
        return await Plain.all().count()


class LevelOf(ValueCache[int]):
    async def get_value(self, slug: str) -> Any:
        calls.append(slug)
        happening = await Happening.cache.get_or_none(slug=slug)
        return DontCache(-1) if happening is None else happening.level


async def test_a_value_class_is_tracked_too(cache: ModelCache) -> None:
    assert [await LevelOf("h1"), await LevelOf("h1"), await LevelOf("none"), await LevelOf("none")] == [0, 0, -1, -1]
    assert calls == ["h1", "none", "none"]
    await Happening.filter(id=1).update(level=5)
    assert await LevelOf("h1") == 5


async def test_an_absent_row_is_a_dependency(cache: ModelCache) -> None:
    @cached
    async def level(slug: str) -> int | None:
        calls.append(slug)
        row = await Happening.cache.get_or_none(slug=slug)
        return None if row is None else row.level

    assert [await level("new"), await level("new")] == [None, None]
    assert calls == ["new"]
    await created()
    assert await level("new") == 5


async def test_more_dependencies_than_the_limit_collapse_to_the_version_of_the_table(
    cache: ModelCache, backend: CountingBackend
) -> None:
    await Happening.bulk_create([Happening(id=at, slug=f"h{at}", organizer_id=2) for at in range(100, 300)])

    @cached
    async def total() -> int:
        calls.append("total")
        return sum([row.level for row in await Happening.cache.filter(organizer=2)])

    assert [await total(), await total()] == [0, 0]
    assert calls == ["total"]
    (entry,) = await backend.backend.read([total.key().encode()])
    assert entry is not None
    assert len(entry) < 1_000, "it names the table, and not two hundred rows"
    await Happening.filter(id=299).update(level=5)
    assert await total() == 5


async def test_a_warm_result_takes_one_round_trip(cache: ModelCache, backend: CountingBackend) -> None:
    @cached
    async def page() -> Any:
        return [await by_prefetch(), await by_cache()]

    first = await page()
    async with assert_ops(backend, sql=0, redis=["read"]):
        assert await page() == first
    async with assert_ops(backend, sql=0, redis=["read"]):
        await asyncio.gather(*[page() for _ in range(10)], *[Happening.cache.get(id=1) for _ in range(10)])


async def test_a_function_that_reads_an_own_result_is_explained(cache: ModelCache) -> None:
    @cached
    async def level() -> int:
        return (await Happening.cache.get(id=1)).level

    assert (await level.explain()).reason == "missing"
    await level()
    assert (await level.explain()).reason == "hit"
    await Happening.filter(id=1).update(level=5)
    assert (await level.explain()).reason == "changed"
