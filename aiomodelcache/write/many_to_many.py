"""Many-to-many writes: ``add``, ``remove`` and ``clear`` of a relation, from either side.

Tortoise sends SQL to the table of links and fires no signal. On the user's own model classes, and for the relations of
which lists are cached only, the property that returns a relation returns one of a subclass that announces what
it is about to do. Awaited, it answers from the cache. Without an open cache it behaves as before.
"""

from collections.abc import Awaitable, Callable, Generator, Sequence
from functools import partial
from typing import Any, cast

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.fields.relational import ManyToManyRelation
from tortoise.models import Model

from aiomodelcache.backends.protocol import Clear
from aiomodelcache.engine.intent import Intent
from aiomodelcache.open_cache import OpenCache, caches_with_links, default_cache_or_none, lists_over
from aiomodelcache.orm.connections import is_finished, outermost, relation_client, transaction
from aiomodelcache.orm.meta import is_saved, pk_of
from aiomodelcache.orm.outcomes import is_settled
from aiomodelcache.orm.relations import many_to_many, many_to_many_names, through_table
from aiomodelcache.orm.select import linked_to
from aiomodelcache.orm.statements import lock_by_pk
from aiomodelcache.query.many_to_many import ListQuery
from aiomodelcache.scopes.request import current_scope
from aiomodelcache.write.affected import collect_model_key
from aiomodelcache.write.transactions import Intents, abandon, finish_intents, transaction_intent


class CachedManyToMany(property):
    """The property of a relation whose writes are seen."""


def install(model: type[Model], cache: OpenCache) -> None:
    """Lets those many-to-many relations of a model that matter to a cache announce their writes."""
    for name in many_to_many_names(model):
        relation, original = many_to_many(model, name), getattr(model, name)
        if relation is not None and cache.links(relation.table) and not isinstance(original, CachedManyToMany):
            get = partial(_tracked, original.fget)
            setattr(model, name, CachedManyToMany(get, original.fset, original.fdel))


def _tracked(original: Callable[[Model], Any], instance: Model) -> Any:
    relation = original(instance)
    if type(relation) is ManyToManyRelation:
        relation.__class__ = TrackedRelation
    return cast("Any", relation)


class TrackedRelation(ManyToManyRelation[Any]):
    """A many-to-many relation whose writes are seen, and whose rows come from the cache."""

    def __await__(self) -> Generator[Any, None, list[Any]]:
        cache = default_cache_or_none()
        through = cache.list_of(type(self.instance), self._name()) if cache is not None else None
        if cache is None or through is None or not is_saved(self.instance):
            return super().__await__()
        return ListQuery(through, self.instance.pk, cache).__await__()

    def _name(self) -> str:
        return str(self.field.model_field_name)

    async def add(self, *instances: Any, using_db: BaseDBAsyncClient | None = None) -> None:
        """See ``ManyToManyRelation.add``."""
        await self._announced(instances, using_db, partial(super().add, *instances))

    async def remove(self, *instances: Any, using_db: BaseDBAsyncClient | None = None) -> None:
        """See ``ManyToManyRelation.remove``."""
        await self._announced(instances, using_db, partial(super().remove, *instances))

    async def clear(self, using_db: BaseDBAsyncClient | None = None) -> None:
        """See ``ManyToManyRelation.clear``."""
        await self._announced(None, using_db, super().clear)

    async def _announced(
        self,
        others: Sequence[Model] | None,
        using_db: BaseDBAsyncClient | None,
        write: Callable[..., Awaitable[None]],
    ) -> None:
        """Runs one of Tortoise's methods; ``others`` are the rows at the other end, None: whichever are linked."""
        caches = caches_with_links(self.field)
        if not caches or others == () or not all(map(is_saved, [self.instance, *(others or ())])):
            await write(using_db=using_db)
            return
        client = using_db or relation_client(self.remote_model)
        pks = None if others is None else [other.pk for other in others]
        theirs = [each for cache in caches for each, own in lists_over(cache, self.field) if not own]
        if pks is None and theirs and not is_finished(client):
            async with transaction(client) as own:  # while its row is locked nobody can link it to others
                model = type(self.instance)
                await lock_by_pk(model, own, [self.instance.pk], [pk_of(model)])
                limit = max(cache.config.bulk_limit for cache in caches)
                through = theirs[0]
                pks = await linked_to(through.relation, through.owner, [self.instance.pk], own, limit)
                await self._write(own, caches, pks if len(pks) <= limit else None, write)
        else:
            await self._write(client, caches, pks, write)

    async def _write(
        self,
        client: BaseDBAsyncClient,
        caches: Sequence[OpenCache],
        pks: Sequence[Any] | None,
        write: Callable[..., Awaitable[None]],
    ) -> None:
        outer = outermost(client)
        intents: Intents = {cache: transaction_intent(outer, cache) if outer else Intent() for cache in caches}
        for cache, intent in intents.items():
            self._touch(cache, intent, pks)
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
                    abandon(intents)
            raise
        finally:
            for intent in intents.values():
                intent.drop_from(current_scope())
        if outer is None:
            await finish_intents(intents, committed=True)

    def _touch(self, cache: OpenCache, intent: Intent, pks: Sequence[Any] | None) -> None:
        """Adds the lists that a write of links to these rows changes, and everything about a model of the links."""
        for entries in cache.models.values():
            if entries.schema.table == through_table(self.field):
                collect_model_key(intent, entries)
        for through, own in lists_over(cache, self.field):
            owners = [self.instance.pk] if own else pks
            if owners is None:
                intent.add_model(through.rows)
            else:
                clears = [Clear(through.key((through.owner_value(pk),))) for pk in owners]
                intent.add(through.rows, clears)
