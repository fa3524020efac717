"""``keep_unchanged``: a save that changes nothing leaves all entries, and every other save invalidates them."""

import copy
import datetime
import pickle
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest
from tortoise import fields
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import IntegrityError, OperationalError
from tortoise.expressions import F
from tortoise.queryset import QuerySet
from tortoise.signals import Signals
from tortoise.transactions import in_transaction

from aiomodelcache import CacheConfigurationError, CachedModel, ModelCache, cached, local_cache, no_invalidation
from aiomodelcache.orm import catalogue
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.declare.test_binding import refusal
from tests.orm.test_real_types import retype
from tests.support.gates import Outside
from tests.support.models.shelves import listening
from tests.support.models.unchanged_models import Card, Deck, DeckSizes, Memo, Rank, Suit
from tests.support.stored import ask_twice, states

pytestmark = [
    pytest.mark.models("tests.support.models.unchanged_models"),
    pytest.mark.slow(because="compares every lookup with the database after each save"),
]

MOMENT = datetime.datetime(2026, 2, 3, 4, 5, 6, 789, tzinfo=datetime.UTC)


def only_checked(backend: CountingBackend, *, transactions: int | None = None) -> assert_ops:
    """Asserts the cost of a save that changes nothing."""
    return assert_ops(backend, sql=1, redis=[], transactions=transactions)


def checked_and_written(backend: CountingBackend, *, transactions: int | None = None) -> assert_ops:
    """Asserts the cost of a save that seemed to change nothing."""
    return assert_ops(backend, sql=2, redis=["mark", "clear"], transactions=transactions)


@cached
async def unchanged_titles() -> list[str]:
    return [card.title for card in await Card.all().order_by("id")]


@pytest.fixture
async def card(cache: ModelCache) -> Card:
    """A row with a value in each column, with all lookups in the cache."""
    return await new_card()


async def new_card() -> Card:
    await Card.create(
        id=1,
        number=1,
        notes="Straße ",
        price=Decimal("1234567890123456.50"),
        due=MOMENT,
        day=MOMENT.date(),
        length=datetime.timedelta(seconds=-1.5),
        code=uuid.UUID(int=7),
        data=b"\0\xff",
    )
    await warm()
    return await Card.cache.get(id=1)


async def warm() -> None:
    for _ in range(2):
        await Card.cache.get_or_none(id=1)
        await Card.cache.get_or_none(number=1)
        await Card.cache.filter(owner=1)
        await unchanged_titles()


async def assert_kept(backend: CountingBackend) -> None:
    """Asserts that rows, lists and derived results are hits."""
    async with assert_ops(backend, sql=0):
        await warm()


async def check() -> None:
    """Asserts that every lookup agrees with the database."""
    rows = await QuerySet(Card).order_by("id")
    for _ in range(2):
        assert await unchanged_titles() == [row.title for row in rows]
        assert [row.id for row in await Card.cache.filter(owner=1)] == [row.id for row in rows if row.owner == 1]
        for key in ({"id": 1}, {"number": 1}):
            found, row = await Card.cache.get_or_none(**key), await QuerySet(Card).get_or_none(**key)
            assert values_of(found) == values_of(row)


def values_of(card: Card | None) -> list[Any]:
    return [getattr(card, name) for name in Card._meta.fields_db_projection] if card is not None else []


async def changed_back() -> Card:
    found = await Card.get(id=1)
    return found.update_from_dict({"number": 1, "owner": 1, "title": "form", "notes": "Straße ", "due": MOMENT})


async def saved_before() -> Card:
    found = await Card.get(id=1)
    found.title = "another"
    await found.save()
    await warm()
    return found


async def refreshed() -> Card:
    found = await Card.get(id=1)
    found.title = "another"
    await found.refresh_from_db()
    return found


async def within_a_scope() -> Card:
    async with local_cache():
        return await Card.cache.get(id=1)


LOADS: dict[str, Callable[[], Awaitable[Card]]] = {
    "from the cache": lambda: Card.cache.get(number=1),
    "from the database": lambda: Card.get(id=1),
    "changed to the same values": changed_back,
    "saved before": saved_before,
    "refreshed": refreshed,
    "in a scope": within_a_scope,
    "copied": lambda: _by(copy.copy),
    "pickled": lambda: _by(lambda card: pickle.loads(pickle.dumps(card))),
}


async def _by(make: Callable[[Card], Card]) -> Card:
    return make(await Card.cache.get(number=1))


@pytest.mark.parametrize("load", LOADS)
async def test_an_unchanged_save_keeps_all_entries(backend: CountingBackend, card: Card, load: str) -> None:
    loaded = await LOADS[load]()
    async with only_checked(backend, transactions=0):
        await loaded.save()
    await assert_kept(backend)
    await check()


async def test_the_first_save_after_a_create_keeps_all_entries(backend: CountingBackend, cache: ModelCache) -> None:
    card = await Card.create(number=1, due=MOMENT, price=Decimal("2.50"))
    await warm()
    async with only_checked(backend):
        await card.save()
    await assert_kept(backend)


async def test_a_transaction_announces_nothing_for_an_unchanged_save(backend: CountingBackend, card: Card) -> None:
    async with only_checked(backend), in_transaction():
        await card.save()
    await assert_kept(backend)
    async with assert_ops(backend, sql=2, redis=["mark", "clear"]), in_transaction():
        await card.save()
        await Card.create(id=2, number=2)
    await check()


async def test_an_unchanged_save_of_some_columns_keeps_all_entries(backend: CountingBackend, card: Card) -> None:
    card.title = "changed, and not saved"
    async with only_checked(backend):
        await card.save(update_fields=["owner", "notes"])
    await assert_kept(backend)
    await Card.filter(id=1).update(notes="another")
    await warm()
    async with checked_and_written(backend):
        await card.save(update_fields=["owner", "notes"])
    assert (await Card.get(id=1)).notes == "Straße "
    await check()


async def test_an_update_or_create_with_the_same_values_keeps_all_entries(backend: CountingBackend, card: Card) -> None:
    async with assert_ops(backend, sql=2, redis=[]):
        await Card.update_or_create({"title": "form", "owner": 1}, number=1)
    await assert_kept(backend)


async def test_a_changed_save_invalidates_at_the_usual_cost(backend: CountingBackend, card: Card) -> None:
    card.title = "changed"
    async with assert_ops(backend, sql=1, redis=["mark", "clear"], transactions=0):
        await card.save()
    assert (await Card.cache.get(id=1)).title == "changed"
    await check()


CHANGES: dict[str, list[Any]] = {
    "number": [7],
    "owner": [2, 2**60],
    "title": ["FORM", "form ", "", "förm", "fo\u0301rm"],
    "notes": ["Strasse ", "Straße", None, "STRASSE "],
    "done": [True],
    "price": [Decimal("1234567890123456.51"), Decimal(0)],
    "due": [MOMENT + datetime.timedelta(microseconds=1), None],
    "day": [datetime.date(2026, 2, 4)],
    "length": [datetime.timedelta(seconds=-1.500001)],
    "code": [uuid.UUID(int=8), None],
    "data": [b"\0\xfe", b"\0\xff\0", None],
    "rank": [Rank.HIGH],
    "suit": [Suit.SPADES],
}
"""Values that another writer gives the row, by column, some of which collations hold to be equal to the row's own."""


@pytest.mark.exhaustive(because="every way of saving, over every change")
@pytest.mark.parametrize("within", ["autocommit", "transaction"])
@pytest.mark.parametrize("column", CHANGES)
async def test_a_save_over_another_writers_row_invalidates(
    backend: CountingBackend, card: Card, column: str, within: str
) -> None:
    """Readers have cached the other writer's row, and the save brings the loaded values back."""
    for value in CHANGES[column]:
        await Card.filter(id=1).update(**{column: value})
        await warm()
        await check()
        if within == "autocommit":
            async with checked_and_written(backend, transactions=0):
                await card.save()
        else:
            async with checked_and_written(backend), in_transaction():
                await card.save()
        assert getattr(await Card.get(id=1), column) == getattr(card, column)
        await check()
    await warm()
    async with only_checked(backend):
        await card.save()
    await assert_kept(backend)


async def test_a_save_over_nulls_invalidates(backend: CountingBackend, card: Card) -> None:
    nothing = {"notes": None, "due": None, "day": None, "code": None, "data": None, "length": None}
    await Card.filter(id=1).update(**nothing)
    empty = await Card.get(id=1)
    await warm()
    async with only_checked(backend):
        await empty.save()
    await card.save()
    await warm()
    async with checked_and_written(backend):
        await empty.save()
    await check()


async def test_a_row_that_raw_sql_has_changed_is_changed_back(
    backend: CountingBackend, database: BaseDBAsyncClient, card: Card
) -> None:
    await database.execute_script("UPDATE card SET owner = 2 WHERE id = 1")
    await Card.cache.clear()
    await warm()
    await card.save()
    assert (await Card.get(id=1)).owner == 1
    await check()


async def test_a_deleted_row_stays_deleted(backend: CountingBackend, card: Card) -> None:
    await Card.filter(id=1).delete()
    await warm()
    async with checked_and_written(backend):
        await card.save()
    with pytest.raises(IntegrityError):
        await card.save(force_update=True)
    assert await QuerySet(Card).count() == 0
    await check()


async def test_values_that_a_listener_changes_are_saved_and_invalidated(card: Card) -> None:
    async def rename(model: type[Card], card: Card, *_: Any) -> None:
        card.title = "by a listener"

    with listening(Card, Signals.pre_save, rename):
        await card.save()
    assert (await Card.get(id=1)).title == "by a listener"
    await check()


async def test_listeners_hear_of_an_unchanged_save(backend: CountingBackend, card: Card) -> None:
    heard: list[bool] = []

    async def hear(model: type[Card], card: Card, created: bool, *_: Any) -> None:
        heard.append(created)

    with listening(Card, Signals.post_save, hear):
        await card.save()
        await card.save(force_update=True)
    assert heard == [False, False]
    await assert_kept(backend)


@pytest.mark.parametrize("value", [F("owner") + 1, F("owner")])
async def test_an_expression_is_saved_and_invalidates(backend: CountingBackend, card: Card, value: Any) -> None:
    card.owner = value
    async with assert_ops(backend, redis=["mark", "clear"]):
        await card.save()
    await check()


async def test_a_save_after_one_that_was_rolled_back(card: Card) -> None:
    """The instance has values that the row has not, and nothing notes that they were changed."""
    with suppress(ZeroDivisionError):
        async with in_transaction():
            card.title = "rolled back"
            await card.save()
            raise ZeroDivisionError
    await warm()
    await card.save()
    assert (await Card.get(id=1)).title == "rolled back"
    await check()


async def test_an_unchanged_save_beside_a_savepoint_that_is_rolled_back(card: Card) -> None:
    async with in_transaction():
        with suppress(ZeroDivisionError):
            async with in_transaction():
                card.title = "rolled back"
                await card.save()
                await card.save()
                raise ZeroDivisionError
        await card.save()
    assert (await Card.get(id=1)).title == "rolled back"
    await check()


@pytest.mark.only_on("postgres", "mariadb", because="SQLite locks no rows")
async def test_an_unchanged_save_locks_its_row_until_the_transaction_ends(
    database: BaseDBAsyncClient, outside: Outside, card: Card
) -> None:
    async def lock() -> None:
        await Card.filter(id=1).select_for_update(nowait=True)

    async with in_transaction():
        await card.save()
        with pytest.raises(Exception, match=r"(?i)could not obtain lock|lock wait timeout|NOWAIT is set"):
            await outside(lock())
    await outside(lock())


@pytest.mark.parametrize("within", [True, False])
async def test_a_save_that_inserts_invalidates(backend: CountingBackend, cache: ModelCache, within: bool) -> None:
    """Tortoise inserts a loaded instance that has no primary key, or loses it within the model's own ``save``."""
    manager = cache.manager(Memo)
    await Memo.create()
    row = await manager.get(id=1)
    assert len(await manager.filter(owner=1)) == 1
    if not within:
        row.pk = None
    async with assert_ops(backend, sql=1, redis=["mark", "clear"]):
        await row.save(as_new=within)
    assert len(await manager.filter(owner=1)) == 2
    async with assert_ops(backend, sql=0):
        await manager.filter(owner=1)


@pytest.mark.parametrize("elsewhere", [True, False])
async def test_a_save_of_ones_own_that_saves_twice_invalidates(
    backend: CountingBackend, cache: ModelCache, again: BaseDBAsyncClient, elsewhere: bool
) -> None:
    """The second time, it saves a change, perhaps on another connection."""
    manager = cache.manager(Memo)
    await Memo.create()
    row = await manager.get(id=1)
    assert len(await manager.filter(owner=1)) == 1
    assert await manager.filter(owner=2) == []
    async with assert_ops(backend, redis=["mark", "clear"]):
        await row.save(owner=2, again=again if elsewhere else None)
    assert await states(cache, manager.get(id=1)) == "."  # no mark is left
    assert await manager.filter(owner=1) == []
    assert len(await manager.filter(owner=2)) == 1


async def test_results_by_other_columns_stay(backend: CountingBackend, cache: ModelCache) -> None:
    """A save whose results need old values has a transaction of its own."""
    deck = await Deck.create(size=3)
    assert await DeckSizes(1) == await DeckSizes(1) == 3
    async with only_checked(backend, transactions=1):
        await deck.save()
    async with assert_ops(backend, sql=0):
        await DeckSizes(1)
    await Deck.filter(id=deck.id).update(owner=2)
    assert (await DeckSizes(1), await DeckSizes(2)) == (0, 3)
    await deck.save()
    assert (await DeckSizes(1), await DeckSizes(2)) == (3, 0)


async def test_a_plain_model_with_a_separate_manager(cache: ModelCache, backend: CountingBackend) -> None:
    manager = cache.manager(Memo)
    await Memo.create()
    await ask_twice(manager.filter(owner=1), backend)
    memo = await Memo.get(id=1)
    async with only_checked(backend):
        await memo.save()
    async with assert_ops(backend, sql=0):
        await manager.filter(owner=1)
    memo.owner = 2
    await memo.save()
    assert await manager.filter(owner=1) == []


async def test_all_open_caches_are_invalidated_and_kept(
    backend: CountingBackend, database: BaseDBAsyncClient, card: Card
) -> None:
    async with ModelCache("memory://", namespace="other") as other:
        for value in ("another", "form"):
            for _ in range(2):
                await other.manager(Card).get(id=1)
            async with assert_ops(backend, sql=1, redis=[]):
                await card.save()
                async with assert_ops(sql=0):
                    await other.manager(Card).get(id=1)
            await Card.filter(id=1).update(title=value)
            for _ in range(2):
                assert (await other.manager(Card).get(id=1)).title == value
            await card.save()
            assert (await other.manager(Card).get(id=1)).title == "form"
            await check()


async def test_a_request_sees_the_row_of_its_own_unchanged_save(card: Card, outside: Outside) -> None:
    """Its scope holds an older row than the one that the save confirms."""

    async def rename() -> None:
        await Card.filter(id=1).update(title="current")

    async with local_cache():
        assert (await Card.cache.get(id=1)).title == "form"
        await outside(rename())
        current = await Card.get(id=1)
        await current.save()
        assert (await Card.cache.get(id=1)).title == "current"


async def test_a_process_drops_its_near_entries_of_an_unchanged_row(
    database: BaseDBAsyncClient, backend_url: str
) -> None:
    async with ModelCache(backend_url, near=True) as cache:
        card = await new_card()
        near, key = cache.open_cache.guarded.near, Card.cache.get(id=1).locate(cache.open_cache).key
        await card.save()
        assert key not in near._entries


async def test_writes_without_invalidation_are_sent(card: Card) -> None:
    await Card.filter(id=1).update(title="another")
    with no_invalidation():
        await card.save()
    assert (await Card.get(id=1)).title == "form"


@pytest.mark.only_on("sqlite", because="triggers are written in another way on each database")
async def test_no_trigger_fires_for_an_unchanged_save(
    backend: CountingBackend, database: BaseDBAsyncClient, card: Card
) -> None:
    """A trigger may change the row, of which the cache would not be told."""
    await database.execute_script(
        "CREATE TRIGGER t AFTER UPDATE ON card BEGIN UPDATE card SET title = 'by a trigger' WHERE id = 1; END"
    )
    await card.save()
    await assert_kept(backend)
    await check()
    card.owner = 2
    await card.save()
    assert (await Card.get(id=1)).title == "by a trigger"
    await check()


# Refusals -----------------------------------------------------------------------------------------------


class Words(fields.CharField[str]):
    """A field with conversions of its own."""

    def to_python_value(self, value: Any) -> Any:
        return value and value.lower()


REFUSED: dict[str, tuple[Any, str]] = {
    "auto_now": (lambda: fields.DatetimeField(auto_now=True), "which has auto_now, so every save changes it"),
    "float": (fields.FloatField, "whose values the database does not compare exactly"),
    "JSON": (fields.JSONField, "whose values the database does not compare exactly"),
    "time": (fields.TimeField, "whose values the database does not compare exactly"),
    "own class": (lambda: Words(max_length=9), "whose class has conversions of its own"),
}


@pytest.mark.parametrize("field", REFUSED)
async def test_a_field_that_cannot_be_compared_is_refused(field: str) -> None:
    make, reason = REFUSED[field]
    model = type(
        "Odd",
        (CachedModel,),
        {
            "__module__": __name__,
            "id": fields.IntField(primary_key=True),
            "odd": make(),
            "CacheMeta": type("CacheMeta", (), {"keep_unchanged": True}),
        },
    )
    assert await refusal(model) == f"Odd.CacheMeta.keep_unchanged is not possible with Odd.odd, {reason}: remove one."


OTHER_TYPES = {
    "sqlite": {"made": "REAL"},
    "postgres": {"due": "TIMESTAMPTZ(0)"},
    "mysql": {"price": "DECIMAL(20,1)"},
}


async def test_a_column_of_another_type_than_declared_is_refused(
    database: BaseDBAsyncClient, backend: CountingBackend
) -> None:
    [(name, sql_type)] = OTHER_TYPES[database.capabilities.dialect].items()
    await retype(database, "card", **{name: sql_type})
    with pytest.raises(
        CacheConfigurationError,
        match=rf"Card\.CacheMeta\.keep_unchanged is not possible with Card\.{name}, whose column has another type",
    ):
        await ModelCache(backend).open()


async def test_without_the_catalogue_every_save_invalidates(
    database: BaseDBAsyncClient, backend: CountingBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: Any) -> None:
        raise OperationalError("permission denied")

    monkeypatch.setitem(catalogue._READERS, database.capabilities.dialect, refuse)
    async with ModelCache(backend) as cache:
        card = await new_card()
        assert await states(cache, Card.cache.get(id=1)) == "V"
        await card.save()
        assert await states(cache, Card.cache.get(id=1)) == "."
        await check()
