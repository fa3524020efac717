"""Every type of field comes back from the cache as the database returns it, on every database."""

import asyncio
import copy
import datetime as dt
import itertools
import uuid
from decimal import Decimal
from typing import Any

import pytest
from tortoise import fields
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.context import TortoiseContext
from tortoise.contrib.postgres.fields import ArrayField
from tortoise.models import Model
from tortoise.timezone import get_default_timezone, parse_timezone

from aiomodelcache import CacheConfigurationError, ModelCache
from aiomodelcache.encoding.codec import EncodeError
from aiomodelcache.encoding.rows import RowCodec
from aiomodelcache.orm.fields import column_of
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.databases import DatabaseUrl
from tests.support.models.field_models import ROWS, Account, Everything, Level, Owner, Point, Tag
from tests.support.models.mysql_models import Compressed
from tests.support.models.postgres_models import Arrays

pytestmark = pytest.mark.models("tests.support.models.field_models")


def assert_same(found: Any, expected: Any, where: str = "") -> None:
    """Asserts equality of values and types at every depth."""
    assert type(found) is type(expected), where
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for name, value in expected.items():
            assert_same(found[name], value, f"{where}.{name}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for at, value in enumerate(expected):
            assert_same(found[at], value, f"{where}[{at}]")
    elif isinstance(expected, Tag):
        assert found.text == expected.text, where
    else:
        assert found == expected, where
    if isinstance(expected, Decimal):
        assert found.as_tuple() == expected.as_tuple(), where
    if isinstance(expected, dt.datetime | dt.time):
        assert (found.tzinfo, found.fold) == (expected.tzinfo, expected.fold), where
        assert type(found.tzinfo) is type(expected.tzinfo), where
    if expected.__hash__ is not None and not isinstance(expected, Tag):
        assert hash(found) == hash(expected), where


def assert_same_row(found: Model, expected: Model) -> None:
    """Asserts that the instances are equal in every attribute, and share no mutable value."""
    assert found is not expected
    assert type(found) is type(expected)
    assert found == expected
    assert hash(found) == hash(expected)
    assert_same(vars(found), vars(expected), type(found).__name__)
    for name, value in vars(found).items():
        assert not isinstance(value, dict | list | Tag) or value is not vars(expected)[name]


def destroy(row: Model) -> None:
    """Changes everything that an instance holds."""
    for value in vars(row).values():
        if isinstance(value, dict | list):
            value.clear()
        elif isinstance(value, Tag):
            value.text = "changed"
    vars(row).clear()


async def assert_cached(cache: ModelCache, backend: CountingBackend, row: Model) -> Model:
    """Asserts that a row is the same from the lookup that fills, from a concurrent lookup, and from the cache.

    Also if it is kept decoded, and a caller has changed what it was given.
    """
    model: Any = type(row)
    expected = await model.get(pk=row.pk)
    first, concurrent = await asyncio.gather(model.cache.get(pk=row.pk), model.cache.get(pk=row.pk))
    async with assert_ops(backend, sql=0):
        cached = await model.cache.get(pk=row.pk)
    decoded_before = cache.stats.decoded.hits
    for _ in range(2):
        destroy(await model.cache.get(pk=row.pk))
    kept = [await model.cache.get(pk=row.pk), *await model.cache.get_many([row.pk])]
    assert cache.stats.decoded.hits == decoded_before + 3
    for found, other in itertools.combinations((expected, first, concurrent, cached, *kept), 2):
        assert_same_row(found, other)
    counters = cache.stats.of(model.__name__)
    assert (counters.unfillable, counters.undecodable, counters.mismatched) == (0, 0, 0)
    result: Model = cached
    return result


def values_for(database: BaseDBAsyncClient, name: str) -> dict[str, Any]:
    values = dict(ROWS[name])
    if database.connection_name == "sqlite":
        values.pop("clock_null", None)  # Tortoise cannot store a time on SQLite
    return values


async def test_every_type_comes_back_as_the_database_returns_it(
    database: BaseDBAsyncClient, cache: ModelCache, backend: CountingBackend
) -> None:
    for name in ROWS:
        row = await Everything.create(slug=name, **values_for(database, name))
        await assert_cached(cache, backend, row)


async def test_json_documents_that_are_no_object_come_back_the_same(
    database: BaseDBAsyncClient, cache: ModelCache, backend: CountingBackend
) -> None:
    row = await Everything.create(slug="x")
    for json in ('"text"', "null", "-0.5", "true", '[["deep"], "\\u00e4"]'):
        await database.execute_query(f"UPDATE everything SET document = '{json}' WHERE id = {row.pk}", [])
        await Everything.cache.clear()
        await assert_cached(cache, backend, row)


async def test_every_column_of_the_test_model_has_values() -> None:
    """Fails if a field is added to the test model without values in ``ROWS``."""
    meta: Any = Everything._meta
    columns = {name for name in meta.fields_db_projection if name not in ("id", "slug", "owner_id", "twin_id")}
    automatic = {"changed", "made"}
    assert columns - automatic == {name for values in ROWS.values() for name in values}
    types = {type(meta.fields_map[name]) for name in columns}
    abstract = {fields.data.IntEnumFieldInstance, fields.data.CharEnumFieldInstance}
    offered = {getattr(fields, name) for name in fields.data.__all__}
    assert {cls for cls in offered if isinstance(cls, type)} | abstract <= types


async def test_an_instance_from_the_cache_behaves_like_one_from_the_database(
    database: BaseDBAsyncClient, cache: ModelCache, backend: CountingBackend
) -> None:
    owner = await Owner.create(name="Kim")
    other = await Everything.create(slug="other")
    row = await Everything.create(slug="values", owner=owner, twin=other, **values_for(database, "values"))
    cached: Any = await assert_cached(cache, backend, row)
    assert cached._saved_in_db
    await cached.fetch_related("owner", "twin")
    assert (cached.owner.name, cached.twin.slug) == ("Kim", "other")

    cached = await Everything.cache.get(slug="values")
    cached.document["changed"] = [1]
    cached.integer += -1
    cached.point = Point(1, 1)
    await cached.save()
    saved = await assert_cached(cache, backend, row)
    assert_same(saved.__dict__["document"], cached.document)
    assert saved.__dict__["point"] == Point(1, 1)

    await Everything.filter(pk=row.pk).using_db(database).update(integer=7)
    await cached.refresh_from_db()
    assert cached.integer == 7
    await cached.delete()
    assert await Everything.cache.get_or_none(slug="values") is None


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/New_York", None])
async def test_datetimes_come_back_in_the_zone_of_the_application(
    db_url: DatabaseUrl, backend: CountingBackend, zone: str | None
) -> None:
    """A ``zone`` of None stands for naive datetimes, ``use_tz=False``."""
    name = f"{db_url.dialect} {zone}"  # Tortoise caches its executors by this name
    config = {
        "connections": {name: str(db_url)},
        "apps": {"app": {"models": ["tests.support.models.field_models"], "default_connection": name}},
    }
    offset = dt.UTC if zone else None
    async with TortoiseContext() as context:
        await context.init(config=config, use_tz=zone is not None, timezone=zone or "UTC")
        await context.generate_schemas(safe=False)
        async with ModelCache(backend) as cache:
            for moment in (
                dt.datetime(2024, 7, 1, 12, 0, 0, 1, tzinfo=offset),
                dt.datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=offset),
                dt.datetime(2024, 11, 3, 5, 30, tzinfo=offset),  # New York: 01:30 before the clock is put back
                dt.datetime(2024, 11, 3, 6, 30, tzinfo=offset),  # and 01:30 after it
                dt.datetime(9999, 12, 30, tzinfo=offset),
            ):
                clock = dt.time(1, 2, 3, 4, tzinfo=dt.UTC) if zone and db_url.dialect != "sqlite" else None
                row = await Everything.create(
                    slug=moment.isoformat(), moment=moment, moment_null=moment, clock_null=clock
                )
                cached: Any = await assert_cached(cache, backend, row)
                assert str(cached.moment.tzinfo) == str(zone)


@pytest.mark.models("tests.support.models.postgres_models")
@pytest.mark.only_on("postgres", because="the fields are those of tortoise.contrib.postgres")
async def test_fields_of_postgresql_come_back_the_same(cache: ModelCache, backend: CountingBackend) -> None:
    one, two = uuid.uuid4(), uuid.uuid4()
    rows = [
        await Arrays.create(),
        await Arrays.create(
            numbers=[1, None, 2**31 - 1],
            numbers_null=[],
            words=["a,b", 'c"d', "", None, "{}"],
            prices=[Decimal("1.500"), None],
            moments=[dt.datetime(1960, 1, 1, 1, 1, 1, 1, tzinfo=dt.UTC), None],
            keys=[one, None, two],
            grid=[[one, two], [two, one]],
            title="words to search for",
        ),
    ]
    for row in rows:
        await assert_cached(cache, backend, row)


@pytest.mark.only_on("postgres", because="the others have no column type for a time with a zone")
async def test_a_time_without_a_zone_comes_back_the_same(
    database: BaseDBAsyncClient, cache: ModelCache, backend: CountingBackend
) -> None:
    await database.execute_script('ALTER TABLE "everything" ALTER COLUMN "clock_null" TYPE time')
    row = await Everything.create(slug="x")
    await database.execute_script('UPDATE "everything" SET "clock_null" = \'12:34:56.000007\'')
    cached: Any = await assert_cached(cache, backend, row)
    assert str(cached.clock_null) == "12:34:56.000007+00:00"


@pytest.mark.only_on("no store", because="it is about bytes alone")
@pytest.mark.only_on("sqlite", "mariadb", because="asyncpg has a UUID of its own")
async def test_arrays_of_a_driver_without_its_own_types_come_back_the_same(database: BaseDBAsyncClient) -> None:
    column = column_of("keys", ArrayField("uuid"), Everything, database)
    assert column is not None
    values = {"keys": [uuid.uuid4(), [None, uuid.uuid4()]]}
    assert_same(RowCodec([column]).decode(RowCodec([column]).encode(values)), values)


@pytest.mark.only_on("no store", because="it is about bytes alone")
async def test_only_values_of_the_columns_type_are_stored_without_a_comparison(database: BaseDBAsyncClient) -> None:
    """Values that a driver might return in a column of another type are decoded again, compared and refused."""
    zone = get_default_timezone()
    cases = [
        (fields.DatetimeField(), dt.datetime(2024, 1, 1, tzinfo=zone), dt.datetime(2024, 1, 1)),
        (fields.UUIDField(), None, "12345678-1234-4234-8234-1234567890ab"),
        (fields.JSONField(), {"a": [1, "b", None, {"c": 2.5}]}, {"a": [object()]}),
    ]
    for field, good, bad in cases:
        column = column_of("value", field, Everything, database)
        assert column is not None
        codec = RowCodec([column])
        assert_same(codec.decode(codec.encode({"value": good})), {"value": good})
        with pytest.raises(EncodeError):
            codec.encode({"value": bad})
    elsewhere = dt.datetime(2024, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=9)))
    column = column_of("value", fields.DatetimeField(), Everything, database)
    assert column is not None
    assert column.is_lossless is not None
    assert not column.is_lossless(elsewhere)
    assert not column.is_lossless(dt.date(2024, 1, 1))


@pytest.mark.only_on("no store", because="it is about bytes alone")
@pytest.mark.parametrize(("zone", "is_lossless"), [("UTC", True), ("Europe/London", False), ("", False)])
async def test_datetimes_are_stored_without_a_comparison_only_in_utc(
    monkeypatch: pytest.MonkeyPatch, database: BaseDBAsyncClient, zone: str, is_lossless: bool
) -> None:
    monkeypatch.setattr("aiomodelcache.orm.fields.get_default_timezone", lambda: parse_timezone(zone or "UTC"))
    monkeypatch.setattr("aiomodelcache.orm.fields.get_use_tz", lambda: bool(zone))
    column = column_of("value", fields.DatetimeField(), Everything, database)
    assert column is not None
    assert (column.is_lossless is not None) is is_lossless


@pytest.mark.models("tests.support.models.mysql_models")
@pytest.mark.only_on("mariadb", because="the fields are those of tortoise.contrib.mysql")
async def test_fields_of_mysql_come_back_the_same(cache: ModelCache, backend: CountingBackend) -> None:
    row = await Compressed.create(name="sixteen bytes")
    await assert_cached(cache, backend, row)
    row.name = "changed"
    await row.save()
    assert (await Compressed.cache.get(id=row.id)).name == "changed"


# Values and fields that cannot be stored ------------------------------------------------------------


async def test_a_row_that_would_change_in_the_cache_is_answered_and_not_stored(
    cache: ModelCache, backend: CountingBackend, caplog: pytest.LogCaptureFixture
) -> None:
    await Account.create(id=1, name="kim", secret="x")
    for expected in (1, 2):
        async with assert_ops(backend, sql=1):
            assert (await Account.cache.get(id=1)).secret == "hash of x"
        assert cache.stats.of("Account").unfillable == expected
    for _ in range(2):  # the index entry is stored, but the row is read from the database
        assert (await Account.cache.get(name="kim")).secret == "hash of x"
    assert await Account.cache.count(name="kim") == 1
    messages = [record.getMessage() for record in caplog.records if record.name == "aiomodelcache"]
    assert len(messages) == 1
    assert "a row of Account cannot be stored: secret is <str>" in messages[0]


SQLITE_ODDITIES: dict[str, str] = {
    "integer": "'not a number'",
    "integer_null": "1.5",
    "big_null": "x'00ff'",
    "small_null": "'twelve'",
    "number_null": "'1,5'",
    "text_null": "x'ff'",
    "char_null": "x'fe'",
    "data_null": "'text'",
}
"""Literals by column that SQLite stores in a column of another type, and that Tortoise returns unchanged."""


@pytest.mark.only_on("sqlite", because="the others store no values of another type than the column's")
async def test_values_of_another_type_than_the_column_are_answered_and_not_stored(
    database: BaseDBAsyncClient, cache: ModelCache, backend: CountingBackend
) -> None:
    for unfillable, (name, literal) in enumerate(SQLITE_ODDITIES.items(), 1):
        row = await Everything.create(slug=name)
        await database.execute_script(f'UPDATE "everything" SET "{name}" = {literal} WHERE "id" = {row.pk}')
        expected = await Everything.get(id=row.pk)
        for _ in range(2):
            assert_same_row(await Everything.cache.get(id=row.pk), expected)
        counters = cache.stats.of("Everything")
        assert (counters.unfillable, counters.undecodable) == (2 * unfillable, 0), name


@pytest.mark.only_on("postgres", because="the others have no NaN")
async def test_nan_and_infinity_come_back_the_same(
    database: BaseDBAsyncClient, cache: ModelCache, backend: CountingBackend
) -> None:
    row = await Everything.create(slug="x", number=float("nan"), number_null=float("-inf"))
    await database.execute_script(f'UPDATE "everything" SET "price" = \'NaN\' WHERE "id" = {row.pk}')
    await Everything.cache.get(id=row.pk)
    async with assert_ops(backend, sql=0):
        cached = await Everything.cache.get(id=row.pk)
    assert cached.number != cached.number
    assert cached.number_null == float("-inf")
    assert cached.price.is_nan()


@pytest.mark.only_on("mariadb", because="the others store moments with their offset from UTC")
async def test_a_time_that_the_clock_skipped_is_answered_and_not_stored(
    db_url: DatabaseUrl, backend: CountingBackend
) -> None:
    """MySQL stores local times without their offset. The time 02:30 did not exist on that day."""
    config = {
        "connections": {"mariadb skipped": str(db_url)},
        "apps": {"app": {"models": ["tests.support.models.field_models"], "default_connection": "mariadb skipped"}},
    }
    async with TortoiseContext() as context:
        await context.init(config=config, timezone="America/New_York")
        await context.generate_schemas(safe=False)
        connection = context.connections.get("mariadb skipped")
        row = await Everything.create(slug="x")
        await connection.execute_script(f"UPDATE `everything` SET moment = '2024-03-10 02:30:00' WHERE id = {row.pk}")
        expected = await Everything.get(id=row.pk)
        async with ModelCache(backend) as cache:
            for _ in range(2):
                assert_same_row(await Everything.cache.get(id=row.pk), expected)
            assert cache.stats.of("Everything").unfillable == 2


async def test_a_value_that_the_enum_does_not_have_fails_as_without_the_cache(
    database: BaseDBAsyncClient, cache: ModelCache
) -> None:
    row = await Everything.create(slug="x")
    statement = "UPDATE everything SET level = 5 WHERE id = "
    await database.execute_script(f"{statement}{row.pk}")
    with pytest.raises(ValueError, match="5 is not a valid Level"):
        await Everything.get(id=row.pk)
    with pytest.raises(ValueError, match="5 is not a valid Level"):
        await Everything.cache.get(id=row.pk)
    await database.execute_script(f"UPDATE everything SET level = {Level.HIGH.value} WHERE id = {row.pk}")
    assert (await Everything.cache.get(id=row.pk)).level is Level.HIGH


@pytest.mark.models("tests.support.models.unstorable_models")
async def test_a_field_that_cannot_be_stored_is_an_error_when_the_cache_opens(
    database: BaseDBAsyncClient, backend_url: str
) -> None:
    with pytest.raises(CacheConfigurationError) as caught:
        await ModelCache(backend_url).open()
    message = str(caught.value)
    assert message.startswith("Network.address (AddressField, values of <class 'ipaddress.IPv4Address'>)")
    assert "cannot be stored in the cache" in message
    assert "to_db_value and to_python_value" in message
    assert "do not cache this model" in message


async def test_an_inherited_json_field_is_stored_as_a_document(cache: ModelCache) -> None:
    """Tortoise makes a deep copy of an inherited field, the standard encoder included."""
    standard: Any = fields.JSONField()
    with_an_encoder: Any = fields.JSONField(encoder=repr)
    loads = [
        column.load is None
        for field in (standard, copy.deepcopy(standard), with_an_encoder, copy.deepcopy(with_an_encoder))
        if (column := column_of("document", field, Everything, cache.open_cache.entries_of(Everything).schema.client))
    ]
    assert loads == [True, True, False, False]
