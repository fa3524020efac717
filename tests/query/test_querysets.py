"""``Event.cache.query(queryset)``: any queryset's answer, until something changes that it was read from."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.contrib.sqlite.functions import Random
from tortoise.exceptions import DoesNotExist, MultipleObjectsReturned
from tortoise.expressions import F, Q, RawSQL, Subquery
from tortoise.fields.relational import ReverseRelation
from tortoise.functions import Count, Lower, Max
from tortoise.models import Model
from tortoise.query_utils import Prefetch
from tortoise.transactions import in_transaction

from aiomodelcache import (
    BatchCacheQuery,
    CacheConfigurationError,
    CacheError,
    ModelCache,
    cached,
    depends_on,
    local_cache,
    writes_without_cache,
)
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.query import test_derived as derived
from tests.support.models.derived_models import Happening, Label, Organizer, Plain, Shelf
from tests.support.plain import plain

pytestmark = pytest.mark.models("tests.support.models.derived_models")


@pytest.fixture(autouse=True)
async def rows(database: BaseDBAsyncClient) -> None:
    with writes_without_cache():
        await derived.rows_again()


QUERIES: dict[str, Callable[[], Awaitable[Any]]] = {
    "all": lambda: Happening.all().order_by("id"),
    "filter": lambda: Happening.filter(organizer_id=1, level__lt=3).order_by("-id"),
    "exclude": lambda: Happening.exclude(slug="h2").order_by("id"),
    "q": lambda: Happening.filter(Q(level=5) | ~Q(slug__in=["h1", "h3"])).order_by("id"),
    "join": lambda: Happening.filter(organizer__name="kim").order_by("organizer__name", "id"),
    "links": lambda: Happening.filter(labels__name="free").order_by("id"),
    "slice": lambda: Happening.all().order_by("id")[1:2],
    "first": lambda: Happening.all().order_by("id").first(),
    "first of none": lambda: Happening.filter(id=99).first(),
    "last": lambda: Happening.all().last(),
    "latest": lambda: Happening.all().latest("slug"),
    "get": lambda: Happening.get(slug="h1"),
    "get of none": lambda: Happening.get(slug="missing"),
    "get of several": lambda: Happening.all().get(organizer_id=1),
    "get_or_none": lambda: Happening.get_or_none(slug="h1"),
    "count": lambda: Happening.filter(level=0).count(),
    "count of a slice": lambda: Happening.all().limit(2).count(),
    "exists": lambda: Happening.filter(level=5).exists(),
    "values": lambda: Happening.all().order_by("id").values("slug", by="organizer__name"),
    "values of one": lambda: Happening.get(id=1).values("slug", "level"),
    "values_list": lambda: Happening.all().order_by("id").values_list("slug", "level"),
    "flat": lambda: Happening.all().order_by("id").values_list("slug", flat=True),
    "flat of one": lambda: Happening.filter(id=1).first().values_list("slug", flat=True),
    "in_bulk": lambda: Happening.all().in_bulk(["h1", "h3", "other"], "slug"),
    "prefetch": lambda: Happening.all().order_by("id").prefetch_related("organizer", "labels"),
    "nested prefetch": lambda: Organizer.all().order_by("id").prefetch_related("happenings__labels"),
    "prefetched by a query": lambda: (
        Organizer.all()
        .order_by("id")
        .prefetch_related(Prefetch("happenings", Happening.filter(level=0).order_by("slug"), "quiet"))
    ),
    "select_related": lambda: Happening.all().order_by("id").select_related("organizer"),
    "only": lambda: Happening.all().order_by("id").only("id", "slug"),
    "annotate": lambda: Organizer.annotate(number=Count("happenings"), top=Max("happenings__level")).order_by("id"),
    "annotated values": lambda: Happening.annotate(low=Lower("slug")).filter(low="h1").values("low", "id"),
    "group": lambda: Happening.annotate(number=Count("id")).group_by("organizer_id").values("organizer_id", "number"),
    "filtered aggregate": lambda: Organizer.annotate(
        number=Count("happenings", _filter=Q(happenings__level=0))
    ).order_by("id"),
    "expression": lambda: Happening.filter(level__lt=F("id") + 1).order_by("id"),
    "subquery": lambda: Happening.filter(organizer_id__in=Subquery(Organizer.filter(name="kim").values("id"))),
    "raw expression": lambda: Happening.annotate(twice=RawSQL("level * 2")).order_by("id"),
    "union": lambda: Happening.filter(level=5).union(Happening.filter(organizer_id=1)).order_by("id"),
}


async def test_relations_and_in_bulk_of_a_model_are_querysets(cache: ModelCache, backend: CountingBackend) -> None:
    organizer, happening = await Organizer.get(id=1), await Happening.get(id=1)
    for query in (
        lambda: Happening.cache.query(organizer.happenings),
        lambda: Label.cache.query(happening.labels),
        lambda: Happening.cache.query(Happening.in_bulk([1, 3])),
        lambda: Happening.cache.query(Happening.in_bulk(["h1"], field_name="slug")),
    ):
        found = plain(await query())
        async with assert_ops(backend, redis=1, sql=0):
            assert plain(await query()) == found
    assert plain(await Happening.cache.query(organizer.happenings)) == plain(await organizer.happenings)
    assert plain(await Happening.cache.query(Happening.in_bulk([1, 3]))) == plain(await Happening.in_bulk([1, 3]))
    with pytest.raises(TypeError, match="takes a queryset of Organizer; got <ReverseRelation>"):
        Organizer.cache.query(organizer.happenings)


async def outcome(query: Awaitable[Any]) -> Any:
    try:
        return plain(await query)
    except Exception as error:
        return type(error), str(error)


def model_of(name: str) -> Any:
    return (
        Organizer
        if name in ("nested prefetch", "prefetched by a query", "annotate", "filtered aggregate")
        else Happening
    )


@pytest.mark.exhaustive(because="asks every queryset again after each of all writes")
@pytest.mark.parametrize("name", QUERIES)
async def test_an_answer_is_what_the_queryset_would_give_now(
    name: str, cache: ModelCache, backend: CountingBackend
) -> None:
    """It is answered from the cache, in one round trip, until a write of any kind, and never after that."""
    make, manager = QUERIES[name], model_of(name).cache
    for write in derived.WRITES:
        await derived.rows_again()
        expected = await outcome(make())
        assert await outcome(manager.query(make())) == expected
        if name != "get of several":
            async with assert_ops(backend, sql=0, redis=["read"]):
                assert await outcome(manager.query(make())) == expected, write
        await write()
        now = await outcome(make())
        assert await outcome(manager.query(make())) == now, write
        assert await outcome(manager.query(make())) == now, write


def destroy(value: Any) -> None:
    """Changes everything that an answer holds."""
    parts = vars(value) if isinstance(value, Model) else value
    if isinstance(value, ReverseRelation):
        parts = value.related_objects
    if isinstance(parts, dict | list):
        for part in list(parts.values() if isinstance(parts, dict) else parts):
            destroy(part)
        parts.clear()


@pytest.mark.exhaustive(because="asks every queryset")
@pytest.mark.only_on("sqlite", because="tests of fields compare kept rows on every database")
@pytest.mark.parametrize("name", QUERIES)
async def test_an_answer_that_is_kept_decoded_is_the_same(name: str, cache: ModelCache) -> None:
    """Also if a caller has changed what it was given."""
    make, manager = QUERIES[name], model_of(name).cache
    expected = await outcome(make())
    for _ in range(5):
        assert await outcome(manager.query(make())) == expected
        with suppress(MultipleObjectsReturned, DoesNotExist):
            destroy(await manager.query(make()))
        async with local_cache():  # it takes a plan
            assert await outcome(manager.query(make())) == expected
            with suppress(MultipleObjectsReturned, DoesNotExist):
                destroy(await manager.query(make()))
    number = 0 if isinstance(expected, int | str | None) or "of several" in name or "get of none" in name else 1
    assert (cache.stats.decoded.kept, cache.stats.decoded.hits > 0) == (number, number > 0)


async def test_answers_are_kept_decoded_in_requests_alone(cache: ModelCache) -> None:
    for _ in range(5):
        async with local_cache():
            answer = await Happening.cache.query(Happening.all().order_by("id").prefetch_related("labels"))
            assert [row.slug for row in answer] == ["h1", "h2", "h3"]
    assert (cache.stats.decoded.kept, cache.stats.decoded.hits) == (1, 2)


async def test_a_miss_sends_the_statements_of_tortoise_alone(cache: ModelCache, backend: CountingBackend) -> None:
    async with assert_ops(backend, sql=2, redis=["read", "lease", "fill"]):
        await Happening.cache.query(Happening.all().order_by("id").prefetch_related("organizer"))
    async with assert_ops(backend, sql=1, redis=["read", "lease", "fill"]):
        await Happening.cache.query(Happening.all().count())


async def test_a_hit_builds_no_sql(cache: ModelCache, monkeypatch: pytest.MonkeyPatch) -> None:
    def query() -> Awaitable[Any]:
        return Happening.cache.query(Happening.filter(level=0, organizer__name="kim").prefetch_related("labels"))

    await query()
    built = 0

    def make_query(self: Any) -> None:
        nonlocal built
        built += 1

    monkeypatch.setattr("tortoise.queryset.QuerySet._make_query", make_query)
    await query()
    assert not built


class TestInstances:
    """They are as if loaded from the database, and each caller has its own."""

    async def test_they_can_be_saved_and_refreshed(self, cache: ModelCache) -> None:
        for _ in range(2):
            row = await Happening.cache.query(Happening.get(id=1))
        assert row._saved_in_db
        row.level = 7
        await row.save()
        await row.refresh_from_db()
        await row.fetch_related("labels", "organizer")
        assert (await Happening.get(id=1)).level == 7
        assert [label.name for label in row.labels] == ["free"]

    async def test_callers_share_no_instance(self, cache: ModelCache) -> None:
        queries = [Happening.cache.query(Happening.all().order_by("id")) for _ in range(3)]
        for _ in range(2):
            answers = await asyncio.gather(*queries)
            assert len({id(answer[0]) for answer in answers}) == 3

    async def test_a_row_is_one_object_where_tortoise_has_one(self, cache: ModelCache) -> None:
        def query() -> Awaitable[list[Happening]]:
            return Happening.cache.query(Happening.filter(organizer_id=1).prefetch_related("organizer", "labels"))

        await query()
        first, second = await query()
        assert first is not second
        assert first.organizer is second.organizer
        assert first.labels[0] is second.labels[0]

    async def test_a_partial_one_stays_partial(self, cache: ModelCache) -> None:
        for _ in range(2):
            (row, *_) = await Happening.cache.query(Happening.all().only("id", "slug"))
            assert row._partial
            with pytest.raises(AttributeError):
                _ = row.level

    async def test_a_function_may_return_what_a_row_does_not_hold(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        @cached
        async def page() -> dict[str, Any]:
            rows = await Happening.annotate(number=Count("labels")).order_by("id").prefetch_related("organizer")
            return {"rows": rows, "first": rows[0], "pair": (rows[0], 1)}

        await page()
        async with assert_ops(backend, sql=0, redis=["read"]):
            answer = await page()
        first = answer["first"]
        assert first is answer["rows"][0] is answer["pair"][0]
        assert (first.number, first.organizer.name) == (1, "kim")

    async def test_an_instance_of_a_model_without_a_cache_is_stored_if_its_table_is_declared(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        await Plain.create(id=1, level=3)

        @cached
        async def one() -> Any:
            await depends_on(Happening)
            return await Plain.get(id=1)

        await one()
        async with assert_ops(backend, sql=0, redis=["read"]):
            row = await one()
        assert (type(row), row.level, row._saved_in_db) == (Plain, 3, True)


class TestWhere:
    """The connection, the transaction, and the tables of a query."""

    async def test_in_a_transaction_it_is_awaited_there(self, cache: ModelCache) -> None:
        def levels() -> Awaitable[Any]:
            return Happening.cache.query(Happening.all().order_by("id").values_list("level", flat=True))

        assert await levels() == [0, 0, 0]
        async with in_transaction() as client:
            await Happening.filter(id=1).update(level=5)
            assert await levels() == [5, 0, 0]
            assert (await BatchCacheQuery(levels=levels()))["levels"] == [5, 0, 0]
            named = Happening.all().using_db(client).order_by("id").values_list("level", flat=True)
            assert await Happening.cache.query(named) == [5, 0, 0]
            await Happening.filter(id=1).update(level=6)
            assert await levels() == [6, 0, 0]
        assert await levels() == [6, 0, 0]

    async def test_a_table_whose_writes_are_not_noticed_is_read_each_time(
        self, cache: ModelCache, caplog: pytest.LogCaptureFixture
    ) -> None:
        await Shelf.create(id=1)
        assert [await Shelf.cache.query(Shelf.all().count()) for _ in range(2)] == [1, 1]
        await Shelf.create(id=2)
        assert await Shelf.cache.query(Shelf.all().count()) == 2
        assert len([record for record in caplog.records if "are not noticed" in record.getMessage()]) == 1

    async def test_a_write_of_an_ignored_column_leaves_answers_valid_that_do_not_name_it(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        """Whole rows stay as they are, by request, with the old value of that column."""

        def names() -> Awaitable[Any]:
            return Organizer.cache.query(Organizer.all().order_by("id").values_list("name", flat=True))

        def rows() -> Awaitable[Any]:
            return Organizer.cache.query(Organizer.all().order_by("id"))

        assert (await names(), (await rows())[0].seen) == (["kim", "lee"], 0)
        await Organizer.filter(id=1).update(seen=9)
        async with assert_ops(backend, sql=0, redis=["read"]):
            await names()
        async with assert_ops(backend, sql=0, redis=["read"]):
            assert (await rows())[0].seen == 0
        await Organizer.filter(id=1).update(seen=9, name="kay")
        assert (await rows())[0].seen == 9
        makers: list[tuple[Any, Callable[[], Awaitable[Any]]]] = [
            (Organizer, lambda: Organizer.filter(seen__gt=3).count()),
            (Organizer, lambda: Organizer.all().order_by("seen", "id").values_list("id", flat=True)),
            (Organizer, lambda: Organizer.annotate(top=Max("seen")).values_list("top", flat=True)),
            (Organizer, lambda: Organizer.filter(id__lt=F("seen")).count()),
            (Happening, lambda: Happening.filter(Q(id=1, organizer__seen=9) | Q(id=2)).order_by("id").count()),
        ]
        for model, make in makers:
            await Organizer.filter(id=1).update(seen=0)
            await model.cache.query(make())
            await Organizer.filter(id=1).update(seen=9)
            assert await model.cache.query(make()) == await make()

    async def test_a_request_scope_remembers_an_answer_until_it_writes(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        def query() -> Awaitable[list[Happening]]:
            return Happening.cache.query(Happening.annotate(number=Count("labels")).order_by("id"))

        with local_cache():
            plain = await Happening.cache.get(id=1)
            await query()
            async with assert_ops(backend, sql=0, redis=0):
                rows = await query()
            assert rows[0].number == 1  # type: ignore[attr-defined]
            assert rows[0] is not plain
            await Happening.create(id=9, slug="new", organizer_id=1)
            assert len(await query()) == 4


class TestCalls:
    """Batches, repetition, and callers at the same time."""

    async def test_it_is_lazy_and_can_be_awaited_again(self, cache: ModelCache) -> None:
        wanted = [1]
        query = Happening.cache.query(Happening.filter(id__in=wanted).order_by("id").values_list("level", flat=True))
        wanted.append(2)
        assert await query == [0]
        await Happening.filter(id=1).update(level=5)
        assert [await query, await query] == [[5], [5]]

    async def test_a_caller_may_use_what_it_has_passed(self, cache: ModelCache, backend: CountingBackend) -> None:
        wanted = [1]
        query = Happening.cache.query(Happening.filter(id__in=wanted).order_by("id"))
        wanted.append(2)
        assert [row.id for row in await query] == [1]
        queryset = Happening.filter(id=2)
        query = Happening.cache.query(queryset)
        async with in_transaction():
            await queryset
        await query
        async with assert_ops(backend, sql=0):
            assert [row.id for row in await query] == [2]

    @pytest.mark.parametrize("ids", [{"id": 2}, {"id__in": [2]}], ids=["unchanging", "copied"])
    async def test_a_queryset_derived_later_changes_no_answer(
        self, cache: ModelCache, backend: CountingBackend, ids: Any
    ) -> None:
        """Tortoise adds to the sets of the original queryset, too. PostgreSQL and SQLite have no hints."""
        queryset = Happening.filter(**ids)
        query = Happening.cache.query(queryset)
        queryset.select_related("organizer")
        queryset.force_index("missing")
        queryset.use_index("missing")
        assert [vars(row).keys() for row in await query] == [vars(row).keys() for row in await Happening.filter(**ids)]
        async with assert_ops(backend, sql=0):
            assert [row.id for row in await query] == [2]

    async def test_awaiting_a_prefetch_again_sends_no_more_statements(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        labels = Prefetch("labels", Label.all())
        query = Happening.cache.query(Happening.all().prefetch_related("organizer", labels))
        for _ in range(3):
            await Happening.filter(id=1).update(level=F("level") + 1)
            async with assert_ops(backend, sql=4, redis=None):
                await query

    async def test_a_batch_takes_one_round_trip(self, cache: ModelCache, backend: CountingBackend) -> None:
        def batch() -> BatchCacheQuery:
            return BatchCacheQuery(
                number=Happening.cache.query(Happening.all().count()),
                rows=Happening.cache.query(Happening.all().order_by("id")),
                one=Happening.cache.get(id=1),
            )

        await batch()
        async with assert_ops(backend, sql=0, redis=["read"]):
            answers = await batch()
        assert (answers["number"], len(answers["rows"]), answers["one"].slug) == (3, 3, "h1")

    async def test_a_batch_may_ask_the_cache_alone_or_for_one_moment(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        def batch() -> BatchCacheQuery:
            return BatchCacheQuery(number=Happening.cache.query(Happening.all().count()))

        async with assert_ops(backend, sql=0, redis=None):
            assert await batch().get(only_cache=True) == {}
        assert await batch().get(snapshot=True) == {"number": 3}
        async with assert_ops(backend, sql=0, redis=["read"]):
            assert await batch().get(only_cache=True) == {"number": 3}

    async def test_a_timeout_is_that_of_the_call(self, cache: ModelCache) -> None:
        lives: list[float] = []
        keys: set[str] = set()
        for timeout in ("5m", 60, None):
            query = Happening.cache.query(Happening.all().count(), timeout=timeout)
            await query
            entry = (await query.explain()).entry
            assert entry is not None
            assert entry.expires_in is not None
            lives.append(entry.expires_in)
            keys.add(entry.key)
        assert lives == pytest.approx([300, 60, cache.config.timeout], rel=0.2)
        assert len(keys) == 3, "an answer that was stored for longer must not be found"
        with pytest.raises(CacheConfigurationError, match=r"Happening.cache.query: timeout is"):
            Happening.cache.query(Happening.all().count(), timeout=-1)

    async def test_without_a_cache_it_is_awaited(self, cache: ModelCache, backend: CountingBackend) -> None:
        def number() -> Awaitable[int]:
            return Happening.cache.query(Happening.all().count())

        await number()
        with cache.disabled():
            async with assert_ops(backend, sql=1, redis=0):
                assert await number() == 3

    async def test_callers_at_the_same_time_share_one_computation(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        async with assert_ops(backend, sql=1, redis=None):
            answers = await asyncio.gather(*[Happening.cache.query(Happening.all().count()) for _ in range(20)])
        assert answers == [3] * 20

    async def test_inside_a_cached_function_it_passes_on_what_it_depends_on(self, cache: ModelCache) -> None:
        @cached
        async def number() -> int:
            return await Happening.cache.query(Happening.filter(level=5).count())

        assert [await number(), await number()] == [0, 0]
        await Happening.filter(id=1).update(level=5)
        assert await number() == 1

    async def test_absence_is_cached_and_raised_as_tortoise_raises_it(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        def missing() -> Awaitable[Any]:
            return Happening.cache.query(Happening.get(slug="missing"))

        with pytest.raises(DoesNotExist):
            await missing()
        async with assert_ops(backend, sql=0, redis=["read"]):
            with pytest.raises(DoesNotExist):
                await missing()
        with pytest.raises(MultipleObjectsReturned):
            await Happening.cache.query(Happening.all().get(organizer_id=1))
        await Happening.create(id=9, slug="missing", organizer_id=1)
        assert (await missing()).id == 9

    async def test_it_is_explained(self, cache: ModelCache) -> None:
        query = Happening.cache.query(Happening.all().count(), timeout="5m")
        assert (await query.explain()).reason == "missing"
        await query
        assert (await query.explain()).reason == "hit"
        await Happening.filter(id=1).update(level=5)
        assert (await query.explain()).reason == "changed"
        assert repr(query).startswith("<Happening.cache.query(CountQuery #")


class TestShortForm:
    """``.cached()`` on the querysets of cached models, and on counts and values of them."""

    @pytest.mark.exhaustive(because="asks every queryset")
    @pytest.mark.parametrize(
        "name", [name for name in QUERIES if name not in ("in_bulk", "get of none", "get of several")]
    )
    async def test_it_is_the_same_query(self, name: str, cache: ModelCache, backend: CountingBackend) -> None:
        make: Any = QUERIES[name]
        answer = await outcome(model_of(name).cache.query(make(), timeout=60))
        async with assert_ops(backend, sql=0, redis=["read"]):
            assert await outcome(make().cached(timeout="1m")) == answer

    async def test_a_model_without_a_cache_has_none(self, cache: ModelCache) -> None:
        queryset: Any = Plain.all()
        assert not hasattr(queryset, "cached")


class TestClocks:
    """Querysets that ask the database for the time are cached if they have a timeout of their own."""

    async def test_the_answer_stays_for_the_timeout_and_follows_writes(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        def query() -> Any:
            return Happening.annotate(at=RawSQL("CURRENT_TIMESTAMP")).order_by("id").values("slug", "at").cached("1m")

        answer = await query()
        assert answer[0]["at"]
        async with assert_ops(backend, redis=["read"], sql=0):
            assert await query() == answer
        await Happening.filter(slug=answer[0]["slug"]).update(slug="other")
        assert (await query())[0]["slug"] == "other"


class TestRefused:
    """Querysets whose answer must not be stored, each with the reason."""

    @pytest.mark.parametrize(
        ("make", "text"),
        [
            (lambda: Happening.raw("SELECT * FROM happening"), "the text of a raw query"),
            (lambda: Happening.filter(id=1).update(level=5), "its class TrackedUpdate writes"),
            (lambda: Happening.filter(id=1).delete(), "its class TrackedDelete writes"),
            (lambda: Happening.annotate(at=Random()).order_by("at"), "has another answer each time"),
            (lambda: Happening.annotate(at=RawSQL("random()")), "has another answer each time"),
            (
                lambda: Happening.annotate(at=RawSQL("CURRENT_TIMESTAMP")),
                r"CURRENT_TIMESTAMP has .*: give it a timeout",
            ),
        ],
    )
    async def test_a_queryset(self, make: Callable[[], Any], text: str, cache: ModelCache) -> None:
        with pytest.raises(CacheError, match=f"Happening.cache.query: .*{text}"):
            Happening.cache.query(make())

    async def test_a_queryset_with_chance_is_refused_whatever_the_timeout(self, cache: ModelCache) -> None:
        with pytest.raises(CacheError, match="RANDOM has another answer each time: pass a value"):
            Happening.annotate(at=RawSQL("random()")).cached("1m")

    async def test_positions_and_iteration_say_what_to_do(self, cache: ModelCache) -> None:
        query: Any = Happening.cache.query(Happening.all())
        part: Any = Happening.cache.filter(organizer=1)[1:3]
        for whole in (query, part):
            for positions in (0, slice(2, 4)):
                with pytest.raises(TypeError, match=f"^{re.escape(repr(whole))} takes no positions: await it, and"):
                    whole[positions]
            with pytest.raises(TypeError, match=f"^{re.escape(repr(whole))} is not read in chunks: await it, and"):
                async for _ in whole:
                    pass

    @pytest.mark.parametrize("wrong", [1, None, "SELECT 1", Happening])
    async def test_anything_else(self, wrong: Any, cache: ModelCache) -> None:
        with pytest.raises(TypeError, match="takes a queryset of Happening; got"):
            Happening.cache.query(wrong)
        with pytest.raises(TypeError, match="takes a queryset of Happening; got"):
            Happening.cache.query(Organizer.all())  # type: ignore[arg-type,unused-ignore]
