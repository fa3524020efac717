"""Every form of bulk write: its result, exactly which rows it invalidates, and that nothing stale is left."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from tortoise.exceptions import BaseORMException, FieldError, IntegrityError
from tortoise.expressions import Case, F, Q, Subquery, When
from tortoise.functions import Count, Max
from tortoise.models import Model
from tortoise.queryset import QuerySet
from tortoise.transactions import in_transaction

from aiomodelcache import ModelCache
from aiomodelcache.orm.meta import meta_of
from tests.support.databases import DatabaseUrl, after_rollback
from tests.support.models.bulk_models import Account, Order, Profile, Status, Tag
from tests.support.oracle import Oracle

pytestmark = pytest.mark.models("tests.support.models.bulk_models")


def account_id(number: int) -> UUID:
    return UUID(int=number + 1)


async def populate() -> None:
    """Writes six accounts with two orders each, three profiles and two tags, unnoticed by the cache."""
    for model in (Profile, Order, Account, Tag):
        connection: Any = meta_of(model).db
        if model is Account:
            await connection.execute_script(f"DELETE FROM {meta_of(Account).fields_map['tags'].through}")
        await QuerySet(model).delete()
    accounts = [Account(id=account_id(n), number=n, plan=n % 2, credit=n * 10, limit=n) for n in range(6)]
    await QuerySet(Account).bulk_create(accounts)
    await QuerySet(Order).bulk_create(
        [
            Order(id=10 * n + m + 1, account_id=account_id(n), status=list(Status)[m], amount=Decimal(n + m))
            for n in range(6)
            for m in range(2)
        ]
    )
    await QuerySet(Profile).bulk_create([Profile(account_id=account_id(n), nick=n) for n in range(3)])
    await QuerySet(Tag).bulk_create([Tag(id=n + 1, label=f"t{n}") for n in range(2)])
    first, second = await QuerySet(Account).filter(number__lt=2).order_by("number")
    tags = await QuerySet(Tag).order_by("id")
    await first.tags.add(tags[0])
    await second.tags.add(*tags)


@dataclass
class Write:
    """A write that a queryset makes to the rows of a model."""

    model: type[Model]
    run: Callable[[QuerySet[Any]], Awaitable[Any]]
    new_values: dict[str, Iterable[Any]] = field(default_factory=dict)
    """Values by attribute that rows have only after the write."""


UPDATES: dict[str, Write] = {
    "values": Write(Account, lambda rows: rows.filter(credit__gte=30).update(plan=7, credit=77), {"plan": [7]}),
    "everything": Write(Account, lambda rows: rows.update(credit=1), {"credit": [1]}),
    "nothing": Write(Account, lambda rows: rows.filter(number=99).update(credit=1)),
    "negation": Write(Account, lambda rows: rows.exclude(number__in=[1, 2]).update(limit=99)),
    "alternatives": Write(Account, lambda rows: rows.filter(Q(number=1) | Q(credit=50)).update(plan=8), {"plan": [8]}),
    "a unique key": Write(Account, lambda rows: rows.filter(number=1).update(number=100), {"number": [100]}),
    "unique keys by F": Write(Account, lambda rows: rows.update(number=F("number") + 100), {"number": range(100, 106)}),
    "a field by another": Write(Account, lambda rows: rows.filter(number__gt=2).update(credit=F("limit"))),
    "a case": Write(
        Account,
        lambda rows: rows.update(plan=Case(When(credit__gt=20, then=F("number") + 50), default=F("plan") + 7)),
        {"plan": [7, 8, 53, 54, 55]},
    ),
    "a join": Write(
        Account, lambda rows: rows.filter(orders__status=Status.NEW, orders__amount__gt=2).update(limit=50)
    ),
    "a join back": Write(Order, lambda rows: rows.filter(account__plan=1).update(status=Status.SENT)),
    "many-to-many": Write(Account, lambda rows: rows.filter(tags__label="t0").update(plan=9), {"plan": [9]}),
    "many-to-many, matching a row twice": Write(
        Account, lambda rows: rows.filter(tags__label__in=["t0", "t1"]).update(plan=9), {"plan": [9]}
    ),
    "a subquery": Write(
        Account,
        lambda rows: rows.filter(id__in=Subquery(QuerySet(Order).filter(amount__gt=4).values("account_id"))).update(
            plan=4
        ),
        {"plan": [4]},
    ),
    "an annotation": Write(
        Account, lambda rows: rows.annotate(most=Max("orders__amount")).filter(most__gt=4).update(plan=3), {"plan": [3]}
    ),
    "a count": Write(Account, lambda rows: rows.annotate(n=Count("tags")).filter(n=0).update(plan=3), {"plan": [3]}),
    "a foreign key by its column": Write(
        Order, lambda rows: rows.filter(account_id=account_id(1)).update(account_id=account_id(5))
    ),
    "a foreign key by an instance": Write(
        Order,
        lambda rows: rows.filter(account=account_id(2)).update(
            account=Account(id=account_id(0), number=0), status=Status.SENT
        ),
    ),
    "an order and a limit": Write(
        Account, lambda rows: rows.order_by("-number").limit(2).update(plan=8), {"plan": [8]}
    ),
    "a limit of zero": Write(Account, lambda rows: rows.limit(0).update(plan=8), {"plan": [8]}),
    "a join, an order and a limit": Write(
        Order, lambda rows: rows.filter(account__plan=0).order_by("amount").limit(2).update(status=Status.SENT)
    ),
    "a decimal by F": Write(Order, lambda rows: rows.filter(status=Status.NEW).update(amount=F("amount") + 1)),
    "a foreign key as primary key": Write(
        Profile, lambda rows: rows.filter(nick__lt=2).update(nick=F("nick") + 50), {"nick": [50, 51]}
    ),
}
DELETES: dict[str, Write] = {
    "values": Write(Order, lambda rows: rows.filter(amount__gte=3).delete()),
    "everything": Write(Profile, lambda rows: rows.delete()),
    "nothing": Write(Order, lambda rows: rows.filter(amount=-1).delete()),
    "a join": Write(Order, lambda rows: rows.filter(account__plan=1).delete()),
    "a join, an order and a limit": Write(
        Order, lambda rows: rows.filter(account__plan=0).order_by("-amount").limit(2).delete()
    ),
    "cascading": Write(Account, lambda rows: rows.filter(number__in=[1, 2]).delete()),
    "cascading, by a join": Write(Account, lambda rows: rows.filter(tags__label="t0").delete()),
    "cascading, by an annotation": Write(
        Account, lambda rows: rows.annotate(n=Count("tags")).filter(n=0, number__gt=3).delete()
    ),
    "cascading, with an order and a limit": Write(
        Account, lambda rows: rows.filter(orders__amount__gte=0).order_by("-number").limit(1).delete()
    ),
    "cascading, with a limit": Write(Account, lambda rows: rows.order_by("number").limit(2).delete()),
}


class Rollback(Exception):
    pass


async def uncached_result(write: Write) -> Any:
    """Runs the write without the cache and rolls it back. Returns its result or the type of its error."""
    result: Any = None
    try:
        async with in_transaction():
            try:
                result = await write.run(QuerySet(write.model))
            except BaseORMException as error:
                result = type(error)
            raise Rollback
    except Rollback:
        return result


async def rows_of(model: type[Model]) -> dict[Any, dict[str, Any]]:
    rows: Any = await QuerySet(model).values(*meta_of(model).fields_db_projection)
    return {row[meta_of(model).pk_attr]: row for row in rows}


@pytest.mark.exhaustive(because="tries many writes")
@pytest.mark.slow(because="makes many kinds of writes")
@pytest.mark.parametrize("writes", [UPDATES, DELETES], ids=["update", "delete"])
async def test_a_bulk_write_invalidates_exactly_the_rows_that_it_changes(
    cache: ModelCache, writes: dict[str, Write]
) -> None:
    for name, write in writes.items():
        await populate()
        await cache.clear_all()
        models = [write.model] if writes is UPDATES else [Account, Order, Profile]
        oracle = Oracle(cache, *models)
        await oracle.warm(**write.new_values)
        expected = await uncached_result(write)
        before = {model: await rows_of(model) for model in models}
        assert await write.run(write.model.all()) == expected, name
        for model, rows in before.items():
            now = await rows_of(model)
            touched = {pk for pk, row in rows.items() if now.get(pk) != row}
            assert await oracle.invalidated(model) == touched, f"{name}: {model.__name__}"
        await oracle.check()


async def test_a_write_query_can_be_awaited_many_times(cache: ModelCache) -> None:
    await populate()
    oracle = Oracle(cache, Account, Order)
    update = Order.filter(account__plan=1).update(amount=F("amount") + 1)
    delete = Account.filter(orders__status=Status.SENT).delete()
    for query, verb in ((update, "UPDATE"), (delete, "DELETE")):
        assert query.sql().startswith(verb)
        assert query.sql(params_inline=True).startswith(verb)
    for _ in range(2):
        await oracle.warm()
        assert await update == 6
        await oracle.check()
    assert await asyncio.gather(update, update) == [6, 6]
    await oracle.check()
    assert await delete == 0
    await Order.filter(account=account_id(0)).update(status=Status.SENT)
    await oracle.warm()
    expected = await uncached_result(Write(Account, lambda rows: rows.filter(number=0).delete()))
    assert await delete == expected
    await oracle.check()
    selecting = Account.filter(number=1)
    assert isinstance(selecting, QuerySet)
    assert await selecting.explain()
    assert "SELECT" in selecting.only("id").sql()


async def test_a_write_query_runs_in_the_transaction_that_it_is_awaited_in(
    cache: ModelCache, db_url: DatabaseUrl
) -> None:
    await populate()
    oracle = Oracle(cache, Account)
    await oracle.warm(plan=[7])
    query = Account.filter(number=1).update(plan=7)
    with suppress(Rollback):
        async with in_transaction():
            assert await query == 1
            assert [each.number for each in await Account.cache.filter(plan=7)] == [1]
            raise Rollback
    assert await Account.cache.filter(plan=7) == []
    assert await oracle.invalidated(Account) == after_rollback(db_url, {account_id(1)})
    await oracle.warm(plan=[7])
    assert await query == 1
    assert await oracle.invalidated(Account) == {account_id(1)}
    await oracle.check()


@pytest.mark.parametrize("within", ["autocommit", "transaction"])
async def test_a_refused_bulk_write_raises_as_without_a_cache_and_invalidates_nothing(
    cache: ModelCache, db_url: DatabaseUrl, within: str
) -> None:
    await populate()
    oracle = Oracle(cache, Account, Order)
    await oracle.warm(number=[7])
    refused: list[tuple[type[Exception], Callable[[], Awaitable[Any]]]] = [
        (IntegrityError, lambda: Account.filter(number=1).update(number=2)),
        (IntegrityError, lambda: Account.all().update(number=7)),
        (IntegrityError, lambda: Order.filter(amount__lt=3).update(account_id=account_id(77))),
        (IntegrityError, lambda: Account.bulk_create([Account(id=account_id(1), number=7)])),
        (IntegrityError, lambda: Profile.bulk_update([Profile(account_id=account_id(1), nick=2)], fields=["nick"])),
        (FieldError, lambda: Account.all().update(wrong=1)),
        (FieldError, lambda: Account.filter(wrong=1).delete()),
        (IntegrityError, lambda: Account.all().update(id=account_id(9))),
        (ValueError, lambda: Account.bulk_update([Order(account_id=account_id(1))], fields=["note"])),
        (TypeError, lambda: Account.filter(number=1).update(credit=object())),
    ]
    if within == "autocommit" or db_url.dialect != "mariadb":  # a rollback there may leave the first of several rows
        refused.append((IntegrityError, lambda: Account.bulk_create([Account(number=7), Account(number=1)])))
    for error, write in refused:
        if within == "autocommit":
            with pytest.raises(error):
                await write()
        else:
            with pytest.raises(error):
                async with in_transaction():
                    await write()
        assert await oracle.invalidated(Account) == set()
        assert await QuerySet(Account).filter(number=1).count() == 1, "the connection is still usable"
    assert await Account.filter(number=1).update(number=7) == 1
    await oracle.check()


async def test_a_transaction_can_commit_after_a_refused_write(cache: ModelCache, db_url: DatabaseUrl) -> None:
    """SQLite and MariaDB continue the transaction. PostgreSQL needs a savepoint, as without a cache."""
    await populate()
    oracle = Oracle(cache, Account)
    await oracle.warm(plan=[7, 8], number=[7])
    async with in_transaction() as outer:
        assert await Account.filter(number=0).update(plan=7) == 1
        savepoint = in_transaction() if db_url.dialect == "postgres" else nullcontext()
        with suppress(IntegrityError):
            async with savepoint:
                await Account.filter(number=1).update(number=2)
                pytest.fail("the duplicate was not refused")
        assert await Account.filter(number=3).using_db(outer).update(plan=8) == 1
    assert await oracle.invalidated(Account) <= {account_id(n) for n in (0, 1, 3)}
    await oracle.check()


async def test_rows_written_in_a_savepoint_are_invalidated_at_the_outermost_commit(cache: ModelCache) -> None:
    """Rows of a savepoint that was rolled back are invalidated, too."""
    await populate()
    oracle = Oracle(cache, Account, Order)
    await oracle.warm(plan=[7, 8, 9])
    async with in_transaction():
        await Account.filter(number=0).update(plan=7)
        with suppress(Rollback):
            async with in_transaction():
                await Account.filter(number=1).update(plan=8)
                await Account.filter(number=5).delete()
                async with in_transaction():
                    await Account.filter(number=2).update(plan=9)
                raise Rollback
        async with in_transaction() as inner:
            await Account.filter(number=3).using_db(inner).update(plan=8)
            await Account.filter(number=4).using_db(inner).delete()
        assert await oracle.invalidated(Account) == set(), "rows were invalidated before the COMMIT"
    assert {each.number: each.plan for each in await QuerySet(Account)} == {0: 7, 1: 1, 2: 0, 3: 8, 5: 1}
    assert {account_id(n) for n in (0, 3, 4)} <= await oracle.invalidated(Account)
    await oracle.check()
