"""Inheritance of declarations: models from their parents, managers from managers, ``CacheMeta`` from both."""

import pytest
from tortoise import fields

from aiomodelcache import CachedModel, ModelCache
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.declare.test_binding import refusal
from tests.support.models.inherited_models import Bike, Boat, Car, Owner, Plain, Player, Ranked, Team, TeamCaches, Truck

pytestmark = pytest.mark.models("tests.support.models.inherited_models")


async def timeouts(cache: ModelCache) -> dict[str, float]:
    """Returns the lifetime of values in seconds, by model."""
    return {model.__name__: entries.rows.lifetimes.seconds(b"V") for model, entries in cache.open_cache.models.items()}


class TestModels:
    async def test_keys_and_settings_are_inherited_from_all_levels(self, cache: ModelCache) -> None:
        assert [repr(model.cache) for model in (Plain, Car, Boat, Bike, Truck)] == [
            "<Plain.cache: get (id), (name); filter (group)>",
            "<Car.cache: get (id), (name); filter (group), (owner)>",
            "<Boat.cache: get (id), (name), (length, name); filter (group), (owner)>",
            "<Bike.cache: get (id); filter (name, group)>",
            "<Truck.cache: get (id), (name); filter (group), (owner)>",
        ]
        seconds = await timeouts(cache)
        assert [seconds[name] for name in ("Plain", "Car", "Boat", "Bike", "Truck")] == [60, 60, 30, 3600, 60]
        assert "Named" not in seconds
        assert "Owned" not in seconds

    async def test_each_model_has_its_own_rows(self, cache: ModelCache, backend: CountingBackend) -> None:
        owner = await Owner.create()
        for model in (Car, Truck, Boat):
            await model.create(name="one", group=1, owner=owner)
        await Boat.create(name="two", group=1, length=7)
        for model in (Car, Truck, Boat):
            found = await model.cache.get(name="one")
            assert type(found) is model
            async with assert_ops(backend, sql=0, redis=["read"]):
                assert await model.cache.get(name="one") == found
            assert await found.owner == owner
        assert [boat.name for boat in await Boat.cache.filter(group=1)] == [
            "two",
            "one",
        ]  # in the order of Boat
        await Car.filter(name="one").update(group=2)
        assert [(await model.cache.get(name="one")).group for model in (Car, Truck)] == [2, 1]

    async def test_an_error_names_the_class_that_contains_the_mistake(self) -> None:
        class Base(CachedModel):
            name = fields.CharField(max_length=20)

            class Meta:
                abstract = True

            class CacheMeta:
                get_key_fields_list = [("nope",)]

        class Child(Base):
            pass

        class Other(Base):
            class CacheMeta(Base.CacheMeta):
                timeout = 5

        assert (await refusal(Child)).startswith(
            "Base.CacheMeta (inherited by Child): get_key_fields_list names 'nope'"
        )
        assert (await refusal(Other)).startswith("Other.CacheMeta: get_key_fields_list names 'nope'")

    async def test_an_extension_that_repeats_a_key_is_refused(self) -> None:
        class Base(CachedModel):
            name = fields.CharField(max_length=20)

            class Meta:
                abstract = True

            class CacheMeta:
                get_key_fields_list = [("name",)]

        class Child(Base):
            class CacheMeta(Base.CacheMeta):
                get_key_fields_list = [*Base.CacheMeta.get_key_fields_list, ("name",)]

        assert await refusal(Child) == "Child.CacheMeta: get_key_fields_list has (name) twice; remove one of them."


class TestManagers:
    async def test_keys_settings_and_methods_are_inherited_from_all_levels(
        self, cache: ModelCache, backend: CountingBackend
    ) -> None:
        assert repr(Team.cache) == "<Team.cache: get (id), (rank); filter (group)>"
        assert repr(Player.cache) == "<Player.cache: get (id), (rank); filter (group), (owner)>"
        seconds = await timeouts(cache)
        assert (seconds["Team"], seconds["Player"]) == (120, 240)
        team = await Team.create(rank=1)
        assert isinstance(Team.cache, TeamCaches)
        assert await Team.cache.first(0) == team
        async with assert_ops(backend, sql=0, redis=["read"]):
            assert await Team.cache.first(0) == team
        assert await Team.cache.of_group(0) == [team]
        assert await cache.manager(Team).get(rank=1) == team

    async def test_cache_meta_and_a_manager_with_bases_are_merged(self, cache: ModelCache) -> None:
        owner = await Owner.create()
        second, first = await Player.create(rank=2, owner=owner), await Player.create(rank=1, owner=owner)
        assert await Player.cache.of_group(0) == [first, second]  # in the order of CacheMeta
        assert await Player.cache.filter(owner=owner) == [first, second]
        assert await Player.cache.first(0) == first
        assert await (await Player.cache.get(rank=1)).owner == owner

    async def test_a_setting_that_a_manager_inherits_counts_as_its_own(self) -> None:
        class Thing(CachedModel):
            rank = fields.IntField(unique=True)

            class CacheMeta:
                timeout = 5

        class ThingCaches(Ranked[Thing]):
            model = Thing

        assert await refusal(Thing) == (
            "timeout is set both by Thing.CacheMeta and by ThingCaches: remove it from one of them."
        )

    async def test_an_error_names_both_places_of_a_repeated_declaration(self) -> None:
        class Keeper(CachedModel):
            pass

        class Thing(CachedModel):
            rank = fields.IntField(unique=True)
            keeper: fields.ForeignKeyRelation[Keeper] = fields.ForeignKeyField("app.Keeper")

            class CacheMeta:
                get_key_fields_list = [("rank",)]
                cached_foreignkeys = ["keeper"]

        for attributes, message in (
            ({}, "Thing.CacheMeta and ThingCaches: get_key_fields_list has (rank) twice; remove one of them."),
            (
                {"get_key_fields_list": [], "cached_foreignkeys": ["keeper"]},
                "Thing.CacheMeta and ThingCaches: cached_foreignkeys has 'keeper' twice; remove one of them.",
            ),
        ):
            caches = type("ThingCaches", (Ranked,), {"model": Thing, "__module__": __name__, **attributes})
            assert await refusal(Thing, Keeper) == message
            del caches

    async def test_two_managers_of_one_model_are_refused_even_if_one_derives_from_the_other(self) -> None:
        class Thing(CachedModel):
            rank = fields.IntField(unique=True)

        class ThingCaches(Ranked[Thing]):
            model = Thing

        class MoreCaches(ThingCaches):
            pass

        assert await refusal(Thing) == ("Thing.cache has two managers, MoreCaches and ThingCaches: keep one of them.")
