"""Bulk writes: ``QuerySet.update`` and ``.delete``, ``bulk_create`` and ``bulk_update``.

Tortoise fires no signal for these. The managers of bound models hand out querysets of a subclass whose
write queries run in a transaction and add exactly the rows that they touched to its intents. Where the
database does not say which these were, the rows are locked first and written by primary key, so that a
row which starts to match in between is neither written nor missed.
"""

from collections.abc import Callable, Generator, Iterable, Sequence
from copy import copy
from functools import cache, partial
from typing import Any, cast

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.fields.base import DatabaseDefault
from tortoise.models import Model
from tortoise.queryset import BulkCreateQuery, BulkUpdateQuery, DeleteQuery, QuerySet, UpdateQuery

from aiomodelcache.engine.intent import Intent
from aiomodelcache.open_cache import Session, bindings_of, cascading, lists_of_hidden
from aiomodelcache.orm.connections import is_finished, outermost, transaction, was_refused
from aiomodelcache.orm.meta import attributes_of, managers, pk_of
from aiomodelcache.orm.select import last_pk, one_of, portions, select_after, select_matching, select_values
from aiomodelcache.orm.statements import Row, can_return, delete_by_pk, insert, lock, lock_by_pk, returning
from aiomodelcache.scopes.request import current_scope
from aiomodelcache.write.affected import (
    Changed,
    key_attributes,
    old_attributes,
    result_attributes,
    touch,
    touch_model,
    touch_results,
)
from aiomodelcache.write.manual import invalidate_rows
from aiomodelcache.write.transactions import Intents, abandon, enlist, settle


def track(model: type[Model]) -> None:
    """Makes the model's managers hand out querysets whose writes are captured. A second time does nothing."""
    for manager in managers(model):
        if "get_queryset" not in vars(manager):
            manager.get_queryset = partial(_tracked_queryset, manager.get_queryset)


def _tracked_queryset(original: Callable[[], Any]) -> Any:
    queryset = original()
    queryset.__class__ = _tracked(queryset.__class__)
    return queryset


@cache
def _tracked(cls: Any) -> Any:
    """A subclass of a queryset class, its name included, in which what its own methods write is captured too."""
    if cls is QuerySet:
        return TrackedQuerySet
    ours = QuerySet in cls.__mro__ and TrackedQuerySet not in cls.__mro__
    return type(cls.__name__, (cls, TrackedQuerySet), {"__slots__": (), "__module__": cls.__module__}) if ours else cls


class TrackedQuerySet(QuerySet[Any]):
    """A queryset whose writes are captured."""

    __slots__ = ()

    def update(self, **kwargs: Any) -> Any:
        """See ``QuerySet.update``."""
        return _become(super().update(**kwargs), TrackedUpdate)

    def delete(self) -> Any:
        """See ``QuerySet.delete``."""
        return _become(super().delete(), TrackedDelete)

    def bulk_create(self, *args: Any, **kwargs: Any) -> Any:
        """See ``QuerySet.bulk_create``."""
        query = _become(super().bulk_create(*args, **kwargs), TrackedBulkCreate)
        query._objects = list(query._objects)
        return query

    def bulk_update(self, *args: Any, **kwargs: Any) -> Any:
        """See ``QuerySet.bulk_update``."""
        query = _become(super().bulk_update(*args, **kwargs), TrackedBulkUpdate)
        query._objects, query.fields = list(query._objects), list(query.fields)
        return query

    async def invalidate_cache(self) -> int:
        """Forgets the rows of this queryset in every open cache. Returns how many there are."""
        counts = [await invalidate_rows(session, binding, self) for session, binding in bindings_of(self.model)]
        return max(counts, default=0)


def _become(query: Any, tracked: type) -> Any:
    query.__class__ = tracked
    return query


Awaiting = Generator[Any, Any, Any]


class _Awaitable:
    """Something to await, given its ``__await__``."""

    def __init__(self, awaiting: Callable[[], Awaiting]) -> None:
        self._awaiting = awaiting

    def __await__(self) -> Awaiting:
        return self._awaiting()


class _Tracked:
    """What write queries do when they are awaited."""

    __slots__ = ()

    def __await__(self: Any) -> Awaiting:
        if not self.sessions():
            return cast("Awaiting", cast("Any", super()).__await__())
        return _captured(self).__await__()

    def sessions(self: Any) -> list[Session]:
        """The open caches in which it touches something."""
        return [session for session, _ in bindings_of(self.model)]

    def limit(self: Any) -> int:
        """How many rows may be named; of more, everything about their model is forgotten."""
        return max([session.config.bulk_limit for session in cast("list[Session]", self.sessions())])

    async def as_tortoise(self: Any) -> Any:
        """Runs the statement as Tortoise made it."""
        return await _Awaitable(cast("Any", super()).__await__)

    def fresh(self: Any) -> Any:
        """A query like this one, to run once: one query may be awaited several times, also at once."""
        query = copy(self)
        query._joined_tables = []
        return query

    def touch_model(self: Any, intents: Intents) -> None:
        """Adds everything about the model to the intents of each open cache."""
        for session, binding in bindings_of(self.model):
            touch_model(intents[session], binding)

    async def write(self, client: BaseDBAsyncClient, intents: Intents) -> Any:
        """Runs in a transaction, and adds what it touched to the transaction's intents."""
        raise NotImplementedError


async def _captured(query: Any) -> Any:
    query = query.fresh()
    query._choose_db_if_not_chosen(True)
    if is_finished(query._db):
        return await _captured_as_a_whole(query)
    async with transaction(query._db) as client:
        query._db = client
        outer = outermost(client)
        assert outer is not None, "writes are captured inside a transaction"
        intents = {session: enlist(outer, session) for session in query.sessions()}
        result = await query.write(client, intents)
        for intent in intents.values():
            intent.drop_from(current_scope())
        return result


async def _captured_as_a_whole(query: Any) -> Any:
    """In a transaction that was closed by hand there is no other, and each statement commits by itself."""
    intents: Intents = {session: Intent() for session in query.sessions()}
    query.touch_model(intents)
    try:
        for session, intent in intents.items():
            await session.writer.mark(intent)
        result = await query.as_tortoise()
    except BaseException as error:
        if was_refused(error):
            await settle(intents, committed=False)
        else:
            abandon(intents)
        raise
    for intent in intents.values():
        intent.drop_from(current_scope())
    await settle(intents, committed=True)
    return result


class TrackedUpdate(_Tracked, UpdateQuery):
    """``QuerySet.update``."""

    __slots__ = ()

    async def write(self: Any, client: BaseDBAsyncClient, intents: Intents) -> Any:
        model, limit = self.model, self.limit()
        changed = set(attributes_of(model, self.update_kwargs))
        before = needed_before(model, changed)
        if can_return(client) and not before:
            self._make_query()
            statement = self.query.get_parameterized_sql()
            written = await returning(model, client, statement, needed(model, changed), limit)
            add(intents, model, written.rows, changed)
            await add_lists(intents, model, client, written.rows)
            return written.number
        pk = pk_of(model)
        old = await lock(self, client, list(dict.fromkeys([pk, *before])), limit)
        add_before(intents, model, old, changed)
        pks = [row[pk] for row in old]
        if len(pks) > limit:
            self.touch_model(intents)
            return await self.as_tortoise()
        count = 0
        for some in portions(pks):
            kwargs, annotations, filters = self.update_kwargs, self._annotations, self._custom_filters
            count += await UpdateQuery(model, kwargs, client, [one_of(pk, some)], annotations, filters, None, [])
        await add_written(intents, model, client, pks, changed)
        await add_lists(intents, model, client, old)
        return count


class TrackedDelete(_Tracked, DeleteQuery):
    """``QuerySet.delete``."""

    __slots__ = ()

    def sessions(self: Any) -> list[Session]:
        """Those in which other models' rows are deleted along, too."""
        return list(dict.fromkeys([*super().sessions(), *cascading(self.model)]))

    def touch_model(self: Any, intents: Intents) -> None:
        super().touch_model(intents)
        for session in cascading(self.model):
            session.cascades.touch_models(intents[session], self.model)

    async def write(self: Any, client: BaseDBAsyncClient, intents: Intents) -> Any:
        model, limit = self.model, self.limit()
        pk = pk_of(model)
        followed = [name for session in cascading(model) for name in session.cascades.needed(model)]
        if can_return(client) and not followed:
            self._make_query()
            written = await returning(model, client, self.query.get_parameterized_sql(), needed_of_gone(model), limit)
            add(intents, model, written.rows, (), gone=True)
            return written.number
        rows = await lock(self, client, list(dict.fromkeys([*needed_of_gone(model), *followed])), limit)
        if len(rows) > limit:
            self.touch_model(intents)
            return await self.as_tortoise()
        for session in cascading(model):
            await session.cascades.touch(intents[session], model, rows, client)
        add(intents, model, rows, (), gone=True)
        return sum([await delete_by_pk(model, client, some) for some in portions([row[pk] for row in rows])])


class TrackedBulkUpdate(_Tracked, BulkUpdateQuery[Any]):
    """``QuerySet.bulk_update``."""

    __slots__ = ()

    def sessions(self: Any) -> list[Session]:
        return super().sessions() if self._objects else []

    def fresh(self: Any) -> Any:
        query = super().fresh()
        query._queries = []
        return query

    async def write(self: Any, client: BaseDBAsyncClient, intents: Intents) -> Any:
        model = self.model
        changed = set(attributes_of(model, self.fields))
        pks = [each.pk for each in self._objects]
        before = needed_before(model, changed)
        if before:
            add_before(intents, model, await lock_by_pk(model, client, pks, [pk_of(model), *before]), changed)
        if not can_return(client):
            if self._q_objects:  # a manager may hide some of them
                filtered = copy(self)
                filtered._q_objects = [*self._q_objects, one_of(pk_of(model), pks)]
                pks = [row[pk_of(model)] for row in await lock(filtered, client, [pk_of(model)], len(pks))]
            count: int = await self.as_tortoise()
            await add_written(intents, model, client, pks, changed)
            await add_lists(intents, model, client, [{pk_of(model): pk} for pk in pks])
            return count
        count = 0
        rows: list[Row] = []
        for statement in self._make_queries():
            written = await returning(model, client, statement, needed(model, changed), self.limit())
            count += written.number
            rows += written.rows
        add(intents, model, rows, changed)
        await add_lists(intents, model, client, rows)
        return count


class TrackedBulkCreate(_Tracked, BulkCreateQuery[Any]):
    """``QuerySet.bulk_create``."""

    __slots__ = ()

    def sessions(self: Any) -> list[Session]:
        return super().sessions() if self._objects else []

    async def write(self: Any, client: BaseDBAsyncClient, intents: Intents) -> None:
        model, wanted = self.model, needed(self.model, None)
        if self._update_fields:
            await self.as_tortoise()
            rows = None
            moved = needed_before(model, attributes_of(model, self._update_fields))  # whose old values nobody tells
            if can_return(client) and not moved:  # MySQL looks for a conflict by every unique key
                rows = await find_by_key(model, client, self._objects, self._on_conflict, wanted)
            if rows is None:
                self.touch_model(intents)
            else:
                add(intents, model, rows, None)
        elif can_return(client):
            add(intents, model, await self._insert(client), None)
        else:
            given = [each.pk for each in self._objects if each.pk is not None]
            if any(isinstance(pk, DatabaseDefault) for pk in given):
                self.touch_model(intents)
                await self.as_tortoise()
                return
            generated = len(given) < len(self._objects)
            last = await last_pk(model, client) if generated else None
            await self.as_tortoise()
            await add_written(intents, model, client, given, None)
            if generated:
                add(intents, model, await select_after(model, client, last, wanted, self.limit()), None)

    async def _insert(self: Any, client: BaseDBAsyncClient) -> list[Row]:
        """Inserts as Tortoise does, in statements that say which rows came to be."""
        executor = cast("Any", client).executor_class(model=self.model, db=client)
        omitted = self._analyze_db_default_fields(executor.regular_columns)
        rows: list[Row] = []
        for some in portions(self._objects, self._batch_size or max(1, len(self._objects))):
            for own_pk, names in ((True, executor.regular_columns_all), (False, executor.regular_columns)):
                rows += await insert(
                    self.model,
                    client,
                    [each for each in some if bool(each._custom_generated_pk) is own_pk],
                    [name for name in names if name not in omitted],
                    needed(self.model, None),
                    ignore_conflicts=self._ignore_conflicts,
                )
        return rows


# Rows ----------------------------------------------------------------------------------------------------


def needed(model: type[Model], changed: Changed) -> list[str]:
    """The attributes that name what a change touches, in any open cache."""
    names = [name for _, binding in bindings_of(model) for name in key_attributes(binding, changed)]
    return list(dict.fromkeys(names))


def needed_before(model: type[Model], changed: Changed) -> list[str]:
    """The attributes whose old values name results that rows leave by a change; usually none."""
    return [name for _, binding in bindings_of(model) for name in old_attributes(binding, changed)]


def needed_of_gone(model: type[Model]) -> list[str]:
    """The attributes that name what rows were part of that are gone."""
    results = [name for _, binding in bindings_of(model) for name in result_attributes(binding)]
    return list(dict.fromkeys([pk_of(model), *results]))


def add_before(intents: Intents, model: type[Model], rows: Sequence[Row], changed: Changed) -> None:
    """Adds what rows leave, with their values before the write, to the intents."""
    for session, binding in bindings_of(model):
        if old_attributes(binding, changed):
            for row in rows:
                touch_results(intents[session], binding, row, changed)


def add(intents: Intents, model: type[Model], rows: Sequence[Row], changed: Changed, *, gone: bool = False) -> None:
    """Adds rows, with their values after the write, to the intents."""
    for session, binding in bindings_of(model):
        if len(rows) > session.config.bulk_limit:
            touch_model(intents[session], binding)
        else:
            for row in rows:
                touch(intents[session], binding, row, changed, exists=not gone)


async def add_lists(intents: Intents, model: type[Model], client: BaseDBAsyncClient, rows: Sequence[Row]) -> None:
    """Adds the many-to-many lists that rows are in which a manager may have hidden, and shows now."""
    for session in lists_of_hidden(model):
        await session.cascades.touch_lists(intents[session], model, rows, client)


async def add_written(
    intents: Intents, model: type[Model], client: BaseDBAsyncClient, pks: Sequence[Any], changed: Changed
) -> None:
    """Adds rows that were written, given their primary keys; other values are read from the transaction."""
    wanted = needed(model, changed)
    pk = pk_of(model)
    if wanted == [pk]:
        add(intents, model, [{pk: each} for each in pks], changed)
    elif pks:
        add(intents, model, await select_values(model, client, pk, pks, wanted), changed)


async def find_by_key(
    model: type[Model], client: BaseDBAsyncClient, objects: Sequence[Model], key: Iterable[str], wanted: Iterable[str]
) -> list[Row] | None:
    """The rows that have the values of the objects in a unique key; None if it does not lead to each of them."""
    attributes = attributes_of(model, key)
    values = [tuple([vars(each).get(name) for name in attributes]) for each in objects]
    if any(value is None or isinstance(value, DatabaseDefault) for each in values for value in each):
        return None
    rows = await select_matching(model, client, attributes, values, [*wanted, *attributes])
    found = {tuple([row[name] for name in attributes]): row for row in rows}
    return [found[each] for each in values] if found.keys() >= set(values) else None
