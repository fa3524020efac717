"""Write-through: which rows a save may leave in the cache, and what the writer knows of them.

In autocommit mode, the row is known by the values that were sent, if the database certainly returns the same. In a
transaction, the writer reads its rows once more, right before the COMMIT: see ``own_rows``.
"""

from collections.abc import Iterable
from typing import Any

from tortoise.backends.base.client import BaseDBAsyncClient, TransactionalDBClient
from tortoise.models import Model

from aiomodelcache.engine.intent import Intent
from aiomodelcache.engine.saves import RowSaves, SavedRow
from aiomodelcache.entries.model import ModelEntries
from aiomodelcache.open_cache import OpenCache
from aiomodelcache.orm.connections import root_client
from aiomodelcache.scopes.bypass import open_blocks
from aiomodelcache.write.affected import AllBut, ChangedColumns


def _is_candidate(cache: OpenCache, entries: ModelEntries, model: type[Model], client: BaseDBAsyncClient) -> bool:
    """Returns True if the entries are of this very model and connection, and the caller's lookups may fill them."""
    rows = entries.rows
    if rows.stored is None or rows.schema.model is not model or rows.compares_loosely:
        return False
    if root_client(client) is not rows.schema.client:
        return False
    blocks = open_blocks()
    return not cache.bypass.off_in(blocks) and not (blocks and cache.bypass.restrictions(blocks, [model]))


def expect_rows(
    intent: Intent,
    cache: OpenCache,
    written: Iterable[ModelEntries],
    instance: Model,
    client: Any,
    changed: ChangedColumns,
) -> None:
    """Has the versions of the model read with the mark of a save in autocommit mode."""
    for entries in written if isinstance(changed, AllBut | None) else ():
        if _is_candidate(cache, entries, type(instance), client):
            intent.saves = intent.saves or RowSaves()
            intent.saves.expect(entries.rows)


def offer_row(intent: Intent, cache: OpenCache, entries: ModelEntries, instance: Model, client: Any, sent: Any) -> None:
    """Offers the row of a save to the cache: by the values that were sent, in a transaction by its primary key."""
    if not _is_candidate(cache, entries, type(instance), client):
        return
    rows = entries.rows
    in_transaction = isinstance(client, TransactionalDBClient)
    if in_transaction:
        intent.saves = intent.saves or RowSaves()
        intent.saves.expect(rows)
    if intent.saves is not None and rows.stored is not None:
        pk = rows.schema.normalise(rows.schema.pk, instance.pk)
        payload = None if in_transaction or sent is None else rows.stored.payload(sent)
        intent.saves.rows[rows.key(pk)] = SavedRow(rows, payload, pk)
