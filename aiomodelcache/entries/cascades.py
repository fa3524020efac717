"""The foreign keys by which deleting rows of one model changes cached rows of other models.

Knows declarations only. ``write.cascades`` finds the rows.
"""

from collections.abc import Collection, Mapping, Sequence

from tortoise.fields.base import OnDelete
from tortoise.models import Model

from aiomodelcache.entries.many_to_many import ManyToManyEntries
from aiomodelcache.entries.model import ModelEntries
from aiomodelcache.orm.meta import pk_of
from aiomodelcache.orm.relations import ForeignKey, enforced_foreign_keys

Bound = Mapping[type[Model], ModelEntries]


class CascadeGraph:
    """The foreign keys and many-to-many lists that a delete may reach, from each model.

    ``limit`` is the maximum number of rows of one model whose keys are collected. Beyond it the whole model is
    invalidated.
    """

    def __init__(self, bound: Bound, models: Collection[type[Model]], limit: int) -> None:
        self.bound = bound
        self.limit = limit
        self._lists: dict[type[Model], list[ManyToManyEntries]] = {}
        for through in [through for entries in bound.values() for through in entries.owned]:
            self._lists.setdefault(through.schema.model, []).append(through)
        refusing = (OnDelete.RESTRICT, OnDelete.NO_ACTION)
        keys = [key for key in enforced_foreign_keys(models) if key.on_delete not in refusing]
        self._by_parent: dict[type[Model], list[ForeignKey]] = {}
        for key in keys:
            if key.child in bound or (key.on_delete is OnDelete.CASCADE and _reaches(key.child, keys, bound)):
                self._by_parent.setdefault(key.parent, []).append(key)

    def affects(self, model: type[Model]) -> bool:
        """Returns True if deleting rows of ``model`` changes the entries of other rows."""
        return bool(self.foreign_keys_to(model) or self.lists_of(model))

    def lists_of(self, model: type[Model]) -> list[ManyToManyEntries]:
        """Returns the many-to-many lists that may contain rows of ``model``."""
        return self._lists.get(model, [])

    def foreign_keys_to(self, model: type[Model]) -> list[ForeignKey]:
        """Returns the foreign keys to ``model`` to follow when its rows are deleted."""
        return self._by_parent.get(model, [])

    def columns_needed(self, model: type[Model]) -> list[str]:
        """Returns the attributes of ``model`` whose values are needed to follow its cascades."""
        own = [pk_of(model)] if self.lists_of(model) else []
        return list(dict.fromkeys([*own, *(key.to_field for key in self.foreign_keys_to(model))]))


def _reaches(model: type[Model], keys: Sequence[ForeignKey], bound: Bound) -> bool:
    """Returns True if deleting rows of ``model`` deletes or changes rows of a cached model."""
    seen: set[type[Model]] = set()
    pending = [model]
    while pending:
        parent = pending.pop()
        seen.add(parent)
        for key in keys:
            if key.parent is parent:
                if key.child in bound:
                    return True
                if key.on_delete is OnDelete.CASCADE and key.child not in seen:
                    pending.append(key.child)
    return False
