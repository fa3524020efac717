"""Bulk writes that race: with other writers for what their filter matches, and with readers around their COMMIT.

One writer is on a second connection to the same database, so that each database decides by its own rules.
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


async def fresh(cache: ModelCache, also: dict[str, Any]) -> Oracle:
    """All rows that a race begins with are in the cache."""
    await populated()
    await cache.clear_all()
    oracle = Oracle(cache, *MODELS)
    await oracle.warm(**also)
    return oracle


async def assert_exact(oracle: Oracle, before: dict[type[Model], dict[Any, dict[str, Any]]], name: str) -> int:
    """Asserts that of all rows just those are forgotten that are not as they were. Returns how many these are."""
    touched = 0
    for model, rows in before.items():
        now = await rows_of(model)
        changed = {pk for pk, row in rows.items() if now.get(pk) != row}
        assert await oracle.forgotten(model) & rows.keys() == changed, f"{name}: {model.__name__}"
        touched += len(changed) + len(now.keys() - rows.keys())
    await oracle.check()
    return touched


# Two writers ---------------------------------------------------------------------------------------------


@dataclass
class Race:
    """A bulk write that waits for another writer's row, and what that one has changed when it goes on."""

    other: Callable[[], Awaitable[Any]]
    """Is written, but not committed, when the write begins."""
    write: Callable[[BaseDBAsyncClient], Awaitable[Any]]
    also: dict[str, Any] = field(default_factory=dict)
    rolled_back: bool = False
    """The other writer takes it all back."""
    mariadb: bool = True


def plan_1(client: BaseDBAsyncClient) -> QuerySet[Account]:
    """Three accounts: 1, which the other writer holds, 3 and 5."""
    return Account.filter(plan=1).using_db(client)


def paid(client: BaseDBAsyncClient) -> QuerySet[Account]:
    return Account.filter(orders__status=Status.PAID, number__gt=0).using_db(client)


def ordered(client: BaseDBAsyncClient) -> QuerySet[Account]:
    orders = QuerySet(Order).filter(status=Status.PAID).values("account_id")
    return Account.filter(id__in=Subquery(orders), number__gt=0).using_db(client)


def with_two_orders(client: BaseDBAsyncClient) -> QuerySet[Account]:
    return Account.annotate(n=Count("orders")).filter(n=2, number__gt=0).using_db(client)


async def outdated(client: BaseDBAsyncClient, **change: Any) -> Any:
    """Writes accounts 1, 3 and 5 as they were before the other writer came."""
    accounts = [Account(id=account_id(n), number=n, plan=1, credit=10 * n, limit=n) for n in (1, 3, 5)]
    for account in accounts:
        account.update_from_dict(change)
    return await Account.all().using_db(client).bulk_update(accounts, fields=list(change))


def books(*numbers: int, shelf: int = 7) -> list[Book]:
    return [Book(number=number, shelf=shelf) for number in numbers]


RACES: dict[str, Race] = {
    "nothing": Race(lambda: Account.filter(number=0).update(limit=0), lambda db: plan_1(db).update(credit=500)),
    "a row stops to match": Race(
        lambda: Account.filter(number=3).update(plan=9), lambda db: plan_1(db).update(credit=500), {"plan": [9]}
    ),
    "a row starts to match": Race(
        lambda: Account.filter(number=0).update(plan=1), lambda db: plan_1(db).update(credit=500)
    ),
    "a row stops to match, rolled back": Race(
        lambda: Account.filter(number=3).update(plan=9), lambda db: plan_1(db).update(credit=500), rolled_back=True
    ),
    "a row is gone": Race(lambda: Account.filter(number=3).delete(), lambda db: plan_1(db).update(credit=500)),
    "a row is new": Race(
        lambda: Account.bulk_create([Account(id=account_id(70), number=70, plan=1)]),
        lambda db: plan_1(db).update(credit=500),
        {"number": [70]},
    ),
    "a key changes that an expression reads": Race(
        lambda: Account.filter(number=3).update(number=33, credit=7),
        lambda db: plan_1(db).update(number=F("number") + 100, credit=F("credit") + 1),
        {"number": [33, 101, 103, 105, 133]},
    ),
    "the filter's key itself is written": Race(
        lambda: Account.filter(number=3).update(plan=2),
        lambda db: plan_1(db).update(plan=F("plan") + 1),
        {"plan": [2, 3]},
    ),
    "a list is left that an update moves rows in": Race(
        lambda: Account.filter(number=3).update(plan=8),
        lambda db: Account.filter(number__in=[1, 3]).using_db(db).update(credit=500),
        {"plan": [8], "credit": [500]},
    ),
    "what a join finds is gone": Race(
        lambda: Order.filter(account_id=account_id(3)).delete(), lambda db: paid(db).update(credit=500)
    ),
    "what a subquery finds is changed": Race(
        lambda: Order.filter(account_id=account_id(3)).update(status=Status.SENT),
        lambda db: ordered(db).update(credit=500),
    ),
    "what an annotation counts is more": Race(
        lambda: Order.bulk_create([Order(id=500, account_id=account_id(3))]),
        lambda db: with_two_orders(db).update(credit=500),
    ),
    "a deleted row stops to match": Race(
        lambda: Order.filter(account_id=account_id(1)).update(status=Status.SENT),
        lambda db: Order.filter(status=Status.NEW).using_db(db).delete(),
    ),
    "a deleted row's child moves here": Race(
        lambda: Order.filter(account_id=account_id(0)).update(account_id=account_id(3)),
        lambda db: plan_1(db).delete(),
    ),
    "a deleted row's child moves away": Race(
        lambda: Order.filter(account_id=account_id(3)).update(account_id=account_id(0)),
        lambda db: plan_1(db).delete(),
    ),
    "a deleted row's child is new": Race(
        lambda: Order.bulk_create([Order(id=500, account_id=account_id(3))]), lambda db: plan_1(db).delete()
    ),
    "a row that is to be deleted with its children is gone": Race(
        lambda: Account.filter(number=3).delete(), lambda db: plan_1(db).delete()
    ),
    "a bulk_update finds another list": Race(
        lambda: Account.filter(number=3).update(plan=8),
        lambda db: outdated(db, credit=500),
        {"plan": [8], "credit": [500]},
    ),
    "a bulk_update misses a row": Race(
        lambda: Account.filter(number=3).delete(), lambda db: outdated(db, credit=500, limit=6), {"credit": [500]}
    ),
    "a conflict that is ignored": Race(
        lambda: Book.bulk_create(books(50)),
        lambda db: Book.bulk_create(books(49, 50, 51, 2), ignore_conflicts=True, using_db=db),
        {"number": [49, 50, 51], "shelf": [7]},
    ),
    "a conflict that is rolled back": Race(
        lambda: Book.bulk_create(books(50)),
        lambda db: Book.bulk_create(books(49, 50, 51, 2), ignore_conflicts=True, using_db=db),
        {"number": [49, 50, 51], "shelf": [7]},
        rolled_back=True,
    ),
    "a conflict that updates": Race(
        lambda: Book.bulk_create(books(50)),
        lambda db: Book.bulk_create(
            books(50, 51, 2, shelf=8), on_conflict=["number"], update_fields=["shelf"], using_db=db
        ),
        {"number": [50, 51], "shelf": [7, 8]},
        mariadb=False,
    ),
}


class Undone(Exception):
    pass


async def populated() -> None:
    """The rows that every race begins with."""
    await populate()
    await QuerySet(Book).delete()
    await QuerySet(Book).bulk_create([Book(number=n, shelf=n % 2) for n in range(4)])


async def run(race: Race, database: BaseDBAsyncClient, again: BaseDBAsyncClient, outside: Outside) -> asyncio.Task[Any]:
    """The other writer comes and goes. Returns the write, which can go on then."""
    with suppress(Undone):
        async with in_transaction(database.connection_name):
            await Account.filter(number=1).update(limit=99)
            await race.other()
            async with assert_ops() as ops:
                writing = outside(awaited(race.write(again)))
                await until_it_waits(database, ops)
            if race.rolled_back:
                raise Undone
    return writing


async def end() -> dict[type[Model], list[str]]:
    """What is in the database, but for the primary keys that it made."""
    return {
        model: sorted(repr([*row.items()][model is Book :]) for row in (await rows_of(model)).values())
        for model in MODELS
    }


@pytest.mark.slow(because="tries every moment of a race")
async def test_another_writer_changes_what_is_matched(
    database: BaseDBAsyncClient, store: GatedBackend, again: BaseDBAsyncClient, outside: Outside
) -> None:
    """The database ends as without a cache, and exactly what the write itself has touched is forgotten.

    What the other one changed is in the cache again by then.
    """
    for name, race in RACES.items():
        if not race.mariadb and database.connection_name == "mariadb":
            continue  # which refuses what Tortoise sends for `on_conflict`
        await populated()
        await (await run(race, database, again, outside))
        expected = await end()
        async with ModelCache(store) as cache:
            oracle = await fresh(cache, race.also)
            held = store.hold("mark", skip=0 if race.rolled_back else 1)
            writing = await run(race, database, again, outside)
            await held.reached()
            await oracle.warm()
            before = {model: await rows_of(model) for model in MODELS}
            held.open()
            await writing
            assert await assert_exact(oracle, before, name), name
            assert await end() == expected, name


# Readers, and two that write the same ------------------------------------------------------------------------


WRITES: dict[str, Callable[[BaseDBAsyncClient], Awaitable[Any]]] = {
    "update": lambda db: plan_1(db).update(number=F("number") + 100, plan=7),
    "update by a join": lambda db: paid(db).update(plan=7, credit=F("credit") + 1),
    "delete": lambda db: Order.filter(account__plan=1).using_db(db).delete(),
    "delete that cascades": lambda db: plan_1(db).delete(),
    "bulk_update": lambda db: outdated(db, credit=500, limit=6),
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


def looked_up() -> list[Any]:
    """What readers ask for: rows that the writes change, delete and create, by every kind of key."""
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
"""Where a reader that misses is held. The second lease is the late one, of what is found by an index."""


@pytest.mark.slow(because="tries every moment of a race")
async def test_a_bulk_write_at_any_step_of_a_reader(
    cache: ModelCache, store: GatedBackend, database: BaseDBAsyncClient, again: BaseDBAsyncClient
) -> None:
    for number, (name, write) in enumerate(WRITES.items()):
        for operation, moment, skip in STEPS[number % 2 :: 2]:
            oracle = await fresh(cache, ALSO)
            await cache.clear_all()
            with gated_sql(database) as sql:
                gate = (sql if operation == "SELECT" else store).hold(operation, moment, skip=skip)
                reader = asyncio.gather(*[query.resolve() for query in looked_up()])
                await gate.reached()
                await write(again)
                gate.open()
                await reader
            with noted(f"{name}; the reader {moment} {operation} {skip}"):
                await oracle.check()


MOMENTS: list[tuple[str, Moment]] = [
    (operation, moment) for operation in ("mark", "commit", "clear") for moment in ("before", "after")
]


@pytest.mark.slow(because="tries every moment of a race")
async def test_readers_at_any_moment_around_the_commit_of_a_bulk_write(
    cache: ModelCache, store: GatedBackend, database: BaseDBAsyncClient, again: BaseDBAsyncClient, outside: Outside
) -> None:
    """They fill whatever they may, and find what is true; and of all rows just those written are gone."""

    async def in_a_transaction(write: Callable[[BaseDBAsyncClient], Awaitable[Any]], gates: Gates) -> None:
        async with in_transaction(again.connection_name) as client:
            commit: Any = client.commit
            client.commit = lambda: gates.through("commit", commit)  # type: ignore[method-assign]
            await write(client)

    for number, (name, write) in enumerate(WRITES.items()):
        for operation, moment in MOMENTS[number % 2 :: 2]:
            oracle = await fresh(cache, ALSO)
            before = {model: await rows_of(model) for model in MODELS}
            gates = Gates()
            gate = (gates if operation == "commit" else store).hold(operation, moment)
            writing = outside(in_a_transaction(write, gates) if operation == "commit" else awaited(write(again)))
            await gate.reached()
            await oracle.warm()
            gate.open()
            await writing
            with noted(f"{name}; readers {moment} {operation}"):
                if (operation, moment) == ("clear", "after"):
                    assert not any([await oracle.forgotten(model) for model in MODELS])
                    await oracle.check()
                else:
                    await assert_exact(oracle, before, name)


@pytest.mark.slow(because="tries every moment of a race")
@pytest.mark.parametrize("first_ends_first", [True, False])
async def test_two_bulk_writes_of_the_same_rows(
    cache: ModelCache,
    store: GatedBackend,
    database: BaseDBAsyncClient,
    again: BaseDBAsyncClient,
    outside: Outside,
    first_ends_first: bool,
) -> None:
    """Both have committed and neither has withdrawn its intents: those of the later one stand until it does."""
    pairs = [
        ("bulk_update", "update"),
        ("bulk_update", "update by a join"),
        ("update", "bulk_update"),
        ("delete", "delete that cascades"),
        ("delete that cascades", "bulk_create"),
    ]
    for names in pairs:
        oracle = await fresh(cache, ALSO)
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
        with noted(" and ".join(names)):
            if first_ends_first and database.connection_name != "sqlite":
                await oracle.warm()
                await assert_exact(oracle, before, names[1])
            ends[order[1]].open()
            await writers[order[1]]
            await oracle.check()


@contextmanager
def noted(note: str) -> Iterator[None]:
    try:
        yield
    except AssertionError as error:
        error.add_note(note)
        raise


# Savepoints and isolation --------------------------------------------------------------------------------------


@pytest.mark.slow(because="tries every moment of a race")
@pytest.mark.parametrize("outer", ["committed", "rolled back"])
@pytest.mark.parametrize("inner", ["released", "rolled back"])
async def test_a_bulk_write_in_a_savepoint(
    cache: ModelCache, database: BaseDBAsyncClient, inner: str, outer: str
) -> None:
    for name, write in WRITES.items():
        oracle = await fresh(cache, ALSO)
        before = {model: await rows_of(model) for model in MODELS}
        with suppress(Undone):
            async with in_transaction(database.connection_name):
                await Book.filter(number=1).update(shelf=6)
                with suppress(Undone):
                    async with in_transaction(database.connection_name) as savepoint:
                        await write(savepoint)
                        if inner == "rolled back":
                            raise Undone
                if inner == "rolled back":
                    await Book.filter(number=2).update(shelf=6)
                for model in MODELS:
                    assert await oracle.forgotten(model) == set(), "nothing is forgotten before the COMMIT"
                if outer == "rolled back":
                    raise Undone
        with noted(name):
            if inner == "rolled back" and outer == "committed":  # the savepoint's rows are forgotten, too
                assert {row["number"] for row in before[Book].values() if row["shelf"] != 6}
                await oracle.check()
            else:
                await assert_exact(oracle, before, name)


@pytest.mark.only_on(
    "postgres", "mariadb", because="SQLite refuses to write in a transaction that has read an older state"
)
async def test_a_transaction_that_sees_an_older_state(
    cache: ModelCache, database: BaseDBAsyncClient, again: BaseDBAsyncClient
) -> None:
    """By default in MariaDB, by choice in PostgreSQL: what was read once does not change, what is written is new."""
    writes: list[Callable[[BaseDBAsyncClient], Awaitable[Any]]] = [
        lambda db: Account.filter(number=3).using_db(db).update(credit=500),
        lambda db: outdated(db, credit=500),
        lambda db: plan_1(db).update(limit=F("limit") + 50),
        lambda db: plan_1(db).delete(),
        lambda db: Book.bulk_create(books(70, 71), using_db=db),
    ]
    for write in writes:
        oracle = await fresh(cache, {**ALSO, "plan": [7, 8], "shelf": [7]})
        with suppress(SerializationError):  # as PostgreSQL refuses to write what has changed
            async with in_transaction(again.connection_name) as client:
                if database.connection_name == "postgres":
                    await client.execute_query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                assert len(await QuerySet(Account).using_db(client)) == 6
                await Account.filter(number=3).update(plan=8)
                await Book.bulk_create(books(60))
                await oracle.warm()
                before = {model: await rows_of(model) for model in MODELS}
                await write(client)
        await assert_exact(oracle, before, "older")
