"""The writes of ``CachedModel``'s instances. ``save()`` and ``delete()`` of users start here."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.signals import Signals

from aiomodelcache.orm.changes import clear_changes, noting
from aiomodelcache.orm.meta import mark_fresh
from aiomodelcache.orm.outcomes import after_statement, before_statement
from aiomodelcache.write import calls, saves

if TYPE_CHECKING:
    from tortoise.models import Model as _Base
else:
    _Base = object  # Tortoise reads the source of each model's class when it is made, which takes long for this one


class CapturedWrites(_Base):
    """The methods of ``CachedModel`` that write or read an instance."""

    @noting
    def __setattr__(self, key: str, value: Any) -> None:
        cast("Any", super()).__setattr__(key, value)

    async def save(
        self,
        using_db: BaseDBAsyncClient | None = None,
        update_fields: Iterable[str] | None = None,
        force_create: bool = False,
        force_update: bool = False,
    ) -> None:
        """Saves like Tortoise's ``Model.save``. A failed save leaves no entry in the cache.

        Raises ``StaleInstanceError`` for all columns of an instance that a stale copy answered, and
        ``ReadOnlyInstanceError``.
        """
        # An iterator can be read only once, but the hooks, the listeners and the statement read it.
        fields = None if update_fields is None else list(update_fields)
        calls.refuse_write(self, fields)
        save = super().save

        async def captured() -> None:
            async with (
                calls.intent_scope(self, updating=force_update),
                saves.connection_for(self, using_db, fields, inserting=force_create) as client,
            ):
                await save(client, fields, force_create, force_update)

        await saves.run_write(captured, self, using_db)

    async def refresh_from_db(
        self, fields: Iterable[str] | None = None, using_db: BaseDBAsyncClient | None = None
    ) -> None:
        """Refreshes like Tortoise's ``Model.refresh_from_db``. Without ``fields``, the instance may be saved again.

        That concerns instances that a stale copy answered.
        """
        calls.refuse_write(self, action="refresh_from_db()")
        await super().refresh_from_db(fields, using_db)
        if not fields:
            mark_fresh(self)
            clear_changes(self)

    async def delete(self, using_db: BaseDBAsyncClient | None = None) -> None:
        """Deletes like Tortoise's ``Model.delete``. A failed delete leaves no entry in the cache."""
        calls.refuse_write(self, action="delete()")
        delete = super().delete

        async def captured() -> None:
            async with calls.intent_scope(self), saves.connection_for(self, using_db, deleting=True) as client:
                await delete(client)

        await saves.run_write(captured, self, using_db)

    # Tortoise calls these hooks, which call listeners, each as a task in a `gather`. The cache is no listener of these
    # models: a task and three turns of the event loop cost more than its own work.

    @before_statement
    async def _pre_save(
        self, using_db: BaseDBAsyncClient | None = None, update_fields: Iterable[str] | None = None
    ) -> None:
        if saves.has_listeners(self, Signals.pre_save):
            await super()._pre_save(using_db, update_fields)
        await saves.before_save(self, using_db, update_fields)

    @after_statement
    async def _post_save(
        self,
        using_db: BaseDBAsyncClient | None = None,
        created: bool = False,
        update_fields: Iterable[str] | None = None,
    ) -> None:
        await saves.after_save(self, created, using_db, update_fields)
        if saves.has_listeners(self, Signals.post_save):
            await super()._post_save(using_db, created, update_fields)

    @before_statement
    async def _pre_delete(self, using_db: BaseDBAsyncClient | None = None) -> None:
        if saves.has_listeners(self, Signals.pre_delete):
            await super()._pre_delete(using_db)
        await saves.before_delete(self, using_db)

    @after_statement
    async def _post_delete(self, using_db: BaseDBAsyncClient | None = None) -> None:
        await saves.after_delete(self, using_db)
        if saves.has_listeners(self, Signals.post_delete):
            await super()._post_delete(using_db)
