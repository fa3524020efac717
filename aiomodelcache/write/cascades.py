"""Collects the keys of rows that the database deletes or changes when other rows are deleted.

Tortoise fires no signal for a cascade. So the rows are selected and locked before the delete, in its transaction. No
other writer can add or change such rows until the transaction has committed. Only cached models, and models on a path
to one, are selected. Deleting rows of other models costs nothing.
"""

from collections.abc import Sequence
from typing import Any

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.fields.base import OnDelete
from tortoise.models import Model

from aiomodelcache.backends.protocol import Clear
from aiomodelcache.engine.intent import Intent
from aiomodelcache.entries.cascades import CascadeGraph
from aiomodelcache.orm.key_values import distinct, identity
from aiomodelcache.orm.meta import RowValues, pk_of
from aiomodelcache.orm.relations import ForeignKey
from aiomodelcache.orm.select import linked_to, select_locked
from aiomodelcache.orm.snapshots import misses_inserts
from aiomodelcache.write.affected import (
    affected_columns,
    collect_affected_keys,
    collect_model_keys,
    collect_result_keys,
    result_columns,
)


async def collect_list_keys(
    intent: Intent,
    graph: CascadeGraph,
    model: type[Model],
    rows: Sequence[RowValues],
    client: BaseDBAsyncClient,
    *,
    deleting: bool = False,
) -> None:
    """Adds the many-to-many lists that rows of ``model`` are in.

    A list entry cannot detect that a row was deleted: a row inserted later under the same primary key would seem to be
    linked still.

    ``deleting``: the database refuses to delete a row with a link that the transaction does not see. It does not refuse
    to change one.
    """
    lists = graph.lists_of(model)
    if lists and not deleting and await misses_inserts(client):
        for through in lists:
            intent.add_model(through.rows)
        return
    for through in lists:
        pks = [row[pk_of(model)] for row in rows]
        owners = await linked_to(through.relation, through.owner, pks, client, graph.limit)
        if len(owners) > graph.limit:
            intent.add_model(through.rows)
        else:
            intent.add(through.rows, [Clear(through.key((owner,))) for owner in owners])


async def collect_cascade(
    intent: Intent, graph: CascadeGraph, model: type[Model], rows: Sequence[RowValues], client: BaseDBAsyncClient
) -> None:
    """Adds the keys of all rows that deleting ``rows`` of ``model`` will delete or change. The rows must be locked."""
    new_values: dict[tuple[type[Model], Any], dict[str, Any]] = {}  # a row may lose several references
    seen: set[tuple[type[Model], Any]] = set()
    pending = [(model, rows)]
    while pending:
        parent, rows = pending.pop()
        await collect_list_keys(intent, graph, parent, rows, client, deleting=True)
        for key in graph.unknown_keys_to(parent):
            _collect_models(intent, graph, key)
        for key in graph.foreign_keys_to(parent):
            values = distinct([row[key.to_field] for row in rows if row[key.to_field] is not None])
            children = await _children(graph, key, values, client) if values else []
            if len(children) > graph.limit:
                _collect_models(intent, graph, key)
                continue
            if children:
                collect_model_keys(intent, graph.written(key.child).whole)
            pk = pk_of(key.child)
            deleted: list[RowValues] = []
            for child in children:
                child_id = (key.child, identity(child[pk]))
                if key.on_delete is OnDelete.CASCADE:
                    if child_id not in seen:
                        deleted.append(child)
                    seen.add(child_id)
                    _collect_row(intent, graph, key, child)
                else:
                    for entries in graph.written(key.child).exact:
                        collect_result_keys(intent, entries, child, {key.attribute})
                    new_values.setdefault(child_id, {})[key.attribute] = key.fk_default_after_delete
                    _collect_row(intent, graph, key, {**child, **new_values[child_id]})
            if deleted:
                pending.append((key.child, deleted))


def collect_cascading_models(intent: Intent, graph: CascadeGraph, model: type[Model]) -> None:
    """Adds everything about all models that have rows which deleting rows of ``model`` may delete or change."""
    seen: set[type[Model]] = {model}
    pending = [model]
    while pending:
        parent = pending.pop()
        for through in graph.lists_of(parent):
            intent.add_model(through.rows)
        for key in (*graph.foreign_keys_to(parent), *graph.unknown_keys_to(parent)):
            _collect_model(intent, graph, key.child)
            if key.on_delete is OnDelete.CASCADE and key.child not in seen:
                seen.add(key.child)
                pending.append(key.child)


def _collect_row(intent: Intent, graph: CascadeGraph, key: ForeignKey, row: RowValues) -> None:
    deleted = key.on_delete is OnDelete.CASCADE
    for entries in graph.written(key.child).exact:
        collect_affected_keys(intent, entries, row, () if deleted else {key.attribute}, exists=not deleted)


def _collect_models(intent: Intent, graph: CascadeGraph, key: ForeignKey) -> None:
    _collect_model(intent, graph, key.child)
    if key.on_delete is OnDelete.CASCADE:
        collect_cascading_models(intent, graph, key.child)


def _collect_model(intent: Intent, graph: CascadeGraph, model: type[Model]) -> None:
    written = graph.written(model)
    collect_model_keys(intent, [*written.exact, *written.whole])


async def _children(
    graph: CascadeGraph, key: ForeignKey, values: Sequence[Any], client: BaseDBAsyncClient
) -> list[dict[str, Any]]:
    wanted = [pk_of(key.child), *graph.columns_needed(key.child)]
    deleted = key.on_delete is OnDelete.CASCADE
    for entries in graph.written(key.child).exact:
        wanted += result_columns(entries) if deleted else affected_columns(entries, {key.attribute})
    return await select_locked(key.child, client, key.attribute, values, wanted, graph.limit)
