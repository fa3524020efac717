"""Users' triggers on SQLite fire for users' writes only, not for the lock that the library takes, which is one.

The other databases lock rows by ``SELECT ... FOR UPDATE``, for which no trigger fires.
"""

import sqlite3
from collections import Counter
from contextlib import AbstractContextManager, closing
from typing import Any, cast

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import OperationalError
from tortoise.transactions import in_transaction

from aiomodelcache import ModelCache
from aiomodelcache.orm.snapshots import lock_database
from aiomodelcache.testing import CountingBackend
from tests.costs.test_write_costs import ADA, MEASURED, MODELS, Meter, Write, populate
from tests.support.models.cost_models import User

pytestmark = [
    pytest.mark.models("tests.support.models.cost_models"),
    pytest.mark.only_on("sqlite", because="other databases lock rows without writing to them"),
]

THROUGH_TABLES = ("badge_wearer", "badge_scrap", "badge_maker")


async def log_triggers(client: BaseDBAsyncClient) -> None:
    """Creates triggers for every kind of write to every table, which log what they fire for."""
    tables = [*(model._meta.db_table for model in MODELS), *THROUGH_TABLES]
    await client.execute_script("CREATE TABLE fired (what TEXT)")
    for table in tables:
        for number, event in enumerate(("INSERT", "UPDATE", "DELETE")):
            for time in ("BEFORE", "AFTER"):
                await client.execute_script(
                    f'CREATE TRIGGER "{time}_{number}_{table}" {time} {event} ON "{table}" '
                    f"BEGIN INSERT INTO fired VALUES ('{time} {event} {table}'); END"
                )


async def fired(client: BaseDBAsyncClient) -> Counter[str]:
    """Returns the triggers that have fired since the last call."""
    rows = await client.execute_query_dict("SELECT what FROM fired")
    await client.execute_script("DELETE FROM fired")
    return Counter([row["what"] for row in rows])


async def fired_by(write: Write, meter: Meter, client: BaseDBAsyncClient) -> Counter[str]:
    await populate()
    await fired(client)
    await write(meter)
    return await fired(client)


def elsewhere(client: BaseDBAsyncClient) -> AbstractContextManager[sqlite3.Connection]:
    """Another connection to the same file, which waits for no lock."""
    return closing(sqlite3.connect(cast("Any", client).filename, timeout=0, isolation_level=None))


@pytest.mark.slow(because="makes every kind of write")
async def test_each_write_fires_the_triggers_that_it_fires_without_a_cache(
    database: BaseDBAsyncClient, backend: CountingBackend
) -> None:
    await log_triggers(database)
    for name, write in MEASURED.items():
        without = await fired_by(write, Meter(backend), database)
        async with ModelCache(backend, bulk_limit=5) as cache:
            assert await fired_by(write, Meter(backend, cache), database) == without, name


@pytest.mark.parametrize("journal", ["DELETE", "WAL"])
async def test_the_lock_keeps_other_writers_out_until_the_transaction_ends(
    database: BaseDBAsyncClient, cache: ModelCache, journal: str
) -> None:
    await log_triggers(database)
    await populate()
    await database.execute_query(f"PRAGMA journal_mode={journal}")
    await fired(database)
    with elsewhere(database) as other:
        async with in_transaction() as transaction:
            await lock_database(User, transaction)
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                other.execute("UPDATE user SET username = 'x' WHERE id = 1001")
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                other.execute("BEGIN IMMEDIATE")
        assert not await fired(database)
        other.execute("UPDATE user SET username = 'x' WHERE id = 1001")


async def test_the_lock_is_refused_to_a_transaction_with_an_older_state(
    database: BaseDBAsyncClient, cache: ModelCache
) -> None:
    await populate()
    await database.execute_query("PRAGMA journal_mode=WAL")
    with elsewhere(database) as other:
        async with in_transaction() as transaction:
            await User.all().using_db(transaction)
            other.execute("UPDATE user SET username = 'x' WHERE id = 1001")
            with pytest.raises(OperationalError, match="locked"):
                await lock_database(User, transaction)


async def test_a_trigger_that_forbids_updates_forbids_no_delete(database: BaseDBAsyncClient, cache: ModelCache) -> None:
    await populate()
    await database.execute_script(
        "CREATE TRIGGER forbidden BEFORE UPDATE ON user BEGIN SELECT RAISE(ABORT, 'no updates'); END"
    )
    await (await User.get(id=ADA)).delete()
    assert await User.cache.get_or_none(pk=ADA) is None
