"""Write queries that collect the keys of the rows that they write.

They run in a transaction and add exactly the affected rows to the transaction's intents. If the database cannot return
these rows, they are locked first and written by primary key. A row that starts to match in between is neither written
nor missed.
"""

from collections import defaultdict
from collections.abc import Callable, Generator
from copy import copy
from typing import Any, cast

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.fields.base import DatabaseDefault
from tortoise.queryset import BulkCreateQuery, BulkUpdateQuery, DeleteQuery, UpdateQuery

from aiomodelcache.engine.intent import Intent
from aiomodelcache.open_cache import OpenCache
from aiomodelcache.orm.connections import is_finished, outermost
from aiomodelcache.orm.meta import RowValues, attributes_of, pk_of
from aiomodelcache.orm.outcomes import is_settled, may_survive_rollback, was_refused
from aiomodelcache.orm.select import chunks, in_condition, last_pk, select_after
from aiomodelcache.orm.statements import (
    can_return,
    delete_by_pk,
    insert_rows,
    is_atomic,
    lock_by_pk,
    lock_rows,
    returning,
)
from aiomodelcache.orm.transactions import transaction
from aiomodelcache.scopes.request import current_scope
from aiomodelcache.write.affected import collect_model_keys
from aiomodelcache.write.bulk_rows import (
    collect_lists,
    collect_rows,
    collect_rows_before,
    collect_rows_by_pk,
    columns_after_write,
    columns_before_write,
    columns_of_deleted,
    select_by_unique_key,
)
from aiomodelcache.write.cascades import collect_cascade, collect_cascading_models
from aiomodelcache.write.invalidated import affected_caches, caches_cascading_from, writing_on, written_caches
from aiomodelcache.write.transactions import Intents, TransactionIntents, abandon_intents, finish_intents
from aiomodelcache.write.unopened import warn_if_unopened

AwaitGenerator = Generator[Any, Any, Any]


class _Awaitable:
    """An awaitable made of an ``__await__`` method."""

    def __init__(self, iterate: Callable[[], AwaitGenerator]) -> None:
        self._iterate = iterate

    def __await__(self) -> AwaitGenerator:
        return self._iterate()


class _TrackedQuery:
    """The behaviour that captured write queries share: awaiting one invalidates the rows that it writes."""

    __slots__ = ()

    def __await__(self: Any) -> AwaitGenerator:
        if not self.caches():
            warn_if_unopened(self.model)
            return cast("AwaitGenerator", cast("Any", super()).__await__())
        return _run_captured(self).__await__()

    def caches(self: Any) -> list[OpenCache]:
        """Returns the open caches that the write affects."""
        return [cache for cache, _ in written_caches(self.model)]

    def limit(self: Any) -> int:
        """Returns the maximum number of rows to invalidate singly. Beyond it, everything about their model is."""
        return max([cache.config.bulk_limit for cache in cast("list[OpenCache]", self.caches())])

    async def as_tortoise(self: Any) -> Any:
        """Runs the statement unchanged, as Tortoise would."""
        return await _Awaitable(cast("Any", super()).__await__)

    def fresh(self: Any) -> Any:
        """Returns a copy to run once, because a query may be awaited several times, even concurrently."""
        query = copy(self)
        query._joined_tables = []
        return query

    def collect_models(self: Any, intents: Intents) -> None:
        """Adds everything about the model to the intents of each open cache."""
        for cache, written in written_caches(self.model):
            collect_model_keys(intents[cache], [*written.exact, *written.whole])

    async def write(self, client: BaseDBAsyncClient, intents: Intents) -> Any:
        """Runs in a transaction, and adds the affected keys to the transaction's intents."""
        raise NotImplementedError


async def _run_captured(query: Any) -> Any:
    try:
        return await _run(query.fresh())
    except BaseException:
        if (scope := current_scope()) is not None:
            for instance in getattr(query, "_objects", ()):  # of a bulk write
                scope.discard(instance)  # it may hold the refused values
        raise


async def _run(query: Any) -> Any:
    query._choose_db_if_not_chosen(True)
    with writing_on(query._db):
        return await (_run_marking_models(query) if is_finished(query._db) else _run_in_transaction(query))


async def _run_in_transaction(query: Any) -> Any:
    async with transaction(query._db) as client:
        joined, query._db = client is query._db, client
        outer = outermost(client)
        assert outer is not None, "writes are captured inside a transaction"
        intents = TransactionIntents(outer, query.caches())
        for cache, written in written_caches(query.model):
            collect_model_keys(intents[cache], written.whole)
        try:
            result = await query.write(client, intents)
        except BaseException as error:
            # The first of several statements may have written rows. The caller may commit them, or a rollback may not
            # undo them.
            has_several = joined and len(getattr(query, "_objects", ())) > 1
            if has_several or (
                may_survive_rollback(client) and not (is_settled(error) and await is_atomic(query.model, client))
            ):
                query.collect_models(intents)
            raise
        for intent in intents.values():
            intent.drop_from(current_scope())
        return result


async def _run_marking_models(query: Any) -> Any:
    """Runs a query in a transaction that was closed by hand: there its statement commits by itself."""
    intents: Intents = defaultdict(Intent)
    query.collect_models(intents)
    try:
        for cache, intent in intents.items():
            await cache.writer.mark(intent)
        result = await query.as_tortoise()
    except BaseException as error:
        if was_refused(error):
            await finish_intents(intents, committed=False)
        else:
            abandon_intents(intents)
        raise
    for intent in intents.values():
        intent.drop_from(current_scope())
    await finish_intents(intents, committed=True)
    return result


class TrackedUpdate(_TrackedQuery, UpdateQuery):
    """``QuerySet.update``."""

    __slots__ = ()

    async def write(self: Any, client: BaseDBAsyncClient, intents: Intents) -> Any:
        model, limit = self.model, self.limit()
        changed = set(attributes_of(model, self.update_kwargs))
        old_columns = columns_before_write(model, changed)
        if can_return(client) and not old_columns:
            self._make_query()
            statement = self.query.get_parameterized_sql()
            written = await returning(model, client, statement, columns_after_write(model, changed), limit)
            collect_rows(intents, model, written.rows, changed)
            await collect_lists(intents, model, client, written.rows)
            return written.number
        pk = pk_of(model)
        old = await lock_rows(self, client, list(dict.fromkeys([pk, *old_columns])), limit)
        collect_rows_before(intents, model, old, changed)
        pks = [row[pk] for row in old]
        if len(pks) > limit:
            self.collect_models(intents)
            return await self.as_tortoise()
        await collect_lists(intents, model, client, old)
        count = 0
        for chunk in chunks(pks):
            kwargs, annotations, filters = self.update_kwargs, self._annotations, self._custom_filters
            count += await UpdateQuery(model, kwargs, client, [in_condition(pk, chunk)], annotations, filters, None, [])
            await collect_rows_by_pk(intents, model, client, chunk, changed)
        return count


class TrackedDelete(_TrackedQuery, DeleteQuery):
    """``QuerySet.delete``."""

    __slots__ = ()

    def caches(self: Any) -> list[OpenCache]:
        """Returns the open caches that the write affects, by rows of other models that it cascades to, too."""
        return [cache for cache, _ in affected_caches(self.model, deleting=True)]

    def collect_models(self: Any, intents: Intents) -> None:
        super().collect_models(intents)
        self._collect_tables(intents)
        for cache in caches_cascading_from(self.model):
            collect_cascading_models(intents[cache], cache.cascades, self.model)

    async def write(self: Any, client: BaseDBAsyncClient, intents: Intents) -> Any:
        model, limit = self.model, self.limit()
        pk = pk_of(model)
        cascade_columns = [
            name for cache in caches_cascading_from(model) for name in cache.cascades.columns_needed(model)
        ]
        if can_return(client) and not cascade_columns:
            self._make_query()
            written = await returning(
                model, client, self.query.get_parameterized_sql(), columns_of_deleted(model), limit
            )
            collect_rows(intents, model, written.rows, (), deleted=True)
            if written.rows:
                self._collect_tables(intents)
            return written.number
        rows = await lock_rows(self, client, list(dict.fromkeys([*columns_of_deleted(model), *cascade_columns])), limit)
        if len(rows) > limit:
            self.collect_models(intents)
            return await self.as_tortoise()
        if rows:
            self._collect_tables(intents)
        for cache in caches_cascading_from(model):
            await collect_cascade(intents[cache], cache.cascades, model, rows, client)
        collect_rows(intents, model, rows, (), deleted=True)
        return sum([await delete_by_pk(model, client, chunk) for chunk in chunks([row[pk] for row in rows])])

    def _collect_tables(self: Any, intents: Intents) -> None:
        for cache in self.caches():
            intents[cache].add_tables(cache.versions.deleted_with(self.model))


class TrackedBulkUpdate(_TrackedQuery, BulkUpdateQuery[Any]):
    """``QuerySet.bulk_update``."""

    __slots__ = ()

    def caches(self: Any) -> list[OpenCache]:
        return super().caches() if self._objects else []

    def fresh(self: Any) -> Any:
        query = super().fresh()
        query._queries = []
        return query

    async def write(self: Any, client: BaseDBAsyncClient, intents: Intents) -> Any:
        model = self.model
        changed = set(attributes_of(model, self.fields))
        pks = [instance.pk for instance in self._objects]
        old_columns = columns_before_write(model, changed)
        if old_columns:
            old = await lock_by_pk(model, client, pks, [pk_of(model), *old_columns])
            collect_rows_before(intents, model, old, changed)
        if not can_return(client):
            if self._q_objects:  # a manager may hide a part of the rows
                filtered = copy(self)
                filtered._q_objects = [*self._q_objects, in_condition(pk_of(model), pks)]
                pks = [row[pk_of(model)] for row in await lock_rows(filtered, client, [pk_of(model)], len(pks))]
            count: int = await self.as_tortoise()
            await collect_rows_by_pk(intents, model, client, pks, changed)
            await collect_lists(intents, model, client, [{pk_of(model): pk} for pk in pks])
            return count
        count = 0
        rows: list[RowValues] = []
        for statement in self._make_queries():
            written = await returning(model, client, statement, columns_after_write(model, changed), self.limit())
            count += written.number
            rows += written.rows
        collect_rows(intents, model, rows, changed)
        await collect_lists(intents, model, client, rows)
        return count


class TrackedBulkCreate(_TrackedQuery, BulkCreateQuery[Any]):
    """``QuerySet.bulk_create``."""

    __slots__ = ()

    def caches(self: Any) -> list[OpenCache]:
        return super().caches() if self._objects else []

    async def write(self: Any, client: BaseDBAsyncClient, intents: Intents) -> None:
        model, wanted = self.model, columns_after_write(self.model, None)
        if self._update_fields:
            await self.as_tortoise()
            rows = None
            old_columns = columns_before_write(model, attributes_of(model, self._update_fields))
            if can_return(client) and not old_columns:  # old values are unknown; MySQL checks every unique key
                rows = await select_by_unique_key(model, client, self._objects, self._on_conflict, wanted)
            if rows is None:
                self.collect_models(intents)
            else:
                collect_rows(intents, model, rows, None)
        elif can_return(client):
            collect_rows(intents, model, await self._insert(client), None)
        else:
            known_pks = [instance.pk for instance in self._objects if instance.pk is not None]
            if any(isinstance(pk, DatabaseDefault) for pk in known_pks):
                self.collect_models(intents)
                await self.as_tortoise()
                return
            is_generated = len(known_pks) < len(self._objects)
            last = await last_pk(model, client) if is_generated else None
            await self.as_tortoise()
            await collect_rows_by_pk(intents, model, client, known_pks, None)
            if is_generated:
                collect_rows(intents, model, await select_after(model, client, last, wanted, self.limit()), None)

    async def _insert(self: Any, client: BaseDBAsyncClient) -> list[RowValues]:
        """Inserts as Tortoise does, with statements that return the inserted rows."""
        executor = cast("Any", client).executor_class(model=self.model, db=client)
        omitted = self._analyze_db_default_fields(executor.regular_columns)
        rows: list[RowValues] = []
        for chunk in chunks(self._objects, self._batch_size or max(1, len(self._objects))):
            for own_pk, names in ((True, executor.regular_columns_all), (False, executor.regular_columns)):
                rows += await insert_rows(
                    self.model,
                    client,
                    [instance for instance in chunk if bool(instance._custom_generated_pk) is own_pk],
                    [name for name in names if name not in omitted],
                    columns_after_write(self.model, None),
                    ignore_conflicts=self._ignore_conflicts,
                )
        return rows
