"""Cache classes for the rows at the end of relations."""

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
    """A cached lookup of the one row at the end of a relation path. It begins at the rows that have a key.

    >>> class CityOfEvent(RelatedInstanceCache[City]):
    ...     model = Event
    ...     key_fields = ("slug",)
    ...     relation = "venue__city"
    >>> city = await CityOfEvent("pycon")

    ``relation`` follows any number of foreign keys and one-to-one relations, forwards and, by their ``related_name``,
    backwards. Raises ``DoesNotExist`` of the related model if there is no such row, also if a foreign key on the path
    is null. Raises ``MultipleObjectsReturned`` if the path leads to several rows.

    The class stores no entries of its own, only rows and the keys under which each model's rows are found. So every
    write to a row on the path is seen. ``timeout`` and other settings come from the ``CacheMeta`` of the models.
    ``key``, ``explain``, ``refresh`` and ``invalidate`` refer to the rows at which the path begins.
    """

    relation: ClassVar[str]

    def plan(self, cache: OpenCache, scope: Scope | None) -> Plan[M]:
        path = cast("RelationPath", self.declared_entries(cache))
        return cast("M", exactly_one(path.end, (yield from self._follow_path(cache, path, scope))))


class RelatedQuerysetCache(DeclaredQuery[list[M]], Generic[M]):
    """A cached lookup of all rows at the end of a relation path, each once. It begins at the rows that have a key.

    >>> class Attendees(RelatedQuerysetCache[User]):
    ...     model = Event
    ...     key_fields = ("slug",)
    ...     relation = "participations__user"
    >>> users = await Attendees("pycon")

    Rows come in the order of the rows on the path. Each model's rows have the order of its list by the foreign key, if
    its ``CacheMeta`` declares one, or else of its ``Meta.ordering``. For ``relation`` see ``RelatedInstanceCache``.
    """

    relation: ClassVar[str]

    def finish(self, found: Sequence[Any]) -> list[M]:
        return list(found)


RELATED = (RelatedInstanceCache, RelatedQuerysetCache)
