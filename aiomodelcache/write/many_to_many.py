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
from aiomodelcache.open_cache import Session, current_or_none, linked_sessions, lists_in
from aiomodelcache.orm.connections import is_finished, outermost, relation_client, transaction
from aiomodelcache.orm.meta import is_saved, pk_of
from aiomodelcache.orm.relations import link_table, many_to_many, many_to_many_names
from aiomodelcache.orm.select import linked_to
from aiomodelcache.orm.statements import lock_by_pk
from aiomodelcache.query.many_to_many import ListQuery
from aiomodelcache.scopes.request import current_scope
from aiomodelcache.write.affected import touch_model
from aiomodelcache.write.saves import is_settled
from aiomodelcache.write.transactions import Intents, abandon, enlist, settle


class CachedManyToMany(property):
    """The property of a relation whose writes are seen."""


def install(model: type[Model], session: Session) -> None:
    """Lets those many-to-many relations of a model that matter to a cache announce their writes."""
    for name in many_to_many_names(model):
        relation, original = many_to_many(model, name), getattr(model, name)
        if relation is not None and session.links(relation.table) and not isinstance(original, CachedManyToMany):
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
        session = current_or_none()
        through = session.list_of(type(self.instance), self._name()) if session is not None else None
        if session is None or through is None or not is_saved(self.instance):
            return super().__await__()
        return ListQuery(through, self.instance.pk, session).__await__()

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
        sessions = linked_sessions(self.field)
        if not sessions or others == () or not all(map(is_saved, [self.instance, *(others or ())])):
            await write(using_db=using_db)
            return
        client = using_db or relation_client(self.remote_model)
        pks = None if others is None else [other.pk for other in others]
        theirs = [each for session in sessions for each, own in lists_in(session, self.field) if not own]
        if pks is None and theirs and not is_finished(client):
            async with transaction(client) as own:  # while its row is locked nobody can link it to others
                model = type(self.instance)
                await lock_by_pk(model, own, [self.instance.pk], [pk_of(model)])
                limit = max(session.config.bulk_limit for session in sessions)
                through = theirs[0]
                pks = await linked_to(through.relation, through.owner, [self.instance.pk], own, limit)
                await self._write(own, sessions, pks if len(pks) <= limit else None, write)
        else:
            await self._write(client, sessions, pks, write)

    async def _write(
        self,
        client: BaseDBAsyncClient,
        sessions: Sequence[Session],
        pks: Sequence[Any] | None,
        write: Callable[..., Awaitable[None]],
    ) -> None:
        outer = outermost(client)
        intents: Intents = {session: enlist(outer, session) if outer else Intent() for session in sessions}
        for session, intent in intents.items():
            self._touch(session, intent, pks)
        try:
            if outer is None:
                for session, intent in intents.items():
                    await session.writer.mark(intent)
            await write(using_db=client)
        except BaseException as error:
            if outer is None:
                if is_settled(error):
                    await settle(intents, committed=False)
                else:
                    abandon(intents)
            raise
        finally:
            for intent in intents.values():
                intent.drop_from(current_scope())
        if outer is None:
            await settle(intents, committed=True)

    def _touch(self, session: Session, intent: Intent, pks: Sequence[Any] | None) -> None:
        """Adds the lists that a write of links to these rows changes, and everything about a model of the links."""
        for binding in session.bindings.values():
            if binding.schema.table == link_table(self.field):
                touch_model(intent, binding)
        for through, own in lists_in(session, self.field):
            owners = [self.instance.pk] if own else pks
            if owners is None:
                intent.add_model(through.rows)
            else:
                clears = [Clear(through.key((through.owner_value(pk),))) for pk in owners]
                intent.add(through.rows, clears)
