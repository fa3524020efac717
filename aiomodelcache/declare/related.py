"""What users declare about the rows at the end of relations."""

from collections.abc import Sequence
from typing import Any, ClassVar, Generic, TypeVar, cast

from tortoise.models import Model

from aiomodelcache.declare.classes import DeclaredQuery
from aiomodelcache.open_cache import OpenCache
from aiomodelcache.plans.paths import RelationPath
from aiomodelcache.plans.requests import Plan
from aiomodelcache.query.lookups import exactly_one
from aiomodelcache.scopes.request import Scope

M = TypeVar("M", bound=Model)


class RelatedInstanceCache(DeclaredQuery[M], Generic[M]):
    """The one row at the end of a relation of the rows that have a key.

    >>> class CityOfEvent(RelatedInstanceCache[City]):
    ...     model = Event
    ...     key_fields = ("slug",)
    ...     relation = "venue__city"
    >>> city = await CityOfEvent("pycon")

    ``relation`` goes over any number of foreign keys and one-to-one relations, forwards and, by their
    ``related_name``, backwards. Raises ``DoesNotExist`` of the related model where there is no such row, also
    where a foreign key on the way is null, and ``MultipleObjectsReturned`` where it leads to several.

    Nothing is stored for it but the rows themselves and how each model's are found, so that every write to any of
    them is seen. ``timeout`` and the like are those of the models' ``CacheMeta``; ``key``, ``explain``, ``refresh``
    and ``invalidate`` are about the rows at which it begins.
    """

    relation: ClassVar[str]

    def plan(self, cache: OpenCache, scope: Scope | None) -> Plan[M]:
        path = cast("RelationPath", self.declared_entries(cache))
        return cast("M", exactly_one(path.end, (yield from self._follow_path(cache, path, scope))))


class RelatedQuerysetCache(DeclaredQuery[list[M]], Generic[M]):
    """All rows at the end of a relation of the rows that have a key, each once.

    >>> class Attendees(RelatedQuerysetCache[User]):
    ...     model = Event
    ...     key_fields = ("slug",)
    ...     relation = "participations__user"
    >>> users = await Attendees("pycon")

    In the order of the rows on the way: that of the model's list by the foreign key, if its ``CacheMeta`` has one,
    or else of its ``Meta.ordering``. What else ``relation`` may be is said of ``RelatedInstanceCache``.
    """

    relation: ClassVar[str]

    def finish(self, found: Sequence[Any]) -> list[M]:
        return list(found)


RELATED = (RelatedInstanceCache, RelatedQuerysetCache)
