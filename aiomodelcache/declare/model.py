"""``CachedModel``: a Tortoise model with a cache. ``save()`` and ``delete()`` of users start here."""

from collections.abc import Iterable
from typing import Any, ClassVar, cast

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.models import Model

from aiomodelcache.declare.manager import CacheAttribute
from aiomodelcache.declare.queryset_types import QueriedModel
from aiomodelcache.declare.registry import watch
from aiomodelcache.exceptions import CacheConfigurationError
from aiomodelcache.orm.changes import forget_changes, noting
from aiomodelcache.orm.meta import mark_fresh
from aiomodelcache.write import calls, saves


class CachedModel(QueriedModel):
    """A Tortoise model with a cache: ``Event.cache``. Rows are cached by primary key without any declaration.

    >>> class Event(CachedModel):
    ...     id = fields.IntField(primary_key=True)
    ...     slug = fields.CharField(max_length=64, unique=True)
    ...
    ...     class CacheMeta:
    ...         get_key_fields_list = [("slug",)]
    """

    __aiomodelcache__ = True
    cache: ClassVar = CacheAttribute()  # the bare ClassVar lets models narrow the type, for mypy and for pyright

    class Meta(Model.Meta):
        abstract = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not isinstance(cls.__dict__.get("cache", CacheAttribute()), CacheAttribute):
            raise CacheConfigurationError(f"{cls.__name__}.cache hides the cache manager: rename the attribute.")
        watch(cls)

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
        # An iterator can be read only once, but both the listeners and the statement read it.
        fields = None if update_fields is None else list(update_fields)
        calls.refuse_write(self, fields)
        save = super().save

        async def captured() -> None:
            async with (
                calls.intent_scope(self, updating=force_update),
                saves.connection_for(self, using_db, fields, inserting=force_create) as client,
            ):
                await save(client, fields, force_create, force_update)

        await saves.run(captured, self, using_db)

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
            forget_changes(self)

    async def delete(self, using_db: BaseDBAsyncClient | None = None) -> None:
        """Deletes like Tortoise's ``Model.delete``. A failed delete leaves no entry in the cache."""
        calls.refuse_write(self, action="delete()")
        delete = super().delete

        async def captured() -> None:
            async with calls.intent_scope(self), saves.connection_for(self, using_db, deleting=True) as client:
                await delete(client)

        await saves.run(captured, self, using_db)
