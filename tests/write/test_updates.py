"""``Event.cache.update``: writes some columns of one row, and restores the instance if the write fails."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from pypika_tortoise.terms import Term
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import DoesNotExist, FieldError, IntegrityError
from tortoise.expressions import F, RawSQL
from tortoise.signals import Signals
from tortoise.transactions import in_transaction

from aiomodelcache import ModelCache
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.models.tour_models import Band, City, Hall, Show

pytestmark = pytest.mark.models("tests.support.models.tour_models")


@pytest.fixture
async def show(cache: ModelCache) -> Show:
    band = await Band.create(name="band")
    await Band.create(name="other")
    city = await City.create(name="city")
    await Hall.create(id=uuid4(), name="hall", city=city)
    show = await Show.create(title="old", seats=10, band=band)
    return await Show.get(id=show.id)


async def stored_row(show: Show) -> dict[str, Any]:
    """Returns the row in the database."""
    [row] = await Show.filter(id=show.id).values()
    return dict(row)


@contextmanager
def listening(signal: Signals, heard: list[Any], error: Exception | None = None) -> Iterator[None]:
    async def listener(*args: Any) -> None:
        heard.append(args)
        if error is not None:
            raise error

    Show.register_listener(signal, listener)
    try:
        yield
    finally:
        Show._listeners[signal][Show].remove(listener)


async def test_update_writes_only_the_named_columns_and_sets_them_on_the_instance(
    show: Show, cache: ModelCache, backend: CountingBackend
) -> None:
    await Show.cache.get(id=show.id)
    before = await stored_row(show)
    await Show.filter(id=show.id).update(sold=3)  # by another writer, unknown to the instance
    heard: list[Any] = []
    with listening(Signals.pre_save, heard), listening(Signals.post_save, heard):
        async with assert_ops(backend, sql=1, redis=["mark", "clear"]) as ops:
            await Show.cache.update(show, title="new", price="7.50")
    assert "SET" in ops.statements[0]
    assert "sold" not in ops.statements[0]
    row = await stored_row(show)
    assert (row["title"], row["price"], row["sold"], row["seats"]) == ("new", Decimal("7.50"), 3, 10)
    assert (show.title, show.price, show.sold) == ("new", Decimal("7.50"), 0)
    assert [args[-1] for args in heard] == [["title", "price", "changed"]] * 2
    assert row["changed"] > before["changed"]
    assert abs(show.changed - row["changed"]) < timedelta(seconds=1)
    assert row["created"] == before["created"]
    assert (await Show.cache.get(id=show.id)).title == "new"


async def test_a_relation_is_written_by_instance_or_by_key(show: Show, cache: ModelCache) -> None:
    other, hall = await Band.get(name="other"), await Hall.get(name="hall")
    await Show.cache.prefetch([show], "band")
    assert await Show.cache.filter(band=other) == []
    await Show.cache.update(show, band=other, hall=hall)
    assert show.band is other
    assert show.hall is hall
    assert await Show.cache.filter(band=other) == [show]
    first = await Band.get(name="band")
    await Show.cache.update(show, band=first.id, hall_id=None)
    assert (await show.band).name == "band"
    assert await show.hall is None
    await Show.cache.update(show, band_id=other.id, hall=str(hall.id))
    row = await stored_row(show)
    assert (row["band_id"], row["hall_id"]) == (other.id, hall.id)
    assert (await show.band, await show.hall) == (other, hall)
    await Show.cache.update(show, hall=None)
    assert (await stored_row(show))["hall_id"] is None
    city = await City.get(name="city")
    with pytest.raises(ValueError, match=r"City\.country cannot be <str>: ValueError"):
        await City.cache.update(city, country="x")  # the relation uses a number


async def test_values_that_the_database_computes_are_read_back(show: Show, backend: CountingBackend) -> None:
    await Show.filter(id=show.id).update(seats=20)
    assert await Show.cache.filter(hall=None, seats=21) == []
    async with assert_ops(backend, redis=["mark", "clear"], transactions=1):
        await Show.cache.update(show, seats=F("seats") + 1, sold=F("seats"), title="counted")
    row = await stored_row(show)
    assert row["seats"] == show.seats == 21
    assert row["sold"] == show.sold
    assert row["title"] == show.title == "counted"
    assert await Show.cache.filter(hall=None, seats=21) == [show]
    await Show.filter(id=show.id).delete()
    with pytest.raises(DoesNotExist):
        await Show.cache.update(show, seats=F("seats") + 1)
    assert show.seats == 21


@pytest.mark.only_on("sqlite", because="nothing is sent to any database")
@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"nope": 1}, FieldError, r"cannot write nope: it is no field of Show\. Its fields: band, band_id, changed"),
        ({"id": 9}, FieldError, "cannot write id: it is the primary key"),
        ({"pk": 9}, FieldError, "cannot write pk: it is the primary key"),
        ({"changed": datetime.now(UTC)}, FieldError, "cannot write changed: it is set automatically at every update"),
        ({"guests": []}, FieldError, "cannot write guests: it is a relation without a column in this model's table"),
        ({"band": 1, "band_id": 1}, FieldError, r"Show\.band_id is given twice"),
        ({"title": None}, ValueError, r"Show\.title cannot be None: the column is not nullable"),
        ({"band": None}, ValueError, r"Show\.band cannot be None: the column is not nullable"),
        ({"seats": "many"}, ValueError, r"Show\.seats cannot be <str>: ValueError"),
        ({"title": "x" * 65}, ValueError, r"Show\.title cannot be <str>: ValidationError"),
        ({"price": "a lot"}, ValueError, r"Show\.price cannot be <str>: InvalidOperation"),
        ({"band": Band(name="new")}, ValueError, r"Show\.band cannot be .*it was never saved: save it first"),
        ({"band": City(name="new")}, ValueError, r"Show\.band cannot be .*it refers to Band"),
        ({"band_id": Band(name="new")}, ValueError, "an instance can be written to a relation only"),
        ({"seats": RawSQL("7")}, ValueError, r"takes no subqueries and no SQL; use filter\(\.\.\.\)\.update"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
async def test_an_invalid_value_is_refused_before_anything_is_sent(
    values: dict[str, Any], error: type[Exception], message: str, show: Show, backend: CountingBackend
) -> None:
    before = dict(vars(show))
    async with assert_ops(backend, sql=0, redis=0):
        with pytest.raises(error, match=message):
            await Show.cache.update(show, **{"sold": 1, **values})
    assert vars(show) == before
    assert isinstance(RawSQL("7"), Term)


async def test_an_instance_without_a_saved_row_of_the_model_is_refused(show: Show, backend: CountingBackend) -> None:
    async with assert_ops(backend, sql=0, redis=0):
        with pytest.raises(ValueError, match="This Show was never saved, so there is no row to update"):
            await Show.cache.update(Show(title="x"), title="y")
        with pytest.raises(TypeError, match=r"Show\.cache\.update takes an instance of Show; got <Band"):
            await Show.cache.update(Band(name="x"), title="y")  # type: ignore[arg-type]
        await Show.cache.update(show)


async def test_a_write_that_the_database_refuses_restores_the_instance(show: Show, backend: CountingBackend) -> None:
    band, other = await Band.get(name="band"), await Band.get(name="other")
    await Band.cache.get(name="other")
    await Band.cache.prefetch([band], "home")
    before = dict(vars(band))
    for value in ("other", F("name")):
        with pytest.raises(IntegrityError):
            await Band.cache.update(band if value == "other" else other, name="other" if value == "other" else "band")
    assert vars(band) == before
    assert other.name == "other"
    assert (await Band.cache.get(name="other")).id == other.id


@pytest.mark.parametrize("signal", [Signals.pre_save, Signals.post_save])
async def test_a_listener_that_raises_restores_the_instance(signal: Signals, show: Show) -> None:
    before = dict(vars(show))
    with listening(signal, [], RuntimeError("no")), pytest.raises(RuntimeError, match="no"):
        await Show.cache.update(show, title="new")
    assert vars(show) == before
    assert (await stored_row(show))["title"] == (await Show.cache.get(id=show.id)).title


async def test_an_update_in_a_transaction_invalidates_at_commit(show: Show, backend: CountingBackend) -> None:
    await Show.cache.get(id=show.id)
    async with in_transaction() as connection:
        await Show.cache.update(show, title="never", seats=F("seats") + 1)
        assert show.seats == 11
        await connection.rollback()
    assert (await Show.cache.get(id=show.id)).title == "old"
    async with assert_ops(backend, redis=["mark", "clear"], transactions=1), in_transaction():
        await Show.cache.update(show, title="now", seats=F("seats") + 1)
    again = await Show.cache.get(id=show.id)
    assert (again.title, again.seats) == ("now", 11)


async def test_a_partially_loaded_instance_can_be_updated(show: Show) -> None:
    [part] = await Show.filter(id=show.id).only("id", "title")
    await Show.cache.update(part, seats=3, band=await Band.get(name="other"))
    row = await stored_row(show)
    assert (row["seats"], row["title"]) == (3, "old")
    assert row["changed"] > show.changed
    assert await Show.cache.filter(hall=None, seats=3) == [show]


async def test_a_model_with_a_separate_manager_can_be_updated(
    show: Show, database: BaseDBAsyncClient, backend: CountingBackend
) -> None:
    hall = await Hall.get(name="hall")
    await ModelCacheOfHall().get(id=hall.id)
    await ModelCacheOfHall().update(hall, name="renamed")
    assert (await ModelCacheOfHall().get(id=hall.id)).name == "renamed"


def ModelCacheOfHall() -> Any:  # the model declares no `cache` of its own
    return Hall.cache  # type: ignore[attr-defined]
