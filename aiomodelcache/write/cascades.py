"""What the database will do by itself when rows are deleted: cascade to the rows that refer to them.

No signal tells of these, so the rows are looked up before the delete, in its transaction, and locked:
nobody can add to them or change them until it is committed. Only cached models, and models on the way
to one, are looked up; a model without any costs nothing.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.fields.base import OnDelete
from tortoise.models import Model

from aiomodelcache.backends.protocol import Clear
from aiomodelcache.engine.intent import Intent
from aiomodelcache.entries.many_to_many import Through
from aiomodelcache.entries.model import Binding
from aiomodelcache.orm.meta import pk_of
from aiomodelcache.orm.relations import Reference, references
from aiomodelcache.orm.select import linked_to, select_locked
from aiomodelcache.write.affected import key_attributes, result_attributes, touch, touch_model, touch_results

Bound = Mapping[type[Model], Binding]
Row = Mapping[str, Any]


class Cascades:
    """The foreign keys by which deleting a row changes rows of models that are cached.

    ``limit``: of how many rows of one model at a time the keys are named; of more, the model is forgotten.
    """

    def __init__(self, bound: Bound, models: Collection[type[Model]], limit: int) -> None:
        self._bound = bound
        self._lists: dict[type[Model], list[Through]] = {}
        for through in [through for binding in bound.values() for through in binding.owned]:
            self._lists.setdefault(through.schema.model, []).append(through)
        self._limit = limit
        every = [each for each in references(models) if each.on_delete not in (OnDelete.RESTRICT, OnDelete.NO_ACTION)]
        self._by_parent: dict[type[Model], list[Reference]] = {}
        for each in every:
            if each.child in bound or (each.on_delete is OnDelete.CASCADE and _reaches(each.child, every, bound)):
                self._by_parent.setdefault(each.parent, []).append(each)

    def concerns(self, model: type[Model]) -> bool:
        """Whether deleting rows of ``model`` changes what is cached of other rows."""
        return bool(self.of(model) or self.listing(model))

    def listing(self, model: type[Model]) -> list[Through]:
        """The many-to-many lists that rows of ``model`` may be in."""
        return self._lists.get(model, [])

    def of(self, model: type[Model]) -> list[Reference]:
        """The foreign keys to ``model`` that have to be followed when rows of it are deleted."""
        return self._by_parent.get(model, [])

    def needed(self, model: type[Model]) -> list[str]:
        """The attributes of ``model`` that its cascades are followed by."""
        own = [pk_of(model)] if self.listing(model) else []
        return list(dict.fromkeys([*own, *(each.to_field for each in self.of(model))]))

    async def touch_lists(
        self, intent: Intent, model: type[Model], rows: Sequence[Row], client: BaseDBAsyncClient
    ) -> None:
        """Adds the many-to-many lists that rows of ``model`` are in: no list can tell that they are not any more.

        A row that is there again under the same primary key would be believed to be linked as before.
        """
        for through in self.listing(model):
            owners = await linked_to(
                through.relation, through.owner, [row[pk_of(model)] for row in rows], client, self._limit
            )
            if len(owners) > self._limit:
                intent.add_model(through.rows)
            else:
                intent.add(through.rows, [Clear(through.key((owner,))) for owner in owners])

    async def touch(self, intent: Intent, model: type[Model], rows: Sequence[Row], client: BaseDBAsyncClient) -> None:
        """Adds the keys of all rows that deleting ``rows`` of ``model``, which are locked, will delete or change."""
        lost: dict[tuple[type[Model], Any], dict[str, Any]] = {}  # a row may lose several references
        seen: set[tuple[type[Model], Any]] = set()
        waiting = [(model, rows)]
        while waiting:
            parent, rows = waiting.pop()
            await self.touch_lists(intent, parent, rows, client)
            for each in self.of(parent):
                values = list(dict.fromkeys([row[each.to_field] for row in rows if row[each.to_field] is not None]))
                children = await self._children(each, values, client) if values else []
                if len(children) > self._limit:
                    self._touch_models(intent, each)
                    continue
                pk = pk_of(each.child)
                fresh: list[Row] = []
                for child in children:
                    key = (each.child, child[pk])
                    if each.on_delete is OnDelete.CASCADE:
                        if key not in seen:
                            fresh.append(child)
                        seen.add(key)
                        self._touch_row(intent, each, child)
                    else:
                        if each.child in self._bound:
                            touch_results(intent, self._bound[each.child], child, {each.attribute})
                        lost.setdefault(key, {})[each.attribute] = each.left
                        self._touch_row(intent, each, {**child, **lost[key]})
                if fresh:
                    waiting.append((each.child, fresh))

    def _touch_row(self, intent: Intent, each: Reference, row: Row) -> None:
        binding = self._bound.get(each.child)
        if binding is not None:
            deleted = each.on_delete is OnDelete.CASCADE
            touch(intent, binding, row, () if deleted else {each.attribute}, exists=not deleted)

    def touch_models(self, intent: Intent, model: type[Model]) -> None:
        """Adds everything about all models whose rows deleting rows of ``model`` may delete or change."""
        seen: set[type[Model]] = {model}
        waiting = [model]
        while waiting:
            parent = waiting.pop()
            for through in self.listing(parent):
                intent.add_model(through.rows)
            for each in self.of(parent):
                if each.child in self._bound:
                    touch_model(intent, self._bound[each.child])
                if each.on_delete is OnDelete.CASCADE and each.child not in seen:
                    seen.add(each.child)
                    waiting.append(each.child)

    def _touch_models(self, intent: Intent, each: Reference) -> None:
        if each.child in self._bound:
            touch_model(intent, self._bound[each.child])
        if each.on_delete is OnDelete.CASCADE:
            self.touch_models(intent, each.child)

    async def _children(
        self, each: Reference, values: Sequence[Any], client: BaseDBAsyncClient
    ) -> list[dict[str, Any]]:
        binding = self._bound.get(each.child)
        wanted = [pk_of(each.child), *self.needed(each.child)]
        if binding is not None:
            deleted = each.on_delete is OnDelete.CASCADE
            wanted += result_attributes(binding) if deleted else key_attributes(binding, {each.attribute})
        return await select_locked(each.child, client, each.attribute, values, wanted, self._limit)


def _reaches(model: type[Model], every: Sequence[Reference], bound: Bound) -> bool:
    """Whether deleting rows of ``model`` deletes or changes rows of a cached model."""
    seen: set[type[Model]] = set()
    waiting = [model]
    while waiting:
        parent = waiting.pop()
        seen.add(parent)
        for each in every:
            if each.parent is parent:
                if each.child in bound:
                    return True
                if each.on_delete is OnDelete.CASCADE and each.child not in seen:
                    waiting.append(each.child)
    return False
