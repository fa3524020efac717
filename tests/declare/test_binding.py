"""Binding of declarations to models when a cache opens: every mistake is an error that names its remedy."""

import gc
import itertools
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any

import pytest
from tortoise import fields
from tortoise.context import TortoiseContext
from tortoise.exceptions import DoesNotExist
from tortoise.fields.base import Field
from tortoise.models import Model

from aiomodelcache import (
    CacheConfig,
    CacheConfigurationError,
    CachedModel,
    CacheNotRegistered,
    Duration,
    InstanceCache,
    InvalidationType,
    ModelCache,
    ModelCacheManager,
    QuerysetCache,
    QuerysetCountCache,
    RelatedInstanceCache,
    RelatedQuerysetCache,
)
from aiomodelcache.config import Settings
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.databases import DatabaseUrl

of_declarations = pytest.mark.only_on("sqlite", because="declarations depend on no database")

numbers = itertools.count()


@asynccontextmanager
async def tortoise_with(
    *models: type[Model], url: str = "sqlite://:memory:", tables: str | None = None
) -> AsyncIterator[None]:
    """Opens Tortoise for ``models`` on a database of its own. Creates the tables, by ``tables`` if it is a script."""
    name = f"binding{next(numbers)}"  # unique, because Tortoise caches SQL by the connection's name
    module = sys.modules[name] = ModuleType(name)
    vars(module)["__models__"] = models
    try:
        async with TortoiseContext() as context:
            await context.init(
                config={
                    "connections": {name: url},
                    "apps": {"app": {"models": [name], "default_connection": name}},
                }
            )
            if tables is not None:
                await context.connections.get(name).execute_script(tables)
            else:
                await context.generate_schemas()
            yield
    finally:
        del sys.modules[name]


async def refusal(*models: type[Model]) -> str:
    """Returns the message of the error with which a cache for these models fails to open."""
    async with tortoise_with(*models):
        cache = ModelCache("memory://")
        with pytest.raises(CacheConfigurationError) as caught:
            await cache.open()
        await cache.close()
    return str(caught.value)


class OddField(Field[complex], complex):
    """A field whose values cannot be encoded."""

    SQL_TYPE = "VARCHAR(40)"


class User(CachedModel):
    username = fields.CharField(max_length=20, unique=True)


class Venue(Model):
    name = fields.CharField(max_length=20)


class Tag(CachedModel):
    events: fields.ManyToManyRelation["Event"] = fields.ManyToManyField("app.Event", related_name="tags")


class Ticket(CachedModel):
    event: fields.ForeignKeyRelation["Event"] = fields.ForeignKeyField("app.Event", related_name="tickets")


class WordsField(Field[list], list):  # type: ignore[type-arg]
    """A list of words in one column, as PostgreSQL's arrays are lists."""

    SQL_TYPE = "VARCHAR(200)"

    def to_db_value(self, value: Any, instance: Any) -> Any:
        return None if value is None else " ".join(value)

    def to_python_value(self, value: Any) -> Any:
        return value.split() if isinstance(value, str) else value


class Event(CachedModel):
    """A model that tests give a ``CacheMeta``."""

    slug = fields.CharField(max_length=20, unique=True)
    title = fields.CharField(max_length=20)
    about = fields.JSONField[Any](null=True)
    picture = fields.BinaryField(null=True)
    places: Any = WordsField(null=True)
    organizer: fields.ForeignKeyRelation[User] = fields.ForeignKeyField("app.User")
    venue: fields.ForeignKeyNullableRelation[Venue] = fields.ForeignKeyField("app.Venue", null=True)
    host: fields.ForeignKeyNullableRelation[User] = fields.ForeignKeyField(
        "app.User", related_name="hosted", to_field="username", null=True
    )


EVENT_AND_RELATIONS = [Event, User, Venue, Tag, Ticket]

FIELDS = "Its fields: about, host, id, organizer, picture, places, slug, title, venue."
RELATIONS = "Its relations: host, organizer, tags, tickets, venue."
A_RELATION = 'name the relation to follow, like "venue" or "venue__city".'
A_LIST_OF_KEYS = 'it must be a list of tuples of field names, like [("id",), ("slug",)].'
A_DURATION = "write seconds, a timedelta, or text like 30s, 5m, 2h, 1d."
A_LIST_OF_NAMES = 'it must be a list of field names, like ["organizer"].'


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        # Invalid keys.
        (
            {"get_key_fields_list": [("id",), ("nope",)]},
            f"Event.CacheMeta: get_key_fields_list names 'nope', which is not a field of Event. {FIELDS}",
        ),
        (
            {"filter_key_fields_list": [("organizer", "organizer__team")]},
            f"Event.CacheMeta: filter_key_fields_list names 'organizer__team', which is not a field of Event. {FIELDS}",
        ),
        (
            {"filter_key_fields_list": [("tags",)]},
            "Event.CacheMeta: filter_key_fields_list names 'tags', a relation without a column in Event's own table; "
            "declare the key on the model at its other end.",
        ),
        (
            {"get_key_fields_list": [("tickets",)]},
            "Event.CacheMeta: get_key_fields_list names 'tickets', a relation without a column in Event's own table; "
            "declare the key on the model at its other end.",
        ),
        (
            {"get_key_fields_list": [("about",)]},
            "Event.CacheMeta: get_key_fields_list names 'about', whose values are not single values "
            "that the database compares for equality; use another field.",
        ),
        (
            {"filter_key_fields_list": [("organizer", "picture")]},
            "Event.CacheMeta: filter_key_fields_list names 'picture', whose values are not single values "
            "that the database compares for equality; use another field.",
        ),
        (
            {"get_key_fields_list": [("places",)]},
            "Event.CacheMeta: get_key_fields_list names 'places', whose values are not single values "
            "that the database compares for equality; use another field.",
        ),
        (
            {"get_key_fields_list": [("slug", "slug")]},
            "Event.CacheMeta: get_key_fields_list names 'slug' twice in one key.",
        ),
        (
            {"get_key_fields_list": [("slug",), ("id",), ("slug",)]},
            "Event.CacheMeta: get_key_fields_list has (slug) twice; remove one of them.",
        ),
        (
            {"filter_key_fields_list": [("organizer", "title"), ("title", "organizer_id")]},
            "Event.CacheMeta: filter_key_fields_list has (title, organizer_id) twice; remove one of them.",
        ),
        # Values of wrong types.
        (
            {"get_key_fields_list": "slug"},
            f"Event.CacheMeta.get_key_fields_list is 'slug': {A_LIST_OF_KEYS}",
        ),
        (
            {"get_key_fields_list": ["id", "slug"]},
            f"Event.CacheMeta.get_key_fields_list is ['id', 'slug']: {A_LIST_OF_KEYS}",
        ),
        (
            {"get_key_fields_list": [("slug")]},
            f"Event.CacheMeta.get_key_fields_list is ['slug']: {A_LIST_OF_KEYS}",
        ),
        (
            {"filter_key_fields_list": [(), ()]},
            "Event.CacheMeta: filter_key_fields_list has () twice; remove one of them.",
        ),
        (
            {"filter_key_fields_list": 7},
            f"Event.CacheMeta.filter_key_fields_list is 7: {A_LIST_OF_KEYS}",
        ),
        (
            {"cached_foreignkeys": "organizer"},
            f"Event.CacheMeta.cached_foreignkeys is 'organizer': {A_LIST_OF_NAMES}",
        ),
        (
            {"cached_foreignkeys": [("organizer",)]},
            f"Event.CacheMeta.cached_foreignkeys is [('organizer',)]: {A_LIST_OF_NAMES}",
        ),
        # Invalid cached foreign keys.
        (
            {"cached_foreignkeys": ["organiser"]},
            "Event: cached_foreignkeys names 'organiser', which is not a foreign key of Event. "
            "Its foreign keys: host, organizer, venue.",
        ),
        (
            {"cached_foreignkeys": ["slug"]},
            "Event: cached_foreignkeys names 'slug', which is not a foreign key of Event. "
            "Its foreign keys: host, organizer, venue.",
        ),
        (
            {"cached_foreignkeys": ["tickets"]},
            "Event: cached_foreignkeys names 'tickets', which is not a foreign key of Event. "
            "Its foreign keys: host, organizer, venue.",
        ),
        (
            {"cached_foreignkeys": ["organizer", "organizer"]},
            "Event.CacheMeta: cached_foreignkeys has 'organizer' twice; remove one of them.",
        ),
        (
            {"cached_foreignkeys": ["venue"]},
            "Event: cached_foreignkeys names 'venue', but Venue has no cache: make Venue a CachedModel or give it a "
            "ModelCacheManager.",
        ),
        (
            {"cached_foreignkeys": ["host"]},
            "Event: cached_foreignkeys names 'host', which refers to User.username: "
            'add ("username",) to get_key_fields_list of User.',
        ),
        # Invalid other attributes.
        (
            {"timeout": 0},
            "Event.CacheMeta.timeout is 0: it must be above zero.",
        ),
        (
            {"timeout": -3.5},
            "Event.CacheMeta.timeout is -3.5: it must be above zero.",
        ),
        (
            {"timeout": "60"},
            f"Event.CacheMeta.timeout is '60': {A_DURATION}",
        ),
        (
            {"timeout": float("inf")},
            "Event.CacheMeta.timeout is inf: it must be at most a hundred years.",
        ),
        (
            {"negative_timeout": True},
            f"Event.CacheMeta.negative_timeout is True: {A_DURATION}",
        ),
        (
            {"version": object},
            "Event.CacheMeta.version is <class 'object'>: use a number or a string.",
        ),
        (
            {"invalidation": "off"},
            "Event.CacheMeta.invalidation is 'off': use an InvalidationType.",
        ),
        (
            {"invalidation": InvalidationType.DYNAMIC, "allowtime": 0},
            "Event.CacheMeta.allowtime is 0: it must be above zero.",
        ),
        (
            {"allowtime": 5},
            "Event.CacheMeta.allowtime is for invalidation = InvalidationType.DYNAMIC: set that, or remove it.",
        ),
        (
            {"invalidation": InvalidationType.RESET, "allowtime": 5},
            "Event.CacheMeta.allowtime is for invalidation = InvalidationType.DYNAMIC: set that, or remove it.",
        ),
        (
            {"get_key_fields": [("slug",)]},
            "Event.CacheMeta.get_key_fields is not a setting of the cache. It may set: allowtime, cached_foreignkeys, "
            "cached_manytomany, filter_key_fields_list, get_key_fields_list, invalidation, keep_unchanged, near, "
            "negative_timeout, order_by, paged, queries, queries_by, queries_ignore, relay, timeout, version, "
            "write_through.",
        ),
        ({"paged": 1}, "Event.CacheMeta.paged is 1: use True or False."),
        ({"keep_unchanged": "yes"}, "Event.CacheMeta.keep_unchanged is 'yes': use True or False."),
        ({"relay": "yes"}, "Event.CacheMeta.relay is 'yes': use True or False."),
        (
            {"relay": True, "invalidation": InvalidationType.OFF},
            "Event.CacheMeta.relay has no effect with invalidation = OFF, as no write invalidates: remove one.",
        ),
        # Invalid orders of lists.
        (
            {"filter_key_fields_list": [("organizer",)], "order_by": ["-nope"]},
            f"Event.CacheMeta.order_by names '-nope', which is not a field of Event. {FIELDS}",
        ),
        (
            {"filter_key_fields_list": [("organizer",)], "order_by": ["organizer__username"]},
            f"Event.CacheMeta.order_by names 'organizer__username', which is not a column of Event itself. {FIELDS}",
        ),
        (
            {"filter_key_fields_list": [("organizer",)], "order_by": [("title",)]},
            f"Event.CacheMeta.order_by is [('title',)]: {A_LIST_OF_NAMES}",
        ),
    ],
)
async def test_a_wrong_cache_meta_is_an_error_with_its_remedy(
    meta: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Event, "CacheMeta", type("CacheMeta", (), meta), raising=False)
    assert await refusal(*EVENT_AND_RELATIONS) == message


async def test_a_cache_opens_with_every_kind_of_declaration(
    db_url: DatabaseUrl, backend_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    meta = {
        "get_key_fields_list": (["pk"], ["slug"], ("organizer", "title")),
        "filter_key_fields_list": [("organizer",), ("venue_id",), ("title",), ()],
        "cached_foreignkeys": ("organizer",),
        "timeout": 0.5,
        "negative_timeout": 5,
        "version": (1, "b"),
        "invalidation": InvalidationType.DYNAMIC,
        "allowtime": 0.5,
        "order_by": ("-organizer", "title", "pk"),
    }
    monkeypatch.setattr(Event, "CacheMeta", type("CacheMeta", (), meta), raising=False)
    async with tortoise_with(*EVENT_AND_RELATIONS, url=db_url), ModelCache(backend_url):
        assert repr(Event.cache) == (
            "<Event.cache: get (id), (slug), (organizer, title); filter (organizer), (venue_id), (title), ()>"
        )
        assert await Event.cache.filter(organizer=1) == []  # the database accepts the order


async def test_a_field_that_cannot_be_encoded_is_an_error() -> None:
    class Signal(CachedModel):
        strength = OddField()

    assert await refusal(Signal) == (
        "Signal.strength (OddField, values of <class 'complex'>) cannot be stored in the cache: give the field's class "
        "to_db_value and to_python_value methods that convert to and from a number, text or bytes, "
        "or do not cache this model."
    )


async def test_a_field_called_cache_is_an_error() -> None:
    class Event(CachedModel):
        cache = fields.IntField()

    assert await refusal(Event) == "Event.cache is a field, and would be its cache manager: rename the field."


def test_an_attribute_called_cache_is_an_error() -> None:
    with pytest.raises(CacheConfigurationError, match=r"Event\.cache hides the cache manager: rename the attribute\."):

        class Event(CachedModel):
            cache = 7


async def test_a_cache_meta_on_a_model_without_a_cache_is_an_error() -> None:
    class Event(Model):
        slug = fields.CharField(max_length=20)

        class CacheMeta:
            get_key_fields_list = [("slug",)]

    assert await refusal(Event) == (
        "Event.CacheMeta: Event has no `cache`; derive it from CachedModel, or declare a ModelCacheManager for it."
    )


async def test_cached_lists_cannot_be_ordered_by_columns_of_related_models() -> None:
    class User(CachedModel):
        name = fields.CharField(max_length=20)

    class Event(CachedModel):
        owner: fields.ForeignKeyRelation[User] = fields.ForeignKeyField("app.User")

        class Meta:
            ordering = ["owner__name"]

        class CacheMeta:
            filter_key_fields_list = [("owner",)]

    assert await refusal(Event, User) == (
        "Event.CacheMeta: Event.Meta.ordering names 'owner__name', which is not a column of Event itself, "
        "so that its lists cannot be kept up to date: set order_by."
    )


# Managers ----------------------------------------------------------------------------------------------


class Account(CachedModel):
    name = fields.CharField(max_length=20, unique=True)
    email = fields.CharField(max_length=20, unique=True)
    team = fields.IntField()

    class CacheMeta:
        get_key_fields_list = [("name",)]
        filter_key_fields_list = [("team",)]
        order_by = ["name"]


class Place(Model):
    """A plain model, for which tests declare managers."""

    name = fields.CharField(max_length=20, unique=True)


def manager_for(model: Any, name: str = "AccountCaches", **attributes: Any) -> type[ModelCacheManager[Any]]:
    return type(name, (ModelCacheManager,), {"model": model, "__module__": __name__, **attributes})


@of_declarations
async def test_cache_meta_and_manager_are_merged(db_url: DatabaseUrl, backend_url: str) -> None:
    class AccountCaches(ModelCacheManager[Account]):
        model = Account
        get_key_fields_list = [("email",)]
        filter_key_fields_list = [("name", "team")]
        timeout = 60
        relay = True

        def colleagues(self, account: Account) -> Any:
            return self.filter(team=account.team)

    async with tortoise_with(Account, url=db_url), ModelCache(backend_url) as cache:
        assert cache.open_cache.entries_of(Account).rows.relayed
        assert repr(Account.cache) == ("<Account.cache: get (id), (name), (email); filter (team), (name, team)>")
        kim = await Account.create(name="kim", email="k@x", team=1)
        await Account.create(name="ann", email="a@x", team=1)
        assert isinstance(Account.cache, AccountCaches)
        assert [account.name for account in await Account.cache.colleagues(kim)] == ["ann", "kim"]
        assert await Account.cache.get(email="k@x") == kim


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        (
            {"get_key_fields_list": [("name",)]},
            "Account.CacheMeta and AccountCaches: get_key_fields_list has (name) twice; remove one of them.",
        ),
        (
            {"filter_key_fields_list": [("team",)]},
            "Account.CacheMeta and AccountCaches: filter_key_fields_list has (team) twice; remove one of them.",
        ),
        (
            {"order_by": ["team"]},
            "order_by is set both by Account.CacheMeta and by AccountCaches: remove it from one of them.",
        ),
        (
            {"order_by": ["name"]},  # two declarations are an error although their values are equal
            "order_by is set both by Account.CacheMeta and by AccountCaches: remove it from one of them.",
        ),
        (
            {"get_key_fields_list": [("nope",)]},
            "Account.CacheMeta and AccountCaches: get_key_fields_list names 'nope', which is not a field of Account. "
            "Its fields: email, id, name, team.",
        ),
        (
            {"timeout": 0},
            "AccountCaches.timeout is 0: it must be above zero.",
        ),
        (
            {"get_key_fields_list": ["name"]},
            f"AccountCaches.get_key_fields_list is ['name']: {A_LIST_OF_KEYS}",
        ),
        (
            {"get_key_field_list": [("name",)], "anything": 5},
            "AccountCaches.get_key_field_list is not a setting of the cache: use get_key_fields_list.",
        ),
    ],
)
async def test_a_wrong_manager_is_an_error_with_its_remedy(attributes: dict[str, Any], message: str) -> None:
    caches = manager_for(Account, **attributes)
    assert await refusal(Account) == message
    del caches


async def test_two_managers_of_one_model_are_an_error() -> None:
    first, second = manager_for(Place, "PlaceCaches"), manager_for(Place, "PlacesCache")
    assert await refusal(Place) == "Place.cache has two managers, PlaceCaches and PlacesCache: keep one of them."
    del first, second


@of_declarations
async def test_a_manager_may_inherit_settings_and_methods(db_url: DatabaseUrl, backend_url: str) -> None:
    class Common(ModelCacheManager[Any]):
        timeout = 0.25

        def first(self) -> Any:
            return self.get(pk=1)

    class PlaceCaches(Common):
        model = Place
        get_key_fields_list = [("name",)]

    async with tortoise_with(Place, url=db_url), ModelCache(backend_url) as cache:
        place = await Place.create(name="Hall")
        manager: Any = cache.manager(Place)
        assert type(manager) is PlaceCaches
        assert await manager.first() == place
        assert await Place.cache.get(name="Hall") == place  # type: ignore[attr-defined]


@pytest.mark.parametrize("base", [InstanceCache, QuerysetCache, ModelCacheManager])
async def test_a_cache_class_without_a_model_is_an_error(base: Any) -> None:
    forgotten = type("Forgotten", (base,), {"key_fields": ("name",)})
    message = await refusal(Account)
    assert message == "Forgotten.model is None: set it to the Tortoise model that Forgotten is about."
    forgotten.model = "app.Account"
    message = await refusal(Account)
    assert message == "Forgotten.model is 'app.Account': set it to the Tortoise model that Forgotten is about."


# Cache classes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", [InstanceCache, QuerysetCache])
@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({}, 'Wrong.key_fields is None: name the fields, like ("slug",).'),
        ({"key_fields": "name"}, "Wrong.key_fields is 'name': name the fields, like (\"slug\",)."),
        ({"key_fields": [("name",)]}, "Wrong.key_fields is [('name',)]: name the fields, like (\"slug\",)."),
        ({"key_fields": 7}, 'Wrong.key_fields is 7: name the fields, like ("slug",).'),
        (
            {"key_fields": ("nope",)},
            "Wrong: key_fields names 'nope', which is not a field of Account. Its fields: email, id, name, team.",
        ),
        ({"key_fields": ("name", "name")}, "Wrong: key_fields names 'name' twice in one key."),
        (
            {"key_fields": ("team",), "timeout": 0},
            "Wrong.timeout is 0: it must be above zero.",
        ),
        (
            {"key_fields": ("team",), "allowtime": 5},
            "Wrong.allowtime is for invalidation = InvalidationType.DYNAMIC: set that, or remove it.",
        ),
        (
            {"key_fields": ("team",), "get_key_fields_list": [("team",)]},
            "Wrong.get_key_fields_list belongs to a ModelCacheManager: declare key_fields.",
        ),
    ],
)
async def test_a_wrong_cache_class_is_an_error_with_its_remedy(base: Any, attributes: Any, message: str) -> None:
    wrong = type("Wrong", (base,), {"model": Account, **attributes})
    assert await refusal(Account) == message
    del wrong


async def test_an_instance_cache_cannot_set_its_own_invalidation() -> None:
    class AccountByName(InstanceCache[Account]):
        model = Account
        key_fields = ("name",)
        invalidation = InvalidationType.DYNAMIC

    assert await refusal(Account) == (
        "AccountByName.invalidation has no effect, because a row is stored once for all callers: "
        "set it in Account.CacheMeta."
    )
    del AccountByName


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        (
            {"order_by": ["nope"]},
            "Wrong.order_by names 'nope', which is not a field of Account. Its fields: email, id, name, team.",
        ),
        ({"limit": 0}, "Wrong.limit is 0: it must be a whole number above zero."),
        ({"limit": "3"}, "Wrong.limit is '3': it must be a whole number above zero."),
    ],
)
async def test_a_wrong_list_class_is_an_error_with_its_remedy(attributes: Any, message: str) -> None:
    wrong = type("Wrong", (QuerysetCache,), {"model": Account, "key_fields": ("team",), **attributes})
    assert await refusal(Account) == message
    del wrong


@pytest.mark.parametrize("base", [RelatedInstanceCache, RelatedQuerysetCache])
@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({}, 'Wrong has no relation: name the one to follow, like "venue" or "venue__city".'),
        ({"relation": ("host",)}, f"Wrong.relation is ('host',): {A_RELATION}"),
        ({"relation": ""}, f"Wrong.relation is '': {A_RELATION}"),
        ({"relation": "nope"}, f"Wrong.relation names 'nope', but Event has no relation 'nope'. {RELATIONS}"),
        ({"relation": "slug"}, f"Wrong.relation names 'slug', but Event has no relation 'slug'. {RELATIONS}"),
        ({"relation": "host_id"}, f"Wrong.relation names 'host_id', but Event has no relation 'host_id'. {RELATIONS}"),
        (
            {"relation": "organizer__boss"},
            "Wrong.relation names 'organizer__boss', but User has no relation 'boss'. Its relations: events, hosted.",
        ),
        (
            {"relation": "organizer__"},
            "Wrong.relation names 'organizer__', but User has no relation ''. Its relations: events, hosted.",
        ),
        (
            {"relation": "venue"},
            "Wrong.relation names 'venue', but Venue has no cache: make Venue a CachedModel or give it a "
            "ModelCacheManager.",
        ),
        (
            {"relation": "host", "key_fields": ("tickets",)},
            "Wrong: key_fields names 'tickets', a relation without a column in Event's own table; declare the key on "
            "the model at its other end.",
        ),
        ({"relation": "host", "key_fields": None}, 'Wrong.key_fields is None: name the fields, like ("slug",).'),
        (
            {"relation": "host", "timeout": 5},
            "Wrong.timeout has no effect, because the class stores no entries of its own: set it in Event.CacheMeta, "
            "if it belongs there.",
        ),
        (
            {"relation": "host", "select_related": ("organizer",)},
            "Wrong.select_related has no effect, because the class stores no entries of its own: set it in "
            "Event.CacheMeta, if it belongs there.",
        ),
        (
            {"relation": "host", "get_instance": None},
            "Wrong.get_instance has no effect: remove it, or derive from another class.",
        ),
    ],
)
async def test_a_wrong_related_class_is_an_error_with_its_remedy(base: Any, attributes: Any, message: str) -> None:
    wrong = type("Wrong", (base,), {"model": Event, "key_fields": ("slug",), **attributes})
    assert await refusal(*EVENT_AND_RELATIONS) == message
    del wrong


@pytest.mark.parametrize("base", [InstanceCache, QuerysetCache])
@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        (
            {"select_related": 7},
            'Wrong.select_related is 7: it must be a list of field names, like ["organizer"].',
        ),
        (
            {"select_related": ("nope",)},
            f"Wrong.select_related names 'nope', but Event has no relation 'nope'. {RELATIONS}",
        ),
        (
            {"select_related": "tickets"},
            "Wrong.select_related names 'tickets', which may lead to several rows: declare a "
            "RelatedQuerysetCache for them.",
        ),
        (
            {"select_related": "organizer__hosted"},
            "Wrong.select_related names 'hosted', which may lead to several rows: declare a "
            "RelatedQuerysetCache for them.",
        ),
        (
            {"relation": "host"},
            "Wrong.relation has no effect: derive from RelatedInstanceCache or RelatedQuerysetCache.",
        ),
    ],
)
async def test_wrong_selected_relations_are_errors_with_their_remedy(base: Any, attributes: Any, message: str) -> None:
    wrong = type("Wrong", (base,), {"model": Event, "key_fields": ("slug",), **attributes})
    assert await refusal(*EVENT_AND_RELATIONS) == message
    del wrong


async def test_only_classes_that_return_rows_can_select_relations() -> None:
    class Counted(QuerysetCountCache):
        model = Event
        key_fields = ("organizer",)
        select_related = ("organizer",)

    assert await refusal(*EVENT_AND_RELATIONS) == (
        "Counted.select_related is for rows: remove it, or derive from InstanceCache or QuerysetCache."
    )


async def test_lists_on_a_relation_path_cannot_be_ordered_by_columns_of_related_models() -> None:
    class Owner(CachedModel):
        name = fields.CharField(max_length=20)

    class Thing(CachedModel):
        owner: fields.ForeignKeyRelation[Owner] = fields.ForeignKeyField("app.Owner", related_name="things")

        class Meta:
            ordering = ["owner__name"]

    class Things(RelatedQuerysetCache[Thing]):
        model = Owner
        key_fields = ("id",)
        relation = "things"

    assert await refusal(Owner, Thing) == (
        "Thing.CacheMeta: Thing.Meta.ordering names 'owner__name', which is not a column of Thing itself, "
        "so that its lists cannot be kept up to date: set order_by."
    )


async def test_two_cache_classes_with_one_name_are_an_error() -> None:
    def declare_class() -> type:
        class AccountByName(InstanceCache[Account]):
            model = Account
            key_fields = ("name",)

        return AccountByName

    first, second = declare_class(), declare_class()
    path = f"{__name__}.test_two_cache_classes_with_one_name_are_an_error.<locals>.declare_class.<locals>.AccountByName"
    assert await refusal(Account) == (
        f"Two cache classes of one module are called AccountByName, {path} and {path}: rename one of them."
    )
    del first, second


async def test_a_cache_class_for_a_model_that_is_not_loaded_is_an_error() -> None:
    class ByName(InstanceCache[Place]):
        model = Place
        key_fields = ("name",)

    assert await refusal(Account) == (
        f"ByName.model is Place, which Tortoise has not loaded: add the module {__name__} to Tortoise.init before "
        "opening the cache."
    )


async def test_a_cache_class_for_an_abstract_model_is_an_error() -> None:
    class Base(CachedModel):
        class Meta:
            abstract = True

    class ById(InstanceCache[Base]):
        model = Base
        key_fields = ("id",)

    assert await refusal(Account) == ("ById.model is Base, which is abstract and has no rows: name a subclass of it.")


async def test_cache_classes_of_modules_that_are_not_loaded_are_ignored() -> None:
    # Stands for the module of another application or test: Tortoise has loaded no model of it.
    elsewhere: dict[str, Any] = {"__module__": "elsewhere"}
    model: Any = type("Thing", (CachedModel,), {**elsewhere, "id": fields.IntField(primary_key=True)})
    wrong = [
        type("ThingByNope", (InstanceCache,), {**elsewhere, "model": model, "key_fields": ("nope",)}),
        type("ThingCaches", (ModelCacheManager,), {**elsewhere, "model": model, "timeout": 0}),
    ]
    async with tortoise_with(Account), ModelCache("memory://") as cache:
        with pytest.raises(CacheNotRegistered, match="Thing is not bound to the open cache: make it a CachedModel"):
            cache.manager(model)
    del wrong


@of_declarations
async def test_classes_without_a_model_can_be_base_classes(db_url: DatabaseUrl, backend_url: str) -> None:
    class Short(InstanceCache[Any]):
        timeout = 1

    class AccountByEmail(Short):
        model = Account
        key_fields = ("email",)

    async with tortoise_with(Account, url=db_url), ModelCache(backend_url):
        with pytest.raises(DoesNotExist):
            await AccountByEmail("missing@x")


def wrong_cache_class() -> None:
    type("AccountByNope", (InstanceCache,), {"model": Account, "key_fields": ("nope",)})


def wrong_manager() -> None:
    manager_for(Account, "Another", timeout=0)


def manager_that_would_do() -> None:
    class AccountCaches(ModelCacheManager[Account]):
        model = Account
        get_key_fields_list = [("email",)]


@pytest.mark.parametrize("declare_something", [wrong_cache_class, wrong_manager, manager_that_would_do])
async def test_classes_without_a_reference_are_ignored(declare_something: Callable[[], None]) -> None:
    gc.collect()
    gc.disable()  # a class is a reference cycle, which an automatic collection could free
    try:
        declare_something()
        async with tortoise_with(Account), ModelCache("memory://"):
            assert type(Account.cache) is ModelCacheManager
            assert repr(Account.cache) == "<Account.cache: get (id), (name); filter (team)>"
    finally:
        gc.enable()


# Binding -----------------------------------------------------------------------------------------


@of_declarations
async def test_models_inherit_the_cache_meta_of_abstract_parents(db_url: DatabaseUrl, backend_url: str) -> None:
    class Named(CachedModel):
        name = fields.CharField(max_length=20, unique=True)

        class Meta:
            abstract = True

        class CacheMeta:
            get_key_fields_list = [("name",)]
            timeout = 60

    class City(Named):
        pass

    class Street(Named):
        city: fields.ForeignKeyRelation[City] = fields.ForeignKeyField("app.City")

        class CacheMeta(Named.CacheMeta):
            filter_key_fields_list = [("city",)]
            cached_foreignkeys = ["city"]

    async with tortoise_with(City, Street, url=db_url), ModelCache(backend_url):
        city = await City.create(name="Bonn")
        street = await Street.create(name="Long", city=city)
        assert repr(City.cache) == "<City.cache: get (id), (name)>"
        assert repr(Street.cache) == "<Street.cache: get (id), (name); filter (city)>"
        found = await Street.cache.get(name="Long")
        assert (found, await found.city) == (street, city)
        assert await City.cache.get(name="Bonn") == city


async def test_a_primary_key_may_have_any_name_and_type(db_url: DatabaseUrl, backend_url: str) -> None:
    class Country(CachedModel):
        code = fields.CharField(max_length=2, primary_key=True)
        capital = fields.CharField(max_length=20, unique=True)

        class CacheMeta:
            get_key_fields_list = [("capital",)]

    class CountryByCode(InstanceCache[Country]):
        model = Country
        key_fields = ("code",)

    async with tortoise_with(Country, url=db_url), ModelCache(backend_url):
        country = await Country.create(code="de", capital="Bonn")
        assert await Country.cache.get(code="de") == country
        assert await Country.cache.get(pk="de") == country
        assert await CountryByCode("de") == country
        assert await Country.cache.get(capital="Bonn") == country
        country.capital = "Berlin"
        await country.save()
        assert (await Country.cache.get(code="de")).capital == "Berlin"


@of_declarations
async def test_a_cache_class_binds_a_model_without_a_manager(db_url: DatabaseUrl, backend: CountingBackend) -> None:
    class PlaceByName(InstanceCache[Place]):
        model = Place
        key_fields = ("name",)

    async with tortoise_with(Place, url=db_url), ModelCache(backend):
        hall = await Place.create(name="Hall")
        assert await PlaceByName("Hall") == hall
        async with assert_ops(backend, sql=0, redis=["read"]):
            assert await PlaceByName(name="Hall") == hall
        hall.name = "Barn"
        await hall.save()
        with pytest.raises(DoesNotExist):
            await PlaceByName("Hall")
        assert await PlaceByName("Barn") == hall


@pytest.mark.only_on("postgres", because="the others have no schemas inside a database")
async def test_tables_of_one_name_in_two_schemas_are_kept_apart(db_url: DatabaseUrl, backend_url: str) -> None:
    class OldEvent(CachedModel):
        slug = fields.CharField(max_length=20, unique=True)

        class Meta:
            table = "event"
            schema = "archive"

        class CacheMeta:
            get_key_fields_list = [("slug",)]

    class Event(CachedModel):
        slug = fields.CharField(max_length=20, unique=True)

        class Meta:
            table = "event"

        class CacheMeta:
            get_key_fields_list = [("slug",)]

    columns = "(id SERIAL PRIMARY KEY, slug VARCHAR(20) UNIQUE)"
    tables = f"CREATE TABLE event {columns}; CREATE SCHEMA archive; CREATE TABLE archive.event {columns}"
    async with tortoise_with(OldEvent, Event, url=db_url, tables=tables), ModelCache(backend_url):
        old = await OldEvent.create(slug="pycon")
        for _ in range(2):
            assert await OldEvent.cache.get(slug="pycon") == old
            assert await OldEvent.cache.get(id=old.id) == old
            assert await Event.cache.get_or_none(slug="pycon") is None
            assert await Event.cache.get_or_none(id=old.id) is None


# Settings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"timeout": 0}, "CacheConfig.timeout is 0: it must be above zero."),
        ({"timeout": -1}, "CacheConfig.timeout is -1: it must be above zero."),
        ({"timeout": "60"}, f"CacheConfig.timeout is '60': {A_DURATION}"),
        ({"timeout": None}, f"CacheConfig.timeout is None: {A_DURATION}"),
        ({"timeout": True}, f"CacheConfig.timeout is True: {A_DURATION}"),
        ({"negative_timeout": float("nan")}, f"CacheConfig.negative_timeout is nan: {A_DURATION}"),
        ({"intent_ttl": float("inf")}, "CacheConfig.intent_ttl is inf: it must be at most a hundred years."),
        ({"lease_ttl": 0.0002}, "CacheConfig.lease_ttl is 0.0002: it must be at least a millisecond, 0.001."),
        ({"lease_wait": -0.1}, "CacheConfig.lease_wait is -0.1: it must be zero or above."),
        ({"guess_size": -1}, "CacheConfig.guess_size is -1: it must be zero or above."),
        ({"batch_size": 0}, "CacheConfig.batch_size is 0: it must be a number above zero."),
        ({"batch_size": 2.5}, "CacheConfig.batch_size is 2.5: it must be a whole number."),
        ({"ttl_jitter": 1}, "CacheConfig.ttl_jitter is 1: it must be a fraction below 1."),
        ({"ttl_jitter": -0.1}, "CacheConfig.ttl_jitter is -0.1: it must be a fraction below 1."),
        ({"enabled": "no"}, "CacheConfig.enabled is 'no': use True or False."),
        ({"on_write_error": "ignore"}, 'CacheConfig.on_write_error is \'ignore\': use "retry" or "raise".'),
        ({"relay_lag": 0}, "CacheConfig.relay_lag is 0: it must be above zero."),
        ({"relay": 1}, "CacheConfig.relay is 1: use True or False."),
        ({"on_relay_loss": "wait"}, 'CacheConfig.on_relay_loss is \'wait\': use "bypass" or "serve".'),
    ],
)
def test_a_wrong_setting_is_an_error_with_its_remedy(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(CacheConfigurationError) as caught:
        CacheConfig(**settings)
    assert str(caught.value) == message
    with pytest.raises(CacheConfigurationError) as caught:
        ModelCache("memory://", **settings)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("name", "hint"), [("timout", " Did you mean timeout?"), ("on_error", " Did you mean on_write_error?"), ("zzz", "")]
)
def test_an_unknown_setting_is_an_error_that_lists_the_settings(name: str, hint: str) -> None:
    wrong: Any = {name: 5}
    known = f" has no setting {name!r}.{hint} Its settings: enabled, require_backend, inspect_columns, "
    with pytest.raises(CacheConfigurationError) as caught:
        ModelCache("memory://", **wrong)
    assert str(caught.value).startswith(f"ModelCache{known}")
    with pytest.raises(TypeError) as refused:
        CacheConfig(**wrong)
    assert str(refused.value).startswith(f"CacheConfig{known}")


def test_some_settings_may_be_zero_and_keywords_override_a_config() -> None:
    CacheConfig(ttl_jitter=0, lease_wait=0, guess_size=0)
    config = CacheConfig(timeout=5, batch_size=7)
    cache = ModelCache("memory://", config=config, timeout=9)
    assert (cache.config.timeout, cache.config.batch_size) == (9, 7)


def test_type_checkers_know_every_setting_of_the_config() -> None:
    settings, config = Settings.__annotations__, CacheConfig.__annotations__
    assert [*settings] == [*config]
    as_read = {Duration: float, Duration | None: float | None}
    assert {name: as_read.get(kind, kind) for name, kind in settings.items()} == config
