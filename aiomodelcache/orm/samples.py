"""Rows that are chosen for a comparison of another cache with the database.

The rows are those that the model's own manager shows, read on the primary. Needs no declaration of a cache.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pypika_tortoise.terms import Function
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.models import Model

from aiomodelcache.orm.connections import router_client
from aiomodelcache.orm.meta import RowValues, column_names, meta_of, pk_of

GUESSES: Final = 10_000
"""Maximum number of primary keys that one statement asks for, if they are guessed."""
ROUNDS: Final = 10
"""Maximum number of statements with guesses. Beyond it, the database sorts all rows by a random number."""


class AuditedRows:
    """The rows of one model. ``model`` may be any model that Tortoise knows."""

    def __init__(self, model: type[Model]) -> None:
        self.model = model
        self.pk = pk_of(model)
        self.columns = column_names(model)
        self._client: BaseDBAsyncClient = router_client(model, for_write=True)

    @property
    def _rows(self) -> Any:
        return meta_of(self.model).manager.get_queryset().using_db(self._client)

    async def random_pks(self, number: int) -> list[Any]:
        """Returns the primary keys of at most ``number`` rows in random order. Each row is equally likely.

        Integers between the lowest and the highest primary key are guessed, which reads few rows of a large table. For
        other primary keys, and if too few of the guesses exist, the database sorts all rows by a random number.
        """
        if meta_of(self.model).fields_map[self.pk].field_type is int:
            found = await self._guessed_pks(number)
            if found is not None:
                return found
        name = "RAND" if self._client.capabilities.dialect == "mysql" else "RANDOM"
        rows = self._rows.annotate(chosen_by=Function(name)).order_by("chosen_by")
        return [*await rows.limit(number).values_list(self.pk, flat=True)]

    async def newest_pks(self, number: int, updated: str) -> list[Any]:
        """Returns the primary keys of the rows that were changed last, by the column ``updated``."""
        return [*await self._rows.order_by(f"-{updated}").limit(number).values_list(self.pk, flat=True)]

    async def read(self, pks: Sequence[Any]) -> Mapping[Any, RowValues]:
        """Returns the columns of the rows that exist, by primary key."""
        return {row[self.pk]: row for row in await self._with_pks(pks).values(*self.columns)}

    def _with_pks(self, pks: Sequence[Any]) -> Any:
        conditions = {f"{self.pk}__in": [*pks]}
        return self._rows.filter(**conditions)

    async def _guessed_pks(self, number: int) -> list[Any] | None:
        """Returns as ``random_pks``, or None if guessing is of no use."""
        lowest, highest = [
            await self._rows.order_by(order).first().values_list(self.pk, flat=True)
            for order in (self.pk, f"-{self.pk}")
        ]
        if lowest is None or highest is None or highest - lowest < 2 * number:
            return None
        found: dict[Any, None] = {}
        for _ in range(ROUNDS):
            guesses = {random.randint(lowest, highest) for _ in range(min(2 * number, GUESSES))}
            found.update(dict.fromkeys(await self._with_pks([*guesses]).values_list(self.pk, flat=True)))
            if len(found) >= number:
                return random.sample([*found], number)
        return None
