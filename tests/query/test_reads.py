"""The answers of lookups of every kind: from the database first, from the cache next."""

import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tortoise.exceptions import DoesNotExist, MultipleObjectsReturned

from aiomodelcache import CacheNotOpen, CacheNotRegistered, ModelCache, ModelCacheManager
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.models.models import Event, EventBySlug, LatestEvents, State, User, Venue, VenueCaches
from tests.support.models.music import (
    Album,
    AlbumById,
    AlbumByNumber,
    AlbumCaches,
    AlbumOfYear,
    AlbumsOfYear,
    Artist,
    NewestAlbums,
)

pytestmark = pytest.mark.models("tests.support.models.models", "tests.support.models.music")


def uses_loose_collation(cache: ModelCache) -> bool:
    """Returns True if the test's database may compare different strings as equal."""
    return cache.open_cache.entries_of(User).schema.dialect == "mysql"


async def twice(backend: CountingBackend, query: Callable[[], Awaitable[Any]], *, sql: int = 0) -> Any:
    """Runs a query twice, the second time with ``sql`` statements. Asserts that both answers are the same."""
    first = await query()
    async with assert_ops(backend, sql=sql):
        second = await query()
    assert second == first
    if isinstance(first, list):
        assert [row.__dict__ for row in second] == [row.__dict__ for row in first]
    elif hasattr(first, "pk"):
        assert second.__dict__ == first.__dict__
    return first


class TestGet:
    async def test_every_declared_key_finds_the_row(self, cache: ModelCache, backend: CountingBackend) -> None:
        kim = await User.create(username="kim")
        event = await Event.create(slug="pycon", title="PyCon", organizer=kim, state=State.OPEN)
        await Event.create(slug="other", title="Other", organizer=kim)
        for key in (
            {"id": event.id},
            {"pk": event.id},
            {"pk": str(event.id)},
            {"id__exact": event.id},
            {"slug": "pycon"},
            {"slug__exact": "pycon"},
            {"organizer": kim, "title": "PyCon"},
            {"organizer": kim.id, "title": "PyCon"},
            {"organizer_id": kim.id, "title__exact": "PyCon"},
            {"title": "PyCon", "organizer_id__exact": str(kim.id)},
        ):
            found = await twice(backend, lambda key=key: Event.cache.get(**key))
            assert (type(found), found.pk, found.title, found.state) == (Event, event.id, "PyCon", State.OPEN), key
            assert found.created == event.created
            assert await Event.cache.get_query(**key) == event

    async def test_an_instance_from_the_cache_behaves_like_one_from_the_database(self, cache: ModelCache) -> None:
        event = await Event.create(slug="pycon", organizer=await User.create(username="kim"))
        for _ in ("from the database", "from the cache"):
            found = await Event.cache.get(slug="pycon")
            assert found._saved_in_db
            await found.fetch_related("organizer")
            assert found.organizer.username == "kim"
            assert found.__dict__.keys() - {"_organizer"} == (await Event.get(id=event.id)).__dict__.keys()
        found.title = "Changed"
        await found.save()
        await event.refresh_from_db()
        assert event.title == "Changed"
        assert (await Event.cache.get(slug="pycon")).title == "Changed"

    async def test_a_missing_row_raises_and_its_absence_is_cached(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        kim = await User.create(username="kim")
        asked: list[dict[str, Any]] = [{"pk": 404}, {"slug": "none"}, {"organizer": kim, "title": "none"}]
        for key in asked:
            with pytest.raises(DoesNotExist):
                await Event.cache.get(**key)
        # With a loose collation, a row written under another spelling may match: such an absence is not stored.
        for key, sql in zip(asked, (0, 1, 1) if uses_loose_collation(cache) else (0, 0, 0), strict=True):
            async with assert_ops(backend, sql=sql):
                with pytest.raises(DoesNotExist):
                    await Event.cache.get(**key)
            assert await Event.cache.get_or_none(**key) is None
        event = await Event.create(id=404, slug="none", title="none", organizer=kim)
        for key in asked:
            assert await Event.cache.get(**key) == event

    async def test_get_or_none_returns_the_row_or_none(self, cache: ModelCache, backend: CountingBackend) -> None:
        kim = await User.create(username="kim")
        assert await twice(backend, lambda: User.cache.get_or_none(username="kim")) == kim
        assert await twice(backend, lambda: User.cache.get_or_none(id=kim.id + 1)) is None

    async def test_several_rows_raise_multiple_objects_returned(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        kim = await User.create(username="kim")
        first = await Event.create(slug="a", title="A", organizer=kim, state=State.OPEN)
        assert await Event.cache.get(state=State.OPEN) == first
        await Event.create(slug="b", title="B", organizer=kim, state=State.OPEN)
        for _ in range(2):
            with pytest.raises(MultipleObjectsReturned):
                await Event.cache.get(state=State.OPEN)
            with pytest.raises(MultipleObjectsReturned):
                await Event.cache.get_or_none(state="open")
        with pytest.raises(DoesNotExist):
            await Event.cache.get(state=State.CLOSED)

    async def test_a_lookup_by_null_always_queries_the_database(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        """A unique column may hold any number of NULLs, so the cache cannot know which rows match."""
        with pytest.raises(DoesNotExist):
            await User.cache.get(email=None)
        kim = await User.create(username="kim")
        assert await twice(backend, lambda: User.cache.get(email=None), sql=1) == kim
        await User.create(username="lee")
        with pytest.raises(MultipleObjectsReturned):
            await User.cache.get(email=None)
        with pytest.raises(DoesNotExist):
            await User.cache.get(id=None)

    async def test_a_lookup_by_undeclared_fields_is_an_error_that_lists_the_keys(self, cache: ModelCache) -> None:
        for wrong in (
            lambda: Event.cache.get(title="PyCon"),
            lambda: Event.cache.get(slug="pycon", title="PyCon"),
            lambda: Event.cache.get(slug__contains="py"),
            lambda: Event.cache.get(nonsense=1),
            lambda: Event.cache.get(),
            lambda: Event.cache.get_or_none(organizer=1),
        ):
            with pytest.raises(CacheNotRegistered, match=r"^Event .*\(id\), \(slug\), \(organizer, title\)"):
                wrong()
        with pytest.raises(CacheNotRegistered, match=r"\(organizer, state\), \(venue\)"):
            Event.cache.filter(slug="pycon")
        with pytest.raises(CacheNotRegistered, match="twice"):
            Event.cache.get(pk=1, id=1)
        with pytest.raises(ValueError, match=r"\(slug\)"):
            Event.cache.exists(title="PyCon")

    async def test_a_query_by_a_bad_value_raises_when_awaited(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        for query in (
            Event.cache.get(id="seven"),
            Event.cache.get_or_none(state="nonsense"),
            Event.cache.filter(organizer="kim"),
            Event.cache.filter(organizer=Event()),
            Event.cache.filter(organizer=User(username="unsaved")),
            Venue.cache.get(pk="no uuid"),  # type: ignore[attr-defined]
            Event.cache.get_many([1, "seven"]),
            Event.cache.count(venue=7.5),
            EventBySlug("x" * 65),
        ):
            async with assert_ops(backend, sql=0, redis=0):
                with pytest.raises(ValueError, match=r"(Event|Venue)\.\w+ cannot be looked up by"):
                    await query

    async def test_a_query_made_before_the_cache_opens_is_checked_when_awaited(
        self, database: object, backend_url: str
    ) -> None:
        query = Event.cache.get(title="PyCon")
        with pytest.raises(CacheNotOpen):
            await query
        async with ModelCache(backend_url):
            with pytest.raises(CacheNotRegistered, match="slug"):
                await query


class TestFilter:
    async def test_rows_come_in_the_models_order(self, cache: ModelCache, backend: CountingBackend) -> None:
        kim, lee = await User.create(username="kim"), await User.create(username="lee")
        made = [await Event.create(slug=f"e{n}", title=f"{n}", organizer=kim, position=-(n % 3)) for n in range(6)]
        await Event.create(slug="lees", organizer=lee, state=State.OPEN)
        expected = sorted(made, key=lambda event: (event.position, event.id))
        for key in ({"organizer": kim}, {"organizer": kim.id}, {"organizer_id": str(kim.id)}):
            assert await twice(backend, lambda key=key: Event.cache.filter(**key)) == expected
            assert await Event.cache.filter_query(**key) == expected
        made[0].position = -7
        await made[0].save()
        expected.sort(key=lambda event: (event.position if event.id != made[0].id else -7, event.id))
        assert await twice(backend, lambda: Event.cache.filter(organizer=kim)) == expected

    async def test_lists_can_have_a_key_of_several_fields(self, cache: ModelCache, backend: CountingBackend) -> None:
        kim = await User.create(username="kim")
        draft = await Event.create(slug="a", title="a", organizer=kim)
        opened = await Event.create(slug="b", title="b", organizer=kim, state=State.OPEN)
        for state, found in (("draft", [draft]), (State.OPEN, [opened]), (State.CLOSED, [])):
            assert await twice(backend, lambda s=state: Event.cache.filter(organizer=kim, state=s)) == found

    async def test_empty_lists_are_cached(self, cache: ModelCache, backend: CountingBackend) -> None:
        kim = await User.create(username="kim")
        assert await twice(backend, lambda: Event.cache.filter(organizer=kim)) == []
        event = await Event.create(slug="a", organizer=kim)
        assert await twice(backend, lambda: Event.cache.filter(organizer=kim)) == [event]

    async def test_lists_by_null_are_cached(self, cache: ModelCache, backend: CountingBackend) -> None:
        kim = await User.create(username="kim")
        venue = await Venue.create(name="Home", city="Bonn")
        outside = await Event.create(slug="a", title="a", organizer=kim)
        inside = await Event.create(slug="b", title="b", organizer=kim, venue=venue)
        assert await twice(backend, lambda: Event.cache.filter(venue=None)) == [outside]
        assert await twice(backend, lambda: Event.cache.filter(venue=venue)) == [inside]
        outside.venue = venue
        await outside.save()
        assert await twice(backend, lambda: Event.cache.filter(venue_id=None)) == []

    async def test_each_call_returns_a_list_of_its_own(self, cache: ModelCache) -> None:
        kim = await User.create(username="kim")
        await Event.create(slug="a", organizer=kim)
        (await Event.cache.filter(organizer=kim)).clear()
        (await Event.cache.filter(organizer=kim)).clear()
        assert len(await Event.cache.filter(organizer=kim)) == 1

    async def test_lists_have_their_declared_order_and_limit(self, cache: ModelCache, backend: CountingBackend) -> None:
        artist = await Artist.create(name="Can")
        albums = [await Album.create(barcode=n, number=n, artist=artist, year=1970 + n % 4) for n in range(6)]
        expected = sorted(albums, key=lambda album: (-album.year, album.id))
        assert await twice(backend, lambda: Album.cache.filter(artist=artist)) == expected
        assert await twice(backend, lambda: NewestAlbums(artist)) == expected[:2]
        best = await Album.create(barcode=9, number=9, artist=artist, year=1999)
        assert await twice(backend, lambda: NewestAlbums(artist)) == [best, expected[0]]
        await best.delete()
        assert await twice(backend, lambda: NewestAlbums(artist)) == expected[:2]


class TestExistsAndCount:
    async def test_exists_and_count_take_the_keys_of_rows_and_of_lists(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        kim, lee = await User.create(username="kim", team=3), await User.create(username="lee", team=3)
        await Event.create(slug="a", title="a", organizer=kim)
        await Event.create(slug="b", title="b", organizer=kim)
        for query, answer in (
            (lambda: User.cache.exists(pk=kim.id), True),
            (lambda: User.cache.exists(id=kim.id + 100), False),
            (lambda: User.cache.exists(username="kim"), True),
            (lambda: User.cache.count(username="kim"), 1),
            (lambda: User.cache.count(team=3), 2),
            (lambda: User.cache.exists(team=4), False),
            (lambda: Event.cache.count(organizer=kim), 2),
            (lambda: Event.cache.exists(organizer_id=lee.id), False),
            (lambda: Event.cache.count(venue=None), 2),
        ):
            assert await twice(backend, query) is answer
        await Event.create(slug="c", title="c", organizer=lee)
        assert await Event.cache.exists(organizer=lee) is True
        assert await Event.cache.count(venue=None) == 3


class TestGetMany:
    async def test_get_many_returns_each_row_once_in_the_order_of_the_keys(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        a, b, c = [await User.create(username=name, email=f"{name}@example.org") for name in "abc"]
        missing = c.id + 100
        for query, expected in (
            (lambda: User.cache.get_many([c.id, a.id, missing, c.id, b.id, a.id]), [c, a, b]),
            (lambda: User.cache.get_many((str(id) for id in (b.id, a.id)), key="id"), [b, a]),
            (lambda: User.cache.get_many(["b", "b", "a"], "username"), [b, a]),
            (lambda: User.cache.get_many(["c@example.org"], key=("email",)), [c]),
            (lambda: User.cache.get_many([]), []),
        ):
            assert await twice(backend, query) == expected

    async def test_in_bulk_returns_rows_by_key_value(self, cache: ModelCache) -> None:
        a, b = await User.create(username="a"), await User.create(username="b")
        for _ in range(2):
            found = await User.cache.in_bulk([b.id, 404, a.id, b.id])
            assert list(found.items()) == [(b.id, b), (a.id, a)]
            assert await User.cache.in_bulk(["a", "none"], key="username") == {"a": a}

    async def test_get_many_and_in_bulk_take_keys_of_several_fields_in_any_order(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        can, faust = await Artist.create(name="Can"), await Artist.create(name="Faust")
        first = await Album.create(barcode=1, artist=can, number=1)
        second = await Album.create(barcode=2, artist=can, number=2)
        third = await Album.create(barcode=3, artist=faust, number=1)
        wanted = [(faust, 1), (can.id, 2), (can, 9), (faust.id, 1), (can, 1)]
        query = Album.cache.get_many(wanted, key=("artist", "number"))
        assert await twice(backend, lambda: query) == [third, second, first]
        turned = Album.cache.in_bulk([(number, artist) for artist, number in wanted], key=("number", "artist_id"))
        async with assert_ops(backend, sql=0, redis=1):
            found = await turned
        assert list(found.items()) == [((1, faust.id), third), ((2, can.id), second), ((1, can.id), first)]
        with pytest.raises(ValueError, match=r"no value of \(artist, number\)"):
            await Album.cache.get_many([(1, 2, 3)], key=("artist", "number"))

    async def test_in_bulk_refuses_keys_that_are_not_unique(self, cache: ModelCache) -> None:
        for wrong in ("state", "title", "organizer", "nonsense", ("slug", "title")):
            with pytest.raises(CacheNotRegistered):
                await Event.cache.in_bulk(["open"], key=wrong)
        for wrong in ("title", "nonsense", ("slug", "title")):
            with pytest.raises(CacheNotRegistered):
                await Event.cache.get_many(["open"], key=wrong)

    async def test_a_thousand_keys_of_several_fields_take_two_statements(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        can = await Artist.create(name="Can")
        await Album.bulk_create([Album(barcode=n, number=n, artist=can) for n in range(1_000)])
        wanted = [(can.id, n) for n in range(1_000)]
        async with ModelCache(backend, namespace="cold", lease_ttl=60) as cold:  # never extended
            albums = cold.manager(Album)
            async with assert_ops(backend, sql=2, redis=["read", "lease", "fill"]):
                found = await albums.get_many(wanted, key=("artist", "number"))
                assert [album.number for album in found] == [*range(1_000)]
            async with assert_ops(backend, sql=0, redis=["read"]):
                assert len(await albums.get_many(wanted, key=("artist", "number"))) == 1_000


class TestManagers:
    async def test_a_plain_model_has_the_manager_declared_for_it(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        manager: VenueCaches = Venue.cache  # type: ignore[attr-defined]
        assert isinstance(manager, VenueCaches)
        home = await Venue.create(name="Home", city="Bonn")
        await Venue.create(name="Hall", city="Bonn")
        for query in (
            lambda: manager.home("Bonn"),
            lambda: manager.get(city="Bonn", name="Home"),
            lambda: manager.get(pk=home.pk),
            lambda: manager.get(id=str(home.pk)),
            lambda: manager.get_or_none(id=home.pk.hex),
        ):
            assert await twice(backend, query) == home
        assert await manager.get_or_none(id=uuid.uuid4()) is None

    async def test_keys_of_the_model_and_of_its_manager_are_merged(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        manager = Album.cache
        assert isinstance(manager, AlbumCaches)
        can = await Artist.create(name="Can")
        album = await Album.create(barcode=7, artist=can, number=3, year=1999)
        for query in (lambda: manager.get(barcode=7), lambda: manager.get(number=3, artist=can)):
            assert await twice(backend, query) == album
        assert await twice(backend, lambda: manager.of_the_nineties(can)) == [album]

    async def test_a_cache_that_is_not_the_default_has_managers_of_its_own(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        kim = await User.create(username="kim")
        async with ModelCache("memory://") as second:
            manager = second.manager(User)
            assert type(manager) is ModelCacheManager
            assert type(second.manager(Album)) is AlbumCaches
            async with assert_ops(backend, sql=1, redis=0):
                assert await manager.get(username="kim") == kim
            async with assert_ops(backend, sql=0, redis=0):
                assert await manager.get_many([kim.id]) == [kim]
            async with assert_ops(backend, sql=1):
                assert await User.cache.get(username="kim") == kim


class TestCacheClasses:
    async def test_cache_classes_take_parameters_by_position_and_by_name(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        can = await Artist.create(name="Can")
        album = await Album.create(barcode=1, artist=can, number=3, year=1999)
        for query in (
            AlbumByNumber(can, 3),
            AlbumByNumber(can.id, "3"),
            AlbumByNumber(can, number=3),
            AlbumByNumber(number=3, artist=can.id),
            AlbumByNumber(artist_id=can.id, number__exact=3),
            AlbumById(album.id),
            AlbumById(id=str(album.id)),
            AlbumOfYear(1999),
        ):
            assert await twice(backend, lambda query=query: query) == album
            assert await query.resolve() == album
        for query in (AlbumsOfYear(can, 1999), AlbumsOfYear(can, year=1999), AlbumsOfYear(year=1999, artist_id=can.id)):
            assert await twice(backend, lambda query=query: query) == [album]
        assert await AlbumsOfYear(can, 2000) == []

    async def test_wrong_parameters_are_type_errors(self) -> None:
        for wrong in (
            lambda: AlbumByNumber(),
            lambda: AlbumByNumber(1),
            lambda: AlbumByNumber(1, 2, 3),
            lambda: AlbumByNumber(1, artist=1),
            lambda: AlbumByNumber(1, 2, number=2),
            lambda: AlbumByNumber(1, 2, number__exact=2),
            lambda: AlbumByNumber(1, number=2, artist_id=1),
            lambda: AlbumByNumber(artist=1, artist_id=1, number=2),
            lambda: AlbumByNumber(1, title="x"),
            lambda: NewestAlbums(),
            lambda: NewestAlbums(artist=1, year=2),
        ):
            with pytest.raises(TypeError, match=r"AlbumByNumber.*\(artist, number\)|NewestAlbums.*\(artist\)"):
                wrong()

    async def test_a_missing_row_and_several_rows_raise(self, cache: ModelCache, backend: CountingBackend) -> None:
        can = await Artist.create(name="Can")
        await Album.create(barcode=1, artist=can, number=1, year=1999)
        for missing in (AlbumByNumber(can, 404), AlbumById(404), AlbumOfYear(1900)):
            with pytest.raises(DoesNotExist):
                await missing
            async with assert_ops(backend, sql=0):
                with pytest.raises(DoesNotExist):
                    await missing
        await Album.create(barcode=2, artist=can, number=2, year=1999)
        for _ in range(2):
            with pytest.raises(MultipleObjectsReturned):
                await AlbumOfYear(1999)

    async def test_a_list_class_returns_the_latest_rows(self, cache: ModelCache, backend: CountingBackend) -> None:
        kim = await User.create(username="kim")
        events = [await Event.create(slug=f"e{n}", title=f"{n}", organizer=kim, position=n) for n in range(5)]
        assert await twice(backend, lambda: EventBySlug(slug="e3")) == events[3]
        assert await twice(backend, lambda: LatestEvents(organizer=kim)) == events[:1:-1]

    def test_the_repr_of_a_query_shows_its_model_or_class_and_its_key(self) -> None:
        assert repr(AlbumByNumber(7, number=3)) == "<AlbumByNumber(artist=<int>, number=<int>)>"
        assert repr(Event.cache.get(slug="x")) == "<GetQuery Event(slug=<str>)>"
