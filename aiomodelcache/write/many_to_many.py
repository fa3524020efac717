"""Many-to-many writes: ``add``, ``remove`` and ``clear`` of a relation, from either side.

Tortoise writes to the through table and fires no signal. So, on the user's own model classes and only for relations
whose lists are cached, the property that returns a relation returns a ``TrackedRelation``. Its writes invalidate, and
awaiting it answers from the cache. Without an open cache it behaves as Tortoise's own.
"""

from collections.abc import Awaitable, Callable, Generator, Sequence
from functools import partial
from typing import Any, cast

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.fields.relational import ManyToManyRelation
from tortoise.models import Model

from aiomodelcache.backends.protocol import Clear
from aiomodelcache.engine.intent import Intent
from aiomodelcache.exceptions import CacheNotRegistered
from aiomodelcache.open_cache import OpenCache, caller_cache, open_caches
from aiomodelcache.orm.connections import is_finished, outermost, relation_client
from aiomodelcache.orm.meta import is_saved, pk_of
from aiomodelcache.orm.outcomes import is_settled
from aiomodelcache.orm.relations import ManyToMany, many_to_many, many_to_many_names, through_table
from aiomodelcache.orm.select import linked_to
from aiomodelcache.orm.statements import lock_by_pk
from aiomodelcache.orm.transactions import settled, transaction
from aiomodelcache.query.many_to_many import ManyToManyQuery
from aiomodelcache.scopes.request import current_scope
from aiomodelcache.write.affected import collect_model_key
from aiomodelcache.write.invalidated import caches_with_links, lists_over, writing_on
from aiomodelcache.write.transactions import Intents, abandon_intents, finish_intents, transaction_intent
from aiomodelcache.write.unopened import cached_models, warn_if_unopened


class CachedManyToMany(property):
    """The property of a relation whose writes are captured."""


def install_relations(model: type[Model], cache: OpenCache) -> None:
    """Installs the property on those many-to-many relations of a model that affect a cache. Idempotent."""
    _install(model, lambda relation: cache.watches_table(relation.table))


def install_unopened(model: type[Model]) -> None:
    """Installs it on the relations between cached models, so that writes warn while no cache is open. Idempotent."""
    if model in cached_models and not open_caches:
        _install(model, lambda relation: relation.related in cached_models)


def _install(model: type[Model], is_affected: Callable[[ManyToMany], bool]) -> None:
    for name in many_to_many_names(model):
        original = getattr(model, name, None)  # None before Tortoise.init
        if original is None or isinstance(original, CachedManyToMany):
            continue
        relation = many_to_many(model, name)
        if relation is not None and is_affected(relation):
            get = partial(_tracked, original.fget)
            setattr(model, name, CachedManyToMany(get, original.fset, original.fdel))


def _tracked(original: Callable[[Model], Any], instance: Model) -> Any:
    relation = original(instance)
    if type(relation) is ManyToManyRelation:
        relation.__class__ = TrackedRelation
    return cast("Any", relation)


def list_query(relation: ManyToManyRelation[Any], cache: OpenCache) -> ManyToManyQuery:
    """Returns the query that answers a relation of an instance. Raises ``CacheNotRegistered`` if no cache does."""
    model, name = type(relation.instance), str(relation.field.model_field_name)
    through = cache.list_of(model, name)
    if through is None:
        raise CacheNotRegistered(
            f"{model.__name__}.{name} has no cached list: name it in cached_manytomany of {model.__name__}.CacheMeta."
        )
    return ManyToManyQuery(through, relation.instance.pk, cache)


class TrackedRelation(ManyToManyRelation[Any]):
    """A many-to-many relation whose writes are captured, and whose rows come from the cache."""

    def __await__(self) -> Generator[Any, None, list[Any]]:
        cache = caller_cache()
        through = cache.list_of(type(self.instance), self._name()) if cache is not None else None
        if cache is None or through is None or not is_saved(self.instance):
            return super().__await__()
        return ManyToManyQuery(through, self.instance.pk, cache).__await__()

    def _name(self) -> str:
        return str(self.field.model_field_name)

    async def add(self, *instances: Any, using_db: BaseDBAsyncClient | None = None) -> None:
        """See ``ManyToManyRelation.add``."""
        await self._capture(instances, using_db, partial(super().add, *instances))

    async def remove(self, *instances: Any, using_db: BaseDBAsyncClient | None = None) -> None:
        """See ``ManyToManyRelation.remove``."""
        await self._capture(instances, using_db, partial(super().remove, *instances))

    async def clear(self, using_db: BaseDBAsyncClient | None = None) -> None:
        """See ``ManyToManyRelation.clear``."""
        await self._capture(None, using_db, super().clear)

    async def _capture(
        self,
        others: Sequence[Model] | None,
        using_db: BaseDBAsyncClient | None,
        write: Callable[..., Awaitable[None]],
    ) -> None:
        """Runs one of Tortoise's methods, and invalidates the lists that it changes.

        ``others`` are the rows at the other end. None stands for all rows that are linked.
        """
        client = using_db or relation_client(self.remote_model)
        with writing_on(client):
            caches = caches_with_links(self.field)
        if not caches and self.remote_model in cached_models:
            warn_if_unopened(type(self.instance))
        if not caches or others == () or not all(map(is_saved, [self.instance, *(others or ())])):
            await write(using_db=using_db)
            return
        pks = None if others is None else [other.pk for other in others]
        listed = [pair for cache in caches for pair in lists_over(cache, self.field)]
        reverse = [through for through, is_own in listed if not is_own]
        if pks is None and reverse and not is_finished(client):
            async with transaction(client) as locking:  # while the row is locked, no writer can link it to others
                model = type(self.instance)
                await lock_by_pk(model, locking, [self.instance.pk], [pk_of(model)])
                limit = max(cache.config.bulk_limit for cache in caches)
                through = reverse[0]
                pks = await linked_to(through.relation, through.owner, [self.instance.pk], locking, limit)
                await self._write(locking, caches, pks if len(pks) <= limit else None, write)
        else:
            call = self._write(client, caches, pks, write)
            await (call if outermost(client) is not None else settled(call))

    async def _write(
        self,
        client: BaseDBAsyncClient,
        caches: Sequence[OpenCache],
        pks: Sequence[Any] | None,
        write: Callable[..., Awaitable[None]],
    ) -> None:
        outer = outermost(client)
        intents: Intents = {cache: transaction_intent(outer, cache) if outer else Intent() for cache in caches}
        for cache in caches:
            self._collect_keys(cache, intents[cache], pks)
        try:
            if outer is None:
                for cache, intent in intents.items():
                    await cache.writer.mark(intent)
            await write(using_db=client)
        except BaseException as error:
            if outer is None:
                if is_settled(error):
                    await finish_intents(intents, committed=False)
                else:
                    abandon_intents(intents)
            raise
        finally:
            for intent in intents.values():
                intent.drop_from(current_scope())
        if outer is None:
            await finish_intents(intents, committed=True)

    def _collect_keys(self, cache: OpenCache, intent: Intent, pks: Sequence[Any] | None) -> None:
        """Adds the lists that change when these rows are linked or unlinked, and everything about a through model."""
        intent.add_tables(cache.versions.through_keys(through_table(self.field)))
        for entries in cache.models.values():
            if entries.schema.table == through_table(self.field):
                collect_model_key(intent, entries)
        for through, is_own in lists_over(cache, self.field):
            owners = [self.instance.pk] if is_own else pks
            if owners is None:
                intent.add_model(through.rows)
            else:
                clears = [Clear(through.key((through.owner_value(pk),))) for pk in owners]
                intent.add(through.rows, clears)
