"""``CachedModel``: a Tortoise model with a cache."""

from typing import Any, ClassVar

from tortoise.models import Model

from aiomodelcache.declare.captured import CapturedWrites
from aiomodelcache.declare.manager import CacheAttribute
from aiomodelcache.declare.queryset_types import QueriedModel
from aiomodelcache.declare.registry import record_model
from aiomodelcache.exceptions import CacheConfigurationError


class CachedModel(CapturedWrites, QueriedModel):
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
        record_model(cls)
