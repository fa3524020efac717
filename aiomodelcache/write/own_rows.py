"""The rows that a transaction has saved, read right before its COMMIT so that the writer may store them.

What counts is what the database has, whatever else the transaction has done: raw SQL, triggers, savepoints.
"""

from collections.abc import Iterable
from typing import Any, Final

from tortoise.backends.base.client import TransactionalDBClient

from aiomodelcache.encoding.codec import EncodeError
from aiomodelcache.engine.intent import Intent
from aiomodelcache.engine.saves import RowSaves
from aiomodelcache.entries.rows import RowEntries
from aiomodelcache.orm.hydrate import fetch_instances
from aiomodelcache.orm.outcomes import ends_transaction

MAX_SAVED_ROWS: Final = 100
"""Maximum number of rows of one model that a transaction stores in the cache. Beyond it, it stores none of them."""


async def read_own_rows(client: TransactionalDBClient, intents: Iterable[Intent]) -> None:
    """Reads the rows that a transaction has saved, right before its COMMIT.

    The rows are locked: if a savepoint was rolled back, they may be another writer's, and a statement may see an older
    state. After the last statement nothing is awaited before the COMMIT, so no other task can end the transaction.
    Raises what the database raises if that has ended the transaction.
    """
    saves = [intent.saves for intent in intents if intent.saves is not None]
    try:
        for own in saves:
            await _read_rows(client, own)
    except Exception as error:
        for own in saves:
            own.withdraw()
        if ends_transaction(client, error):
            raise


async def _read_rows(client: TransactionalDBClient, saves: RowSaves) -> None:
    for rows in {id(saved.rows): saved.rows for saved in saves.rows.values()}.values():
        own = {key: saved for key, saved in saves.rows.items() if saved.rows is rows}
        if len(own) <= MAX_SAVED_ROWS:
            payloads = await _read_locked(rows, client, [saved.pk for saved in own.values()])
            saves.rows |= {key: saved._replace(payload=payloads.get(key)) for key, saved in own.items()}


async def _read_locked(rows: RowEntries, client: TransactionalDBClient, pks: list[Any]) -> dict[bytes, bytes]:
    schema = rows.schema
    query: Any = schema.queryset(client).filter(schema.matching((schema.pk,), [(pk,) for pk in pks]))
    if client.capabilities.support_for_update:
        query = query.select_for_update()
    payloads: dict[bytes, bytes] = {}
    for instance in await fetch_instances(schema, query):
        try:
            payloads[rows.key(vars(instance)[schema.pk])] = schema.codec.encode(vars(instance))
        except EncodeError:
            continue
    return payloads
