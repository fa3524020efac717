"""``prefetch`` and ``set_related``: relations of many instances, filled without a lookup for each instance."""

import asyncio
import uuid
from typing import Any

import pytest
from tortoise.transactions import in_transaction

from aiomodelcache import CacheNotOpen, CacheNotRegistered, ModelCache, local_cache
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.models.tour_models import Band, City, Country, Hall, Show, Sponsor

pytestmark = pytest.mark.models("tests.support.models.tour_models")


@pytest.fixture
async def shows(cache: ModelCache) -> list[Show]:
    """A hundred shows of ten bands in four halls, as loaded from the database. Some shows have no hall."""
    germany = await Country.create(code="de", number=49, name="Germany")
    cities = [await City.create(name=f"city{n}", country=germany if n else None) for n in range(3)]
    halls = [await Hall.create(id=uuid.uuid4(), name=f"hall{n}", city=cities[n % 3]) for n in range(4)]
    bands = [await Band.create(name=f"band{n}", home=cities[n % 2]) for n in range(10)]
    await Show.bulk_create(
        [Show(title=str(n), band=bands[n % 10], hall=halls[n % 5] if n % 5 < 4 else None) for n in range(100)]
    )
    await Show.filter(title="1").update(opening_id=cities[1].id)
    return await Show.all().order_by("id")


def related(instance: Any, *names: str) -> Any:
    """Returns the name of the row that is loaded at the end of a path of relations."""
    for name in names:
        instance = instance and vars(instance)[f"_{name}"]
    return instance and instance.name


class TestPrefetch:
    async def test_two_levels_of_a_hundred_instances_take_two_round_trips(
        self, shows: list[Show], backend: CountingBackend
    ) -> None:
        await Show.cache.prefetch(shows, "band", "hall__city")
        again = await Show.all().order_by("id")
        async with assert_ops(backend, sql=0, redis=["read", "read"]):
            await Show.cache.prefetch(again, "band", "hall__city", "hall")  # "hall" is the start of "hall__city"
        async with assert_ops(backend, sql=0, redis=0):
            for n, show in enumerate(again):
                assert show.band.name == f"band{n % 10}"
                assert (show.hall.name if show.hall else None) == (f"hall{n % 5}" if n % 5 < 4 else None)
                assert not show.hall or show.hall.city.name == f"city{n % 5 % 3}"
            assert await again[0].band is again[0].band
            assert again[4].hall is None

    async def test_a_level_that_is_not_cached_takes_one_statement_for_each_model(
        self, shows: list[Show], cache: ModelCache, backend: CountingBackend
    ) -> None:
        await cache.clear_all()
        async with assert_ops(backend, sql=3) as ops:
            await Show.cache.prefetch(shows, "band", "hall__city")
        assert [name for name in ops.operations if name != "fill"] == ["read", "lease"] * 2  # a fill for each statement
        assert related(shows[1], "hall", "city") == "city1"

    async def test_prefetch_follows_foreign_keys_of_all_kinds(
        self, shows: list[Show], backend: CountingBackend
    ) -> None:
        """Relations to another field than the primary key, one-to-one relations, several relations to one model."""
        paths = ("opening__country", "band__home__country", "hall__city__country")
        await Show.cache.prefetch(shows, *paths)
        again = await Show.all().order_by("id")
        async with assert_ops(backend, sql=0, redis=["read"] * 3):
            await Show.cache.prefetch(again, *paths)
        assert related(again[1], "opening", "country") == "Germany"
        assert related(again[0], "opening") is None
        assert related(again[1], "band", "home", "country") == "Germany"
        assert related(again[0], "band", "home", "country") is None
        assert again[1].hall
        assert again[1].hall.city.country is again[6].hall.city.country  # type: ignore[union-attr]

    async def test_instances_with_equal_foreign_keys_share_the_related_instance(
        self, shows: list[Show], backend: CountingBackend
    ) -> None:
        cached = await Show.cache.get_many([show.id for show in shows])
        await Show.cache.prefetch(cached, "band")
        assert cached[0].band is cached[10].band
        assert cached[0].band is not cached[1].band
        async with assert_ops(backend, sql=0, redis=["read"]):
            await Show.cache.prefetch((show for show in shows[:3]), "band")
        assert [show.band.name for show in shows[:3]] == ["band0", "band1", "band2"]

    async def test_loaded_relations_are_kept_and_followed(self, shows: list[Show], backend: CountingBackend) -> None:
        loaded = await Show.all().order_by("id").limit(3).prefetch_related("hall")
        hall = loaded[0].hall
        other = await Hall.get(name="hall3")
        loaded[1].hall_id = other.id  # type: ignore[attr-defined]  # not the hall that is loaded
        await City.cache.get_many([hall.city_id for hall in await Hall.all()])  # type: ignore[attr-defined]
        await Hall.cache.get(id=other.id)
        async with assert_ops(backend, sql=0, redis=["read", "read"]):
            await Show.cache.prefetch(loaded, "hall__city")
        assert loaded[0].hall is hall
        assert related(loaded[1], "hall") == "hall3"
        assert related(loaded[0], "hall", "city") == "city0"
        async with assert_ops(backend, sql=0, redis=0):
            await Show.cache.prefetch(loaded, "hall__city")

    async def test_prefetch_with_nothing_to_load_does_no_io(self, shows: list[Show], backend: CountingBackend) -> None:
        halls_missing = [show for show in shows if show.hall_id is None]  # type: ignore[attr-defined]
        async with assert_ops(backend, sql=0, redis=0):
            await Show.cache.prefetch([], "band__home")
            await Show.cache.prefetch(shows)
            await Show.cache.prefetch(halls_missing, "hall__city__country")
            assert halls_missing[0].hall is None

    async def test_a_missing_row_is_attached_as_none_and_the_foreign_key_is_kept(
        self, shows: list[Show], backend: CountingBackend
    ) -> None:
        show = Show(band_id=404)
        await Show.cache.prefetch([show], "band__home")
        assert show.band is None
        assert show.band_id == 404  # type: ignore[attr-defined]
        band = await Band.create(id=404, name="late")
        await Show.cache.prefetch([show], "band")
        assert show.band == band

    async def test_prefetch_follows_relations_to_the_same_model(self, shows: list[Show]) -> None:
        one, two = await Band.get(name="band1"), await Band.get(name="band2")
        await Band.cache.update(one, rival=two)
        await Band.cache.update(two, rival=one)
        [band] = await Band.filter(name="band1")
        await Band.cache.prefetch([band], "rival__rival__rival")
        assert related(band, "rival", "rival", "rival") == "band2"

    async def test_in_a_transaction_and_with_the_cache_disabled_prefetch_queries_the_database(
        self, shows: list[Show], cache: ModelCache, backend: CountingBackend
    ) -> None:
        async with in_transaction():
            await Band.filter(name="band0").update(name="renamed")
            async with assert_ops(backend, sql=1, redis=0):
                await Show.cache.prefetch(shows[:10], "band")
            assert shows[0].band.name == "renamed"
        [show] = await Show.filter(id=shows[1].id)
        async with assert_ops(backend, sql=2, redis=0):
            with cache.disabled():
                await Show.cache.prefetch([show], "band__home")
        assert related(show, "band", "home") == "city1"

    async def test_in_a_request_scope_prefetch_attaches_the_objects_of_the_scope(
        self, shows: list[Show], backend: CountingBackend
    ) -> None:
        async with local_cache():
            band = await Band.cache.get(name="band0")
            async with assert_ops(backend, sql=0, redis=0):
                await Show.cache.prefetch(shows[:1], "band")
            assert shows[0].band is band

    async def test_prefetches_and_lookups_of_one_tick_share_a_read(
        self, shows: list[Show], backend: CountingBackend
    ) -> None:
        await Show.cache.prefetch(shows[:50], "band")
        async with assert_ops(backend, sql=0, redis=["read"]):
            await asyncio.gather(
                Show.cache.prefetch(shows[50:60], "band"),
                Band.cache.get(id=shows[0].band_id),  # type: ignore[attr-defined]
            )

    async def test_prefetch_works_through_a_cache_that_is_not_the_default(
        self, shows: list[Show], backend: CountingBackend
    ) -> None:
        async with ModelCache("memory://") as other:
            async with assert_ops(backend, redis=0):
                await other.manager(Show).prefetch(shows[:10], "band")
            assert other.stats.of("Band").fills == 10

    async def test_mistakes_are_errors_before_any_io(
        self, shows: list[Show], cache: ModelCache, backend: CountingBackend
    ) -> None:
        wrong: list[tuple[str, type[Exception], str]] = [
            ("nope", ValueError, r"Show\.nope is no relation.* Its relations: band, guests, hall, opening, sponsor\."),
            ("title", ValueError, r"Show\.title is no relation"),
            ("band__nope", ValueError, r"Band\.nope is no relation.*Its relations: .*rival"),
            ("band_id", ValueError, r"Show\.band_id is no relation"),
            ("sponsor", CacheNotRegistered, r"Show\.sponsor .* Sponsor has no cache by id: make it a CachedModel or"),
        ]
        for path, error, message in wrong:
            async with assert_ops(backend, sql=0, redis=0):
                with pytest.raises(error, match=message):
                    await Show.cache.prefetch(shows, "band", path)
        assert "_band" not in vars(shows[0])
        with pytest.raises(TypeError, match=r"Show\.cache\.prefetch takes instances of Show; got <Sponsor"):
            await Show.cache.prefetch([shows[0], Sponsor()], "band")  # type: ignore[list-item]
        partial = await Show.all().only("id", "title")
        with pytest.raises(ValueError, match=r"Show\.band cannot be prefetched .* loaded without band_id"):
            await Show.cache.prefetch(partial, "band")
        await cache.close()
        with pytest.raises(CacheNotOpen):
            await Show.cache.prefetch(shows, "band")


class TestSetRelated:
    async def test_set_related_attaches_loaded_instances_without_io(
        self, shows: list[Show], backend: CountingBackend
    ) -> None:
        bands = await Band.cache.in_bulk({show.band_id for show in shows})  # type: ignore[attr-defined]
        city = await City.get(name="city1").prefetch_related("country")
        async with assert_ops(backend, sql=0, redis=0):
            for show in shows:
                Show.cache.set_related(show, "band", bands[show.band_id])  # type: ignore[attr-defined]
            assert [show.band.name for show in shows[:2]] == ["band0", "band1"]
            assert await shows[0].band is bands[shows[0].band.id]
            Show.cache.set_related(shows[1], "opening", city)
            Show.cache.set_related(shows[4], "hall", None)
            City.cache.set_related(city, "country", city.country)  # refers to a field that is not the primary key
            assert shows[1].opening is city
            assert shows[4].hall is None

    async def test_set_related_checks_the_class_and_the_key(self, shows: list[Show]) -> None:
        other = await Band.get(name="band7")
        with pytest.raises(TypeError, match=r"set_related: Show\.band refers to Band; got <Show>\."):
            Show.cache.set_related(shows[0], "band", shows[1])
        with pytest.raises(TypeError, match=r"set_related takes an instance of Show; got <Band>\."):
            Show.cache.set_related(other, "band", other)  # type: ignore[arg-type]
        with pytest.raises(
            ValueError, match=r"refers to another Band, or to none: its band_id differs from the id of the one given\."
        ):
            Show.cache.set_related(shows[0], "band", other)
        with pytest.raises(ValueError, match="refers to another Band, or to none"):
            Show.cache.set_related(shows[0], "band", None)
        for name in ("title", "guests", "nope"):
            with pytest.raises(ValueError, match=rf"'{name}' is no foreign key of Show\. .*: band, hall, opening, "):
                Show.cache.set_related(shows[0], name, other)
        assert "_band" not in vars(shows[0])
