"""Races of bulk writes: with other writers of the rows that they match, and with readers around their COMMIT.

One writer uses a second connection, so the database's own locking decides each race.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from asyncpg.exceptions import SerializationError
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.expressions import F, Subquery
from tortoise.functions import Count
from tortoise.models import Model
from tortoise.queryset import QuerySet
from tortoise.transactions import in_transaction

from aiomodelcache import ModelCache
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.effort import share
from tests.support.gates import GatedBackend, Gates, Moment, Outside, awaited, gated_sql, until_it_waits
from tests.support.models.bulk_models import Account, Book, Order, Profile, Status
from tests.support.oracle import Oracle
from tests.write.test_bulk_writes import account_id, populate, rows_of

pytestmark = pytest.mark.models("tests.support.models.bulk_models")

MODELS: list[type[Model]] = [Account, Order, Profile, Book]


@pytest.fixture
def store(backend: CountingBackend) -> GatedBackend:
    return GatedBackend(backend.backend)


@pytest.fixture
async def cache(database: BaseDBAsyncClient, store: GatedBackend) -> AsyncIterator[ModelCache]:
    async with ModelCache(store) as opened:
        yield opened


async def warmed_oracle(cache: ModelCache, new_values: dict[str, Any]) -> Oracle:
    """Returns an oracle after caching all rows that a race begins with."""
    await populate_all()
    await cache.clear_all()
    oracle = Oracle(cache, *MODELS)
    await oracle.warm(**new_values)
    return oracle


async def assert_exact(oracle: Oracle, before: dict[type[Model], dict[Any, dict[str, Any]]], name: str) -> int:
    """Asserts that exactly the changed rows are invalidated. Returns the number of changed and created rows."""
    touched = 0
    for model, rows in before.items():
        now = await rows_of(model)
        changed = {pk for pk, row in rows.items() if now.get(pk) != row}
        assert await oracle.invalidated(model) & rows.keys() == changed, f"{name}: {model.__name__}"
        touched += len(changed) + len(now.keys() - rows.keys())
    await oracle.check()
    return touched


# Two writers ---------------------------------------------------------------------------------------------


@dataclass
class Race:
    """A bulk write that waits for a row lock of another writer, and the changes that the other writer makes."""

    other: Callable[[], Awaitable[Any]]
    """The other writer's changes, sent but not committed when the bulk write begins."""
    write: Callable[[BaseDBAsyncClient], Awaitable[Any]]
    new_values: dict[str, Any] = field(default_factory=dict)
    """Values by attribute that rows have only after the race."""
    rolled_back: bool = False
    """True if the other writer rolls back."""
    mariadb: bool = True


def accounts_with_plan_1(client: BaseDBAsyncClient) -> QuerySet[Account]:
    """Selects accounts 1, 3 and 5. The other writer holds the lock of account 1."""
    return Account.filter(plan=1).using_db(client)


def accounts_with_paid_order_by_join(client: BaseDBAsyncClient) -> QuerySet[Account]:
    return Account.filter(orders__status=Status.PAID, number__gt=0).using_db(client)


def accounts_with_paid_order_by_subquery(client: BaseDBAsyncClient) -> QuerySet[Account]:
    orders = QuerySet(Order).filter(status=Status.PAID).values("account_id")
    return Account.filter(id__in=Subquery(orders), number__gt=0).using_db(client)


def accounts_with_two_orders(client: BaseDBAsyncClient) -> QuerySet[Account]:
    return Account.annotate(n=Count("orders")).filter(n=2, number__gt=0).using_db(client)


async def write_outdated(client: BaseDBAsyncClient, **change: Any) -> Any:
    """Writes accounts 1, 3 and 5 with the values from before the other writer's changes."""
    accounts = [Account(id=account_id(n), number=n, plan=1, credit=10 * n, limit=n) for n in (1, 3, 5)]
    for account in accounts:
        account.update_from_dict(change)
    return await Account.all().using_db(client).bulk_update(accounts, fields=list(change))


def books(*numbers: int, shelf: int = 7) -> list[Book]:
    return [Book(number=number, shelf=shelf) for number in numbers]


RACES: dict[str, Race] = {
    "no matched row changes": Race(
        lambda: Account.filter(number=0).update(limit=0), lambda db: accounts_with_plan_1(db).update(credit=500)
    ),
    "a row stops matching": Race(
        lambda: Account.filter(number=3).update(plan=9),
        lambda db: accounts_with_plan_1(db).update(credit=500),
        {"plan": [9]},
    ),
    "a row starts matching": Race(
        lambda: Account.filter(number=0).update(plan=1), lambda db: accounts_with_plan_1(db).update(credit=500)
    ),
    "a row stops matching, rolled back": Race(
        lambda: Account.filter(number=3).update(plan=9),
        lambda db: accounts_with_plan_1(db).update(credit=500),
        rolled_back=True,
    ),
    "a row is deleted": Race(
        lambda: Account.filter(number=3).delete(), lambda db: accounts_with_plan_1(db).update(credit=500)
    ),
    "a row is created": Race(
        lambda: Account.bulk_create([Account(id=account_id(70), number=70, plan=1)]),
        lambda db: accounts_with_plan_1(db).update(credit=500),
        {"number": [70]},
    ),
    "a key that an expression reads is changed": Race(
        lambda: Account.filter(number=3).update(number=33, credit=7),
        lambda db: accounts_with_plan_1(db).update(number=F("number") + 100, credit=F("credit") + 1),
        {"number": [33, 101, 103, 105, 133]},
    ),
    "the filter's key is written": Race(
        lambda: Account.filter(number=3).update(plan=2),
        lambda db: accounts_with_plan_1(db).update(plan=F("plan") + 1),
        {"plan": [2, 3]},
    ),
    "a row leaves a list that the update reorders": Race(
        lambda: Account.filter(number=3).update(plan=8),
        lambda db: Account.filter(number__in=[1, 3]).using_db(db).update(credit=500),
        {"plan": [8], "credit": [500]},
    ),
    "the joined rows are deleted": Race(
        lambda: Order.filter(account_id=account_id(3)).delete(),
        lambda db: accounts_with_paid_order_by_join(db).update(credit=500),
    ),
    "the rows of a subquery are changed": Race(
        lambda: Order.filter(account_id=account_id(3)).update(status=Status.SENT),
        lambda db: accounts_with_paid_order_by_subquery(db).update(credit=500),
    ),
    "the count of an annotation grows": Race(
        lambda: Order.bulk_create([Order(id=500, account_id=account_id(3))]),
        lambda db: accounts_with_two_orders(db).update(credit=500),
    ),
    "a row of a delete stops matching": Race(
        lambda: Order.filter(account_id=account_id(1)).update(status=Status.SENT),
        lambda db: Order.filter(status=Status.NEW).using_db(db).delete(),
    ),
    "a deleted row gains a child": Race(
        lambda: Order.filter(account_id=account_id(0)).update(account_id=account_id(3)),
        lambda db: accounts_with_plan_1(db).delete(),
    ),
    "a deleted row loses a child": Race(
        lambda: Order.filter(account_id=account_id(3)).update(account_id=account_id(0)),
        lambda db: accounts_with_plan_1(db).delete(),
    ),
    "a child of a deleted row is created": Race(
        lambda: Order.bulk_create([Order(id=500, account_id=account_id(3))]),
        lambda db: accounts_with_plan_1(db).delete(),
    ),
    "a row of a cascading delete is deleted first": Race(
        lambda: Account.filter(number=3).delete(), lambda db: accounts_with_plan_1(db).delete()
    ),
    "a row of a bulk_update is in another list": Race(
        lambda: Account.filter(number=3).update(plan=8),
        lambda db: write_outdated(db, credit=500),
        {"plan": [8], "credit": [500]},
    ),
    "a row of a bulk_update is deleted": Race(
        lambda: Account.filter(number=3).delete(), lambda db: write_outdated(db, credit=500, limit=6), {"credit": [500]}
    ),
    "a conflict is ignored": Race(
        lambda: Book.bulk_create(books(50)),
        lambda db: Book.bulk_create(books(49, 50, 51, 2), ignore_conflicts=True, using_db=db),
        {"number": [49, 50, 51], "shelf": [7]},
    ),
    "a conflict is rolled back": Race(
        lambda: Book.bulk_create(books(50)),
        lambda db: Book.bulk_create(books(49, 50, 51, 2), ignore_conflicts=True, using_db=db),
        {"number": [49, 50, 51], "shelf": [7]},
        rolled_back=True,
    ),
    "a conflict updates": Race(
        lambda: Book.bulk_create(books(50)),
        lambda db: Book.bulk_create(
            books(50, 51, 2, shelf=8), on_conflict=["number"], update_fields=["shelf"], using_db=db
        ),
        {"number": [50, 51], "shelf": [7, 8]},
        mariadb=False,
    ),
}


class Rollback(Exception):
    pass


async def populate_all() -> None:
    """Writes the rows that every race begins with."""
    await populate()
    await QuerySet(Book).delete()
    await QuerySet(Book).bulk_create([Book(number=n, shelf=n % 2) for n in range(4)])


async def start_race(
    race: Race, database: BaseDBAsyncClient, again: BaseDBAsyncClient, outside: Outside
) -> asyncio.Task[Any]:
    """Runs the other writer while the bulk write waits for it. Returns the task of the bulk write."""
    with suppress(Rollback):
        async with in_transaction(database.connection_name):
            await Account.filter(number=1).update(limit=99)
            await race.other()
            async with assert_ops() as ops:
                writing = outside(awaited(race.write(again)))
                await until_it_waits(database, ops)
            if race.rolled_back:
                raise Rollback
    return writing


async def database_contents() -> dict[type[Model], list[str]]:
    """Returns all rows in the database, without the primary keys that it generated."""
    return {
        model: sorted(repr([*row.items()][model is Book :]) for row in (await rows_of(model)).values())
        for model in MODELS
    }


@pytest.mark.exhaustive(because="tries every moment of a race")
async def test_a_bulk_write_invalidates_exactly_its_rows_when_another_writer_changes_its_matches(
    database: BaseDBAsyncClient, store: GatedBackend, again: BaseDBAsyncClient, outside: Outside
) -> None:
    """The database ends as without a cache, and exactly the rows that the bulk write changed are invalidated.

    The rows that the other writer changed are in the cache again by then.
    """
    for name, race in RACES.items() if "sqlite" in database.connection_name else share(RACES.items(), one_in=4):
        if not race.mariadb and database.connection_name == "mariadb":
            continue  # MariaDB refuses the statement that Tortoise sends for `on_conflict`
        await populate_all()
        await (await start_race(race, database, again, outside))
        expected = await database_contents()
        async with ModelCache(store) as cache:
            oracle = await warmed_oracle(cache, race.new_values)
            held = store.hold("mark", skip=0 if race.rolled_back else 1)
            writing = await start_race(race, database, again, outside)
            await held.reached()
            await oracle.warm()
            before = {model: await rows_of(model) for model in MODELS}
            held.open()
            await writing
            assert await assert_exact(oracle, before, name), name
            assert await database_contents() == expected, name


# Readers, and two writers of the same rows ------------------------------------------------------------------------


WRITES: dict[str, Callable[[BaseDBAsyncClient], Awaitable[Any]]] = {
    "update": lambda db: accounts_with_plan_1(db).update(number=F("number") + 100, plan=7),
    "update by a join": lambda db: accounts_with_paid_order_by_join(db).update(plan=7, credit=F("credit") + 1),
    "delete": lambda db: Order.filter(account__plan=1).using_db(db).delete(),
    "delete that cascades": lambda db: accounts_with_plan_1(db).delete(),
    "bulk_update": lambda db: write_outdated(db, credit=500, limit=6),
    "bulk_create": lambda db: Account.bulk_create(
        [Account(id=account_id(n), number=n, plan=7) for n in (101, 103)], using_db=db
    ),
}
ALSO: dict[str, Any] = {
    "id": [account_id(101), account_id(103)],
    "number": [101, 103, 105],
    "plan": [7],
    "credit": [31, 500],
}


def affected_lookups() -> list[Any]:
    """Returns lookups by every kind of key, for rows that the writes change, delete and create."""
    return [
        *[Account.cache.get_or_none(id=account_id(n)) for n in (3, 103)],
        *[Account.cache.get_or_none(number=n) for n in (3, 103)],
        *[Account.cache.filter(plan=n) for n in (1, 7)],
        Order.cache.filter(account=account_id(3)),
    ]


STEPS: list[tuple[str, Moment, int]] = [
    (operation, moment, skip)
    for operation, skip in (("lease", 0), ("SELECT", 0), ("lease", 1), ("fill", 0))
    for moment in ("before", "after")
]
"""Steps at which a reader is held after a miss. The second lease is the late lease of rows found by an index."""


@pytest.mark.exhaustive(because="tries every moment of a race")
async def test_a_bulk_write_at_any_step_of_a_reader_leaves_nothing_stale(
    cache: ModelCache, store: GatedBackend, database: BaseDBAsyncClient, again: BaseDBAsyncClient
) -> None:
    for number, (name, write) in enumerate(WRITES.items()):
        for operation, moment, skip in STEPS[number % 2 :: 2]:
            oracle = await warmed_oracle(cache, ALSO)
            await cache.clear_all()
            with gated_sql(database) as sql:
                gate = (sql if operation == "SELECT" else store).hold(operation, moment, skip=skip)
                reader = asyncio.gather(*[query.resolve() for query in affected_lookups()])
                await gate.reached()
                await write(again)
                gate.open()
                await reader
            with note_on_failure(f"{name}; the reader {moment} {operation} {skip}"):
                await oracle.check()


MOMENTS: list[tuple[str, Moment]] = [
    (operation, moment) for operation in ("mark", "commit", "clear") for moment in ("before", "after")
]


@pytest.mark.exhaustive(because="tries every moment of a race")
async def test_readers_around_the_commit_of_a_bulk_write_see_exactly_its_rows_invalidated(
    cache: ModelCache, store: GatedBackend, database: BaseDBAsyncClient, again: BaseDBAsyncClient, outside: Outside
) -> None:
    """Readers fill entries at each moment, find current values, and only the written rows are invalidated."""

    async def in_a_transaction(write: Callable[[BaseDBAsyncClient], Awaitable[Any]], gates: Gates) -> None:
        async with in_transaction(again.connection_name) as client:
            commit: Any = client.commit
            client.commit = lambda: gates.through("commit", commit)  # type: ignore[method-assign]
            await write(client)

    for number, (name, write) in enumerate(WRITES.items()):
        for operation, moment in MOMENTS[number % 2 :: 2]:
            oracle = await warmed_oracle(cache, ALSO)
            before = {model: await rows_of(model) for model in MODELS}
            gates = Gates()
            gate = (gates if operation == "commit" else store).hold(operation, moment)
            writing = outside(in_a_transaction(write, gates) if operation == "commit" else awaited(write(again)))
            await gate.reached()
            await oracle.warm()
            gate.open()
            await writing
            with note_on_failure(f"{name}; readers {moment} {operation}"):
                if (operation, moment) == ("clear", "after"):
                    assert not any([await oracle.invalidated(model) for model in MODELS])
                    await oracle.check()
                else:
                    await assert_exact(oracle, before, name)


@pytest.mark.exhaustive(because="tries every moment of a race")
@pytest.mark.parametrize("first_ends_first", [True, False])
async def test_each_of_two_bulk_writes_of_the_same_rows_keeps_its_intents_until_it_ends(
    cache: ModelCache,
    store: GatedBackend,
    database: BaseDBAsyncClient,
    again: BaseDBAsyncClient,
    outside: Outside,
    first_ends_first: bool,
) -> None:
    """Both have committed with intents in place. The later write's intents stay until that write ends."""
    pairs = [
        ("bulk_update", "update"),
        ("bulk_update", "update by a join"),
        ("update", "bulk_update"),
        ("delete", "delete that cascades"),
        ("delete that cascades", "bulk_create"),
    ]
    for names in pairs:
        oracle = await warmed_oracle(cache, ALSO)
        ends, writers = [], []
        for name, client in zip(names, (again, database), strict=True):
            before = {model: await rows_of(model) for model in MODELS}
            end = store.hold("clear")
            writers.append(outside(awaited(WRITES[name](client))))
            await end.reached()
            ends.append(end)
        order = (0, 1) if first_ends_first else (1, 0)
        ends[order[0]].open()
        await writers[order[0]]
        with note_on_failure(" and ".join(names)):
            if first_ends_first and database.connection_name != "sqlite":
                await oracle.warm()
                await assert_exact(oracle, before, names[1])
            ends[order[1]].open()
            await writers[order[1]]
            await oracle.check()


@contextmanager
def note_on_failure(note: str) -> Iterator[None]:
    try:
        yield
    except AssertionError as error:
        error.add_note(note)
        raise


# Savepoints and isolation --------------------------------------------------------------------------------------


@pytest.mark.exhaustive(because="tries every moment of a race")
@pytest.mark.parametrize("outer", ["committed", "rolled back"])
@pytest.mark.parametrize("inner", ["released", "rolled back"])
async def test_a_bulk_write_in_a_savepoint_invalidates_at_the_outermost_commit(
    cache: ModelCache, database: BaseDBAsyncClient, inner: str, outer: str
) -> None:
    for name, write in WRITES.items():
        oracle = await warmed_oracle(cache, ALSO)
        before = {model: await rows_of(model) for model in MODELS}
        with suppress(Rollback):
            async with in_transaction(database.connection_name):
                await Book.filter(number=1).update(shelf=6)
                with suppress(Rollback):
                    async with in_transaction(database.connection_name) as savepoint:
                        await write(savepoint)
                        if inner == "rolled back":
                            raise Rollback
                if inner == "rolled back":
                    await Book.filter(number=2).update(shelf=6)
                for model in MODELS:
                    assert await oracle.invalidated(model) == set(), "rows were invalidated before the COMMIT"
                if outer == "rolled back":
                    raise Rollback
        with note_on_failure(name):
            may_survive = outer == "rolled back" and database.capabilities.dialect == "mysql"
            if (inner, outer) == ("rolled back", "committed") or may_survive:  # undone rows are invalidated, too
                assert {row["number"] for row in before[Book].values() if row["shelf"] != 6}
                await oracle.check()
            else:
                await assert_exact(oracle, before, name)


@pytest.mark.only_on(
    "postgres", "mariadb", because="SQLite refuses to write in a transaction that has read an older state"
)
async def test_a_bulk_write_from_an_older_snapshot_invalidates_the_rows_that_it_changes(
    cache: ModelCache, database: BaseDBAsyncClient, again: BaseDBAsyncClient
) -> None:
    """Under REPEATABLE READ, reads see an older snapshot, while writes change current rows or are refused.

    REPEATABLE READ is the default of MariaDB. For PostgreSQL the test selects it.
    """
    writes: list[Callable[[BaseDBAsyncClient], Awaitable[Any]]] = [
        lambda db: Account.filter(number=3).using_db(db).update(credit=500),
        lambda db: write_outdated(db, credit=500),
        lambda db: accounts_with_plan_1(db).update(limit=F("limit") + 50),
        lambda db: accounts_with_plan_1(db).delete(),
        lambda db: Book.bulk_create(books(70, 71), using_db=db),
    ]
    for write in writes:
        oracle = await warmed_oracle(cache, {**ALSO, "plan": [7, 8], "shelf": [7]})
        with suppress(SerializationError):  # PostgreSQL refuses to write a row that has changed
            async with in_transaction(again.connection_name) as client:
                if database.connection_name == "postgres":
                    await client.execute_query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                assert len(await QuerySet(Account).using_db(client)) == 6
                await Account.filter(number=3).update(plan=8)
                await Book.bulk_create(books(60))
                await oracle.warm()
                before = {model: await rows_of(model) for model in MODELS}
                await write(client)
        await assert_exact(oracle, before, "older snapshot")
