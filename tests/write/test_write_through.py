"""``write_through``: a save leaves its row in the cache, if the writer knows it and no other writer was there."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import BaseORMException, IntegrityError
from tortoise.expressions import F
from tortoise.transactions import in_transaction

from aiomodelcache import (
    CacheConfigurationError,
    MemoryBackend,
    ModelCache,
    RedisBackend,
    deferred_invalidation,
    no_invalidation,
)
from aiomodelcache.observe import Fill, Note, Observer
from aiomodelcache.open_cache import default_cache
from aiomodelcache.testing import assert_ops
from aiomodelcache.write import own_rows
from tests.support.gates import GatedBackend, Outside, gated_sql, until
from tests.support.models.through_models import Account, Plain, Refilled, Ticket

pytestmark = pytest.mark.models("tests.support.models.through_models")

SAVED = ["mark_for_save", "clear_and_save"]
ON_SQLITE = pytest.mark.only_on("sqlite", because="the database plays no part in it")


class Fills(Observer):
    def __init__(self) -> None:
        self.notes: list[tuple[str, bool, str | None]] = []

    def note(self, note: Note) -> None:
        if isinstance(note, Fill):
            self.notes.append((note.cache, note.accepted, note.reason))


@pytest.fixture
async def gated(database: BaseDBAsyncClient, backend_url: str) -> AsyncIterator[GatedBackend]:
    """The store of an open cache, with gates."""
    gated = GatedBackend(MemoryBackend() if backend_url == "memory://" else RedisBackend(backend_url))
    await gated.open()
    async with ModelCache(gated) as opened:
        gated.cache = opened  # type: ignore[attr-defined]
        yield gated
    await gated.close()


def counted(cache: ModelCache, model: str = "Account") -> tuple[int, int, int]:
    counters = cache.stats.by_cache[model]
    return counters.written_through, counters.unknown_rows, counters.contended_rows


async def assert_cached(model: Any, pk: int, **expected: Any) -> None:
    """Asserts that a lookup is a hit, and that its row is the database's."""
    async with assert_ops_of_a_hit():
        row = await model.cache.get(pk=pk)
    assert {name: getattr(row, name) for name in expected} == expected
    stored = await model.get(pk=pk)
    columns = stored._meta.fields_db_projection
    assert [getattr(row, name) for name in columns] == [getattr(stored, name) for name in columns]


def assert_ops_of_a_hit() -> Any:
    return assert_ops(sql=0, redis=["read"])


async def assert_not_cached(model: Any, pk: int) -> None:
    assert await default_cache().guarded.backend.read([model.cache.key(pk=pk).encode()]) == [None]


# Autocommit mode -----------------------------------------------------------------------------------------


async def test_a_saved_row_is_a_hit(database: BaseDBAsyncClient, cache: ModelCache) -> None:
    await Account.create(id=1, email="a@example.org", balance=1)
    row = await Account.get(id=1)
    row.balance = 2
    await row.save()
    await assert_cached(Account, 1, balance=2)
    assert counted(cache) == (2, 0, 0)


async def test_a_save_takes_as_many_round_trips_and_statements_as_without(
    database: BaseDBAsyncClient, cache: ModelCache
) -> None:
    async with assert_ops(sql=1, redis=SAVED):
        await Account.create(id=1, email="a@example.org")
    row = await Account.get(id=1)
    async with assert_ops(sql=1, redis=SAVED):
        await row.save()
    async with assert_ops(sql=1, redis=["mark", "clear"]):
        await Plain.create(id=1)


async def test_a_saved_row_is_found_by_its_other_keys(database: BaseDBAsyncClient, cache: ModelCache) -> None:
    await Account.create(id=1, email="a@example.org")
    async with assert_ops(sql=0, redis=["read", "read"]):  # the index entry leads to the row
        assert (await Account.cache.get(email="a@example.org")).id == 1


async def test_a_row_whose_key_the_database_makes_is_not_stored(database: BaseDBAsyncClient, cache: ModelCache) -> None:
    """Its key was not marked before the COMMIT, so another writer may have been there unseen."""
    ticket = await Ticket.create(title="first", notes=None)
    await assert_not_cached(Ticket, ticket.id)
    assert counted(cache, "Ticket") == (0, 1, 0)


async def test_a_row_with_a_value_that_the_save_does_not_know_is_not_stored(
    database: BaseDBAsyncClient, cache: ModelCache
) -> None:
    ticket = await Ticket.create(id=7, title="first", notes={"a": 1})
    await assert_not_cached(Ticket, 7)
    await ticket.save()
    await assert_not_cached(Ticket, 7)
    row = await Account.create(id=1, email="a@example.org", visits=1)
    row.visits = F("visits") + 1
    await row.save()
    await assert_not_cached(Account, 1)
    assert (await Account.cache.get(pk=1)).visits == 2
    assert counted(cache) == (1, 1, 0)


async def test_a_save_that_needs_a_transaction_of_its_own_knows_all_values(
    database: BaseDBAsyncClient, cache: ModelCache
) -> None:
    """A list by ``balance`` can be invalidated only if the writer reads the new value back."""
    row = await Account.create(id=1, email="a@example.org", balance=1)
    row.balance = F("balance") + 1
    await row.save()
    await assert_cached(Account, 1, balance=2)


async def test_a_save_of_some_columns_stores_nothing(database: BaseDBAsyncClient, cache: ModelCache) -> None:
    row = await Account.create(id=1, email="a@example.org", balance=1)
    other = await Account.get(id=1)
    other.email, row.balance = "b@example.org", 2
    await other.save()
    async with assert_ops(sql=1, redis=["mark", "clear"]):
        await row.save(update_fields=["balance"])
    found = await Account.cache.get(pk=1)
    assert (found.email, found.balance) == ("b@example.org", 2)


async def test_a_save_that_finds_no_row_stores_nothing(database: BaseDBAsyncClient, cache: ModelCache) -> None:
    row = await Account.create(id=1, email="a@example.org")
    await Account.filter(id=1).delete()
    row.balance = 5
    await row.save()
    assert await Account.cache.get_or_none(pk=1) is None


async def test_a_value_that_changes_while_the_statement_is_in_flight_is_not_stored(
    database: BaseDBAsyncClient, cache: ModelCache
) -> None:
    row = await Account.create(id=1, email="a@example.org", balance=1)
    row.balance = 2
    with gated_sql(database) as gates:
        gate = gates.hold("UPDATE")
        saving = asyncio.create_task(row.save())
        await gate.reached()
        row.balance = 3
        gate.open()
        await saving
    assert (await Account.get(id=1)).balance == 2
    assert (await Account.cache.get(pk=1)).balance == 2


async def test_a_refused_save_stores_nothing(database: BaseDBAsyncClient, cache: ModelCache) -> None:
    await Account.create(id=1, email="a@example.org")
    row = await Account.create(id=2, email="b@example.org")
    row.email = "a@example.org"
    with pytest.raises(IntegrityError):
        await row.save()
    assert (await Account.cache.get(pk=2)).email == "b@example.org"


async def test_a_cancelled_save_stores_what_was_committed(database: BaseDBAsyncClient, cache: ModelCache) -> None:
    row = await Account.create(id=1, email="a@example.org", balance=1)
    row.balance = 2
    with gated_sql(database) as gates:
        gate = gates.hold("UPDATE", "after")
        saving = asyncio.create_task(row.save())
        await gate.reached()
        saving.cancel()
        gate.open()
        with pytest.raises(asyncio.CancelledError):
            await saving
    await assert_cached(Account, 1, balance=2)


async def test_a_save_of_unknown_outcome_stores_nothing(
    database: BaseDBAsyncClient, gated: GatedBackend, impatient: None
) -> None:
    row = await Account.create(id=1, email="a@example.org", balance=1)
    with gated_sql(database) as gates:
        gate = gates.hold("UPDATE", "after")
        row.balance = 2
        saving = asyncio.create_task(row.save())
        await gate.reached()
        saving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await saving
        gate.open()
    assert gated.cache.stats.unknown_outcomes == 1  # type: ignore[attr-defined]
    assert counted(gated.cache)[0] == 1  # type: ignore[attr-defined]
    assert (await Account.cache.get(pk=1)).balance == (await Account.get(id=1)).balance


# Other writers -------------------------------------------------------------------------------------------


async def test_a_row_is_not_stored_beside_another_writer(database: BaseDBAsyncClient, gated: GatedBackend) -> None:
    row, second = await Account.create(id=1, email="a@example.org"), await Account.get(id=1)
    ending = gated.hold("clear")
    row.balance = 2
    first = asyncio.create_task(row.save())
    await ending.reached()
    later = gated.hold("clear")
    second.balance = 3
    other = asyncio.create_task(second.save())
    await later.reached()
    ending.open()
    await first
    assert await gated.read([Account.cache.key(pk=1).encode()]) != [None], "the other writer's intent is gone"
    later.open()
    await other
    assert (await Account.cache.get(pk=1)).balance == 3
    assert counted(gated.cache) == (1, 0, 2)  # type: ignore[attr-defined]


async def test_a_row_is_not_stored_after_another_writer_has_come_and_gone(
    database: BaseDBAsyncClient, gated: GatedBackend
) -> None:
    row, second = await Account.create(id=1, email="a@example.org"), await Account.get(id=1)
    ending = gated.hold("clear")
    row.balance, second.balance = 2, 3
    first = asyncio.create_task(row.save())
    await ending.reached()
    await second.save()
    ending.open()
    await first
    await assert_not_cached(Account, 1)
    assert (await Account.cache.get(pk=1)).balance == 3


async def test_a_row_is_not_stored_while_all_rows_are_invalidated(
    database: BaseDBAsyncClient, gated: GatedBackend
) -> None:
    cache: ModelCache = gated.cache  # type: ignore[attr-defined]
    row = await Account.create(id=1, email="a@example.org")
    clearing = gated.hold("clear")
    task = asyncio.create_task(cache.clear(Account))
    await clearing.reached()
    row.balance = 2
    await row.save()
    clearing.open()
    await task
    await assert_not_cached(Account, 1)


async def test_a_row_of_an_earlier_epoch_is_a_miss(database: BaseDBAsyncClient, gated: GatedBackend) -> None:
    """``clear()`` comes between the mark and the end of a save, whose row it did not name."""
    cache: ModelCache = gated.cache  # type: ignore[attr-defined]
    row = await Account.create(id=1, email="a@example.org", balance=1)
    row.balance = 2
    ending = gated.hold("clear")
    saving = asyncio.create_task(row.save())
    await ending.reached()
    await database.execute_query("UPDATE account SET balance = 9 WHERE id = 1")
    await cache.clear(Account)
    ending.open()
    await saving
    assert (await Account.cache.get(pk=1)).balance == 9


# Transactions --------------------------------------------------------------------------------------------


async def test_a_row_saved_in_a_transaction_is_stored_after_the_commit(
    database: BaseDBAsyncClient, cache: ModelCache, outside: Outside
) -> None:
    await Account.create(id=1, email="a@example.org", balance=1)
    async with in_transaction():
        row = await Account.get(id=1)
        row.balance = 2
        await row.save()
        if database.capabilities.dialect != "sqlite":  # whose only connection is taken
            assert (await outside(read_account(1))).balance == 1
    await assert_cached(Account, 1, balance=2)
    assert counted(cache) == (2, 0, 0)


async def read_account(pk: int) -> Account:
    return await Account.cache.get(pk=pk)


async def test_a_transaction_takes_one_statement_more_for_each_model(
    database: BaseDBAsyncClient, cache: ModelCache
) -> None:
    async with assert_ops(sql=4, redis=SAVED), in_transaction():
        await Account.create(id=1, email="a@example.org")
        await Account.create(id=2, email="b@example.org")
        await Plain.create(id=3)
    for pk in (1, 2):
        await assert_cached(Account, pk)


async def test_the_last_of_several_writes_in_a_transaction_counts(
    database: BaseDBAsyncClient, cache: ModelCache
) -> None:
    async with in_transaction() as transaction:
        row = await Account.create(id=1, email="a@example.org", balance=1)
        row.balance = 2
        await row.save()
        await Account.filter(id=1).update(balance=3)
        await row.save(update_fields=["email"])
        await transaction.execute_query("UPDATE account SET balance = 4 WHERE id = 1")
        gone = await Account.create(id=2, email="b@example.org")
        await gone.delete()
    await assert_cached(Account, 1, balance=4)
    assert await Account.cache.get_or_none(pk=2) is None


async def test_a_transaction_knows_what_the_database_has_computed(
    database: BaseDBAsyncClient, cache: ModelCache
) -> None:
    async with in_transaction():
        row = await Account.create(id=1, email="a@example.org", balance=1)
        row.balance = F("balance") + 1
        await row.save()
        ticket = await Ticket.create(title="first", notes={"b": 1, "a": [1.5, None]})
    await assert_cached(Account, 1, balance=2)
    await assert_cached(Ticket, ticket.id, notes={"b": 1, "a": [1.5, None]})


async def test_a_transaction_that_is_rolled_back_stores_nothing(database: BaseDBAsyncClient, cache: ModelCache) -> None:
    await Account.create(id=1, email="a@example.org", balance=1)
    with suppress(LookupError):
        async with in_transaction():
            row = await Account.get(id=1)
            row.balance = 2
            await row.save()
            raise LookupError
    assert (await Account.cache.get(pk=1)).balance == 1


@pytest.mark.parametrize("inside", [True, False], ids=["on the savepoint's client", "on the transaction's"])
async def test_a_row_of_a_savepoint_that_was_rolled_back_is_stored_as_it_was(
    database: BaseDBAsyncClient, cache: ModelCache, inside: bool
) -> None:
    await Account.create(id=1, email="a@example.org", balance=1)
    async with in_transaction() as transaction:
        with suppress(LookupError):
            async with in_transaction() as savepoint:
                row = await Account.get(id=1)
                row.balance = 2
                await row.save(using_db=savepoint if inside else transaction)
                raise LookupError
    await assert_cached(Account, 1, balance=1)


@pytest.mark.only_on("postgres", because="only PostgreSQL turns a COMMIT into a ROLLBACK without an error")
async def test_a_transaction_that_an_error_has_ended_stores_nothing(
    database: BaseDBAsyncClient, cache: ModelCache
) -> None:
    await Account.create(id=1, email="a@example.org", balance=1)
    async with in_transaction() as transaction:
        row = await Account.get(id=1)
        row.balance = 2
        await row.save()
        with pytest.raises(BaseORMException):
            await transaction.execute_query("SELECT 1 / 0")
    assert (await Account.get(id=1)).balance == 1
    assert (await Account.cache.get(pk=1)).balance == 1
    assert counted(cache) == (1, 1, 0)


@pytest.mark.only_on("postgres", because="only PostgreSQL turns a COMMIT into a ROLLBACK without an error")
async def test_a_statement_of_the_writer_that_fails_fails_the_transaction(
    database: BaseDBAsyncClient, cache: ModelCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database ends the transaction, so a COMMIT would roll it back without a word."""

    async def failing(schema: Any, query: Any) -> Any:
        return await query._db.execute_query("SELECT 1 / 0")

    await Account.create(id=1, email="a@example.org", balance=1)
    monkeypatch.setattr(own_rows, "fetch_instances", failing)

    async def save_in_transaction() -> None:
        async with in_transaction():
            row = await Account.get(id=1)
            row.balance = 2
            await row.save()

    with pytest.raises(BaseORMException):
        await save_in_transaction()
    assert (await Account.get(id=1)).balance == 1
    assert (await Account.cache.get(pk=1)).balance == 1


@pytest.mark.only_on("postgres", because="only PostgreSQL turns a COMMIT into a ROLLBACK without an error")
async def test_rows_that_were_read_before_an_error_has_ended_the_transaction_are_not_stored(
    database: BaseDBAsyncClient, cache: ModelCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch = own_rows.fetch_instances

    async def fail_between(schema: Any, query: Any) -> Any:
        if schema.model is Ticket:
            with suppress(BaseORMException):  # of another task on the same connection
                await query._db.execute_query("SELECT 1 / 0")
        return await fetch(schema, query)

    monkeypatch.setattr(own_rows, "fetch_instances", fail_between)
    async with in_transaction():
        await Account.create(id=1, email="a@example.org")
        await Ticket.create(id=1)
    assert await Account.get_or_none(id=1) is None
    assert await Account.cache.get_or_none(pk=1) is None
    assert (counted(cache), counted(cache, "Ticket")) == ((0, 1, 0), (0, 1, 0))


@pytest.mark.only_on("postgres", because="only PostgreSQL gives a savepoint's locks back")
async def test_a_row_that_another_writer_has_changed_is_not_stored_from_an_old_snapshot(
    database: BaseDBAsyncClient, cache: ModelCache, outside: Outside
) -> None:
    await Account.create(id=1, email="a@example.org", balance=1)

    async def save_in_vain() -> None:
        async with in_transaction() as transaction:
            await transaction.execute_query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            row = await Account.get(id=1)
            with suppress(LookupError):
                async with in_transaction():
                    row.visits = 2
                    await row.save()
                    raise LookupError
            await outside(change_balance(1, 7))

    with pytest.raises(Exception, match="could not serialize"):  # the snapshot is too old to lock the row
        await save_in_vain()
    assert (await Account.cache.get(pk=1)).balance == 7


@pytest.mark.only_on("sqlite", because="it has triggers that roll back")
async def test_a_transaction_that_a_trigger_has_rolled_back_stores_what_is_there(
    database: BaseDBAsyncClient, cache: ModelCache
) -> None:
    await database.execute_script(
        "CREATE TRIGGER no_nines BEFORE UPDATE ON plain WHEN new.text = 'no' BEGIN SELECT RAISE(ROLLBACK, 'no'); END"
    )
    await Account.create(id=1, email="a@example.org", balance=1)
    plain = await Plain.create(id=1)
    async with in_transaction():
        row = await Account.get(id=1)
        row.balance = 2
        await row.save()
        plain.text = "no"
        with pytest.raises(BaseORMException):
            await plain.save()
    assert (await Account.get(id=1)).balance == 1
    assert (await Account.cache.get(pk=1)).balance == 1


@pytest.mark.only_on("mariadb", because="it rolls a transaction back at a deadlock, and goes on in autocommit mode")
async def test_a_transaction_that_a_deadlock_has_rolled_back_stores_what_is_there(
    database: BaseDBAsyncClient, cache: ModelCache
) -> None:
    await Account.create(id=1, email="a@example.org", balance=1)
    async with in_transaction() as transaction:
        row = await Account.get(id=1)
        row.balance = 2
        await row.save()
        await transaction.execute_query("ROLLBACK")  # as at a deadlock that the block catches
    assert (await Account.get(id=1)).balance == 1
    assert (await Account.cache.get(pk=1)).balance == 1


async def test_a_transaction_with_very_many_rows_stores_none(
    database: BaseDBAsyncClient, cache: ModelCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_rows, "MAX_SAVED_ROWS", 1)
    async with assert_ops(sql=2, redis=["mark_for_save", "clear"]), in_transaction():
        for number in (1, 2):
            await Account.create(id=number, email=f"{number}@example.org")
    assert counted(cache) == (0, 2, 0)


@pytest.mark.only_on("mariadb", because="only MySQL lets a transaction write rows that are newer than its snapshot")
async def test_a_save_after_an_old_snapshot_is_stored_as_it_is_now(
    database: BaseDBAsyncClient, cache: ModelCache, outside: Outside
) -> None:
    await Account.create(id=1, email="a@example.org", balance=1)
    async with in_transaction():
        await Account.all()
        await outside(change_balance(1, 7))
        row = Account(id=1, email="new@example.org", balance=1)
        row._saved_in_db = True
        await row.save(update_fields=["email"])
    await assert_cached(Account, 1, balance=7, email="new@example.org")


async def change_balance(pk: int, balance: int) -> None:
    await Account.filter(id=pk).update(balance=balance)


# Settings ------------------------------------------------------------------------------------------------


async def test_deferred_invalidation_stores_nothing(database: BaseDBAsyncClient, cache: ModelCache) -> None:
    row = await Account.create(id=1, email="a@example.org")
    async with deferred_invalidation():
        row.balance = 2
        await row.save()
        row.balance = 3
        await row.save()
    await assert_not_cached(Account, 1)
    assert counted(cache) == (1, 2, 0)


async def test_no_invalidation_stores_nothing(database: BaseDBAsyncClient, cache: ModelCache) -> None:
    row = await Account.create(id=1, email="a@example.org", balance=1)
    with no_invalidation():
        async with assert_ops(sql=1, redis=0):
            row.balance = 2
            await row.save()


@pytest.mark.parametrize("block", ["disabled", "disabled for the model", "without_fill"])
async def test_blocks_whose_lookups_store_nothing_store_no_saved_row(
    database: BaseDBAsyncClient, cache: ModelCache, block: str
) -> None:
    row = await Account.create(id=1, email="a@example.org")
    entered = {
        "disabled": cache.disabled(),
        "disabled for the model": cache.disabled(Account),
        "without_fill": cache.without_fill(),
    }[block]
    with entered:
        row.balance = 2
        await row.save()
        async with in_transaction():
            row.balance = 3
            await row.save()
    await assert_not_cached(Account, 1)
    with cache.disabled(Plain):
        await row.save()
    await assert_cached(Account, 1, balance=3)


async def test_a_row_that_was_stored_is_not_looked_up_again(database: BaseDBAsyncClient, cache: ModelCache) -> None:
    async with assert_ops(sql=1, redis=SAVED):
        await Refilled.create(id=1, text="a")
        await asyncio.sleep(0)
    await assert_cached(Refilled, 1, text="a")
    assert cache.stats.by_cache["Refilled"].reset == 0


async def test_a_save_on_another_connection_stores_nothing_for_the_own_one(
    database: BaseDBAsyncClient, cache: ModelCache, again: BaseDBAsyncClient
) -> None:
    row = await Account.create(id=1, email="a@example.org")
    row.balance = 2
    await row.save(using_db=again)
    await assert_not_cached(Account, 1)
    async with assert_ops(sql=0, redis=["read"]):
        assert (await Account.cache.using(again.connection_name).get(pk=1)).balance == 2


async def test_observers_are_told_of_rows_that_were_stored(database: BaseDBAsyncClient, backend_url: str) -> None:
    fills = Fills()
    async with ModelCache(backend_url, observers=[fills]):
        await Account.create(id=1, email="a@example.org")
        await Ticket.create(id=1, notes={})
    assert fills.notes == [("Account", True, None), ("Ticket", False, "released")]


async def test_derived_values_see_the_saved_row(database: BaseDBAsyncClient, cache: ModelCache) -> None:
    row = await Account.create(id=1, email="a@example.org", balance=1)
    assert await Account.cache.query(Account.filter(balance__gt=0)) == [row]
    row.balance = 0
    await row.save()
    assert await Account.cache.query(Account.filter(balance__gt=0)) == []
    assert [found.id for found in await Account.cache.filter(balance=0)] == [1]


async def test_the_setting_of_the_cache_applies_to_models_without_their_own(
    database: BaseDBAsyncClient, backend_url: str
) -> None:
    async with ModelCache(backend_url, write_through=True) as cache:
        await Plain.create(id=1, text="a")
        assert counted(cache, "Plain") == (1, 0, 0)


async def test_signed_rows_are_stored(database: BaseDBAsyncClient, backend_url: str) -> None:
    async with ModelCache(backend_url, secret=b"a secret of some length") as cache:
        await Account.create(id=1, email="a@example.org")
        assert (await Account.cache.get(pk=1)).email == "a@example.org"
        assert cache.stats.statements == 0


@ON_SQLITE
async def test_near_entries_are_replaced(database: BaseDBAsyncClient, backend_url: str) -> None:
    async with ModelCache(backend_url, near=backend_url != "memory://") as cache:
        row = await Account.create(id=1, email="a@example.org", balance=1)
        for balance in (2, 3):
            await Account.cache.get(pk=1)
            row.balance = balance
            await row.save()
            assert (await Account.cache.get(pk=1)).balance == balance
        assert cache.stats.statements == 0


@ON_SQLITE
async def test_a_store_that_fails_at_the_end_of_a_save_is_counted(
    database: BaseDBAsyncClient, gated: GatedBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache: ModelCache = gated.cache  # type: ignore[attr-defined]

    async def failing(*arguments: object) -> list[bool]:
        raise ConnectionError("on purpose")

    row = await Account.create(id=1, email="a@example.org", balance=1)
    monkeypatch.setattr(type(gated), "clear_and_save", property(lambda self: failing))
    row.balance = 2
    await row.save()
    assert counted(cache) == (1, 0, 1)
    await until(lambda: not cache.open_cache.guarded.has_undelivered)
    await assert_not_cached(Account, 1)


# Declarations --------------------------------------------------------------------------------------------


@ON_SQLITE
async def test_replicas_refuse_write_through(database: BaseDBAsyncClient, backend_url: str) -> None:
    with pytest.raises(CacheConfigurationError, match=r"Account\.CacheMeta\.write_through .*replica_lag"):
        await ModelCache(backend_url, replica_lag=1.0).open()


@ON_SQLITE
async def test_a_backend_without_the_operations_is_refused(database: BaseDBAsyncClient, backend_url: str) -> None:
    class Bare:
        def __init__(self) -> None:
            memory = MemoryBackend()
            for name in ("open", "close", "read", "lease", "fill", "mark", "clear", "delete"):
                setattr(self, name, getattr(memory, name))

    with pytest.raises(CacheConfigurationError, match="Account: write_through needs a backend"):
        await ModelCache(Bare()).open()  # type: ignore[arg-type]
    assert backend_url


def test_a_wrong_value_is_refused() -> None:
    from aiomodelcache.declare.options import parse_options

    with pytest.raises(CacheConfigurationError, match=r"Account\.write_through is 'yes': use True or False"):
        parse_options("Account", {"write_through": "yes"})
