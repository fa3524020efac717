"""Lists of all rows: the empty key ``()``."""

import pytest
from tortoise.exceptions import DoesNotExist, MultipleObjectsReturned
from tortoise.transactions import in_transaction

from aiomodelcache import CacheNotRegistered, ModelCache
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.models.list_models import Country, Label, LastTalks, Site, SiteCache, Talk, TalkCount, Track

pytestmark = pytest.mark.models("tests.support.models.list_models")


class TestAll:
    async def test_all_rows_are_one_statement_and_then_one_round_trip(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        await Country.bulk_create([Country(code=code) for code in ("pt", "de", "at")])
        async with assert_ops(backend, sql=1):
            assert [country.code for country in await Country.cache.all()] == ["pt", "de", "at"]
        async with assert_ops(backend, sql=0, redis=["read"]):
            assert [country.code for country in await Country.cache.all()] == ["pt", "de", "at"]
        async with assert_ops(backend, sql=0, redis=["read"]):
            assert await Country.cache.count() == 3
        async with assert_ops(backend, sql=0, redis=["read"]):
            assert await Country.cache.exists()
        async with assert_ops(backend, sql=0, redis=["read"]):
            assert len(await Country.cache.filter()) == 3

    async def test_an_empty_table_is_an_empty_list(self, cache: ModelCache, backend: CountingBackend) -> None:
        assert await Country.cache.all() == []
        async with assert_ops(backend, sql=0, redis=["read"]):
            assert await Country.cache.all() == []
        country = await Country.create(code="pt")
        assert await Country.cache.all() == [country]

    async def test_inserts_and_deletes_of_every_kind_change_the_list(self, cache: ModelCache) -> None:
        async def codes() -> str:
            return " ".join(country.code for country in await Country.cache.all())

        assert await codes() == ""
        first = await Country.create(code="pt")
        assert await codes() == "pt"
        await Country.bulk_create([Country(code="de"), Country(code="at"), Country(code="fr")])
        assert await codes() == "pt de at fr"
        await first.delete()
        assert await codes() == "de at fr"
        await Country.filter(code="at").delete()
        assert await codes() == "de fr"
        async with in_transaction():
            await Country.create(code="es")
            await Country.filter(code="de").delete()
        assert await codes() == "fr es"

    async def test_a_save_changes_the_row_and_leaves_the_list_cached(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        await Country.bulk_create([Country(code="pt"), Country(code="de")])
        await Country.cache.all()
        country = await Country.get(code="pt")
        country.name = "Portugal"
        await country.save()
        await Country.cache.get(id=country.id)
        async with assert_ops(backend, sql=0, redis=["read"]):
            assert [country.name for country in await Country.cache.all()] == ["Portugal", ""]
        await Country.filter(code="de").update(name="Germany")
        async with assert_ops(backend, sql=1):
            assert [country.name for country in await Country.cache.all()] == ["Portugal", "Germany"]

    async def test_a_row_of_which_the_save_finds_nothing_leaves_the_list(self, cache: ModelCache) -> None:
        country = await Country.create(code="pt")
        await Country.cache.all()
        other = await Country.get(id=country.id)
        await other.delete()
        country.name = "Portugal"
        await country.save()
        assert await Country.cache.all() == []

    async def test_a_change_of_an_ordering_column_changes_the_list(self, cache: ModelCache) -> None:
        track = await Track.create(name="main")
        await Talk.bulk_create([Talk(track=track, place=n, title=str(n)) for n in range(3)])
        assert [talk.title for talk in await Talk.cache.all()] == ["2", "1", "0"]
        talk = await Talk.get(title="0")
        talk.place = 5
        await talk.save()
        assert [talk.title for talk in await Talk.cache.all()] == ["0", "2", "1"]
        await Talk.filter(title="2").update(place=-1)
        assert [talk.title for talk in await Talk.cache.all()] == ["0", "1", "2"]

    async def test_rows_that_the_database_deletes_along_leave_the_list(self, cache: ModelCache) -> None:
        first, second = await Track.create(name="first"), await Track.create(name="second")
        await Talk.bulk_create([Talk(track=first, title="a"), Talk(track=second, title="b")])
        assert len(await Talk.cache.all()) == 2
        assert await TalkCount() == 2
        await first.delete()
        assert [talk.title for talk in await Talk.cache.all()] == ["b"]
        assert await TalkCount() == 1
        await Track.filter(name="second").delete()
        assert await Talk.cache.all() == []

    async def test_a_model_without_the_empty_key_has_no_list_of_all_rows(self, cache: ModelCache) -> None:
        with pytest.raises(CacheNotRegistered) as error:
            Track.cache.all()
        assert str(error.value) == (
            "Track has no cache by () for filter. Keys that exist: get (id). Use one of these, or add the empty key () "
            "to filter_key_fields_list of its CacheMeta or ModelCacheManager."
        )
        with pytest.raises(CacheNotRegistered, match=r"Use Site\.cache\.get, or add the empty key \(\)"):
            Site.cache.all()

    async def test_the_list_can_be_explained_refreshed_and_cleared(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        country = await Country.create(code="pt")
        await Country.cache.all()
        explanation = await Country.cache.explain(Country.cache.all())
        assert (explanation.source, explanation.reason, len(explanation.rows)) == ("cache", "hit", 1)
        assert Country.cache.key(Country.cache.all()) == explanation.key
        async with assert_ops(backend, sql=1):
            assert await Country.cache.refresh(Country.cache.all()) == [country]
        await Country.cache.clear()
        async with assert_ops(backend, sql=1):
            assert await Country.cache.all() == [country]

    async def test_a_manual_invalidation_of_a_row_that_raw_sql_wrote_invalidates_the_list(
        self, cache: ModelCache
    ) -> None:
        await Country.create(code="pt")
        assert len(await Country.cache.all()) == 1
        client = cache.open_cache.entries_of(Country).schema.client
        await client.execute_script("INSERT INTO country (id, code, name) VALUES (7, 'de', '')")
        await Country.cache.invalidate(7)
        assert len(await Country.cache.all()) == 2
        await client.execute_script("DELETE FROM country WHERE id = 7")
        await Country.cache.invalidate(7)
        assert len(await Country.cache.all()) == 1


class TestOrder:
    async def test_lists_have_the_descending_order_of_the_model(self, cache: ModelCache) -> None:
        track, label = await Track.create(name="main"), await Label.create(name="new")
        talks = [await Talk.create(track=track, place=place, title=str(place)) for place in (2, 3, 1)]
        await label.talks.add(*talks)
        for _ in ("from the database", "from the cache"):
            assert [talk.title for talk in await Talk.cache.filter(track=track)] == ["3", "2", "1"]
            assert [talk.title for talk in await label.talks] == ["3", "2", "1"]
            await label.refresh_from_db()

    async def test_rows_with_equal_values_are_ordered_by_primary_key(self, cache: ModelCache) -> None:
        track = await Track.create(name="main")
        await Talk.bulk_create([Talk(id=pk, track=track, title=str(pk)) for pk in (5, 2, 9, 1)])
        await Talk.filter(id=2).update(title="changed")  # PostgreSQL stores a new version behind the other rows
        assert [talk.id for talk in await Talk.cache.filter(track=track)] == [1, 2, 5, 9]
        assert [talk.id for talk in await Talk.cache.all()] == [1, 2, 5, 9]


class TestEmptyKey:
    async def test_get_returns_the_only_row_of_a_table(self, cache: ModelCache, backend: CountingBackend) -> None:
        for query in (Site.cache.get(), SiteCache()):
            with pytest.raises(DoesNotExist):
                await query
            assert await Site.cache.get_or_none() is None
            site = await Site.create(title="PyCon")
            assert (await query).title == "PyCon"
            async with assert_ops(backend, sql=0, redis=["read"]):
                assert await query == site
            site.title = "EuroPython"
            await site.save()
            assert (await query).title == "EuroPython"
            other = await Site.create(title="other")
            with pytest.raises(MultipleObjectsReturned):
                await query
            await other.delete()
            assert await query == site
            await site.delete()

    async def test_cache_classes_may_have_the_empty_key(self, cache: ModelCache, backend: CountingBackend) -> None:
        track = await Track.create(name="main")
        await Talk.bulk_create([Talk(track=track, title=str(n)) for n in range(5)])
        assert [talk.title for talk in await LastTalks()] == ["4", "3", "2"]
        async with assert_ops(backend, sql=0, redis=["read"]):
            assert [talk.title for talk in await LastTalks()] == ["4", "3", "2"]
        assert await TalkCount() == 5
        await Talk.filter(title__in=["3", "0"]).delete()
        assert [talk.title for talk in await LastTalks()] == ["4", "2", "1"]
        assert await TalkCount() == 3
        await Talk.create(track=track, title="5")
        assert [talk.title for talk in await LastTalks()] == ["5", "4", "2"]
        assert await TalkCount() == 4
