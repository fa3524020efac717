"""What can be asked of the database or of a cache, and what the answer may be."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from tortoise.models import Model

from aiomodelcache import ModelCache
from aiomodelcache.query.base import CacheQuery
from tests.protocol.interleavings.models import ALLOWTIME, Artist, DatedArtist, RankedArtist, Ranking, RefilledArtist

Row = tuple[Any, ...]
Rows = tuple[Row, ...]
State = tuple[Rows, ...]
"""The rows of each table of a world."""


class Question(Protocol):
    """A lookup."""

    @property
    def by_hand(self) -> bool:
        """Whether writes tell the cache nothing about it: what is true then is said by ``Stage.tell``."""
        ...

    def true(self, states: Sequence[State]) -> list[Any]:
        """The answers of those who see these states, one after the other, and at each step one of them."""
        ...

    async def ask(self, cache: ModelCache, model: type[Model], state: State) -> Any:
        """What a cache answers, in the same form. ``state`` is what is committed when it is asked."""
        ...


@dataclass(frozen=True)
class World:
    """Which tables there are, and what is to be asked of them in the end."""

    models: tuple[type[Model], ...]
    """In an order in which their rows may be inserted. The first has a ``name``, and rows can be made of that alone."""
    everything: Sequence[Question]
    links: tuple[str, ...] = ()
    """A table without a model, and its columns."""
    allowance: float = 0
    """How old an answer may be, in seconds."""
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Of the caches."""

    def tables(self) -> list[tuple[str, tuple[str, ...]]]:
        """Each table with its columns."""
        tables = [(model._meta.db_table, columns_of(model)) for model in self.models]
        return [*tables, *([(self.links[0], self.links[1:])] if self.links else [])]


def columns_of(model: type[Model]) -> tuple[str, ...]:
    return tuple(model._meta.fields_db_projection)


def chosen(query: Any, cache: ModelCache) -> CacheQuery[Any]:
    """The query on this cache."""
    query.explicit_cache = cache.open_cache
    found: CacheQuery[Any] = query
    return found


COLUMNS = ("id", "name", "rank", "followers")


@dataclass(frozen=True)
class LookUp:
    """The artists with this value."""

    field: str
    value: Any
    by_hand = False

    def true(self, states: Sequence[State]) -> list[Rows]:
        at = COLUMNS.index(self.field)
        return [tuple(row for row in rows if row[at] == self.value) for rows, *_ in states]

    async def ask(self, cache: ModelCache, model: type[Model], state: State) -> Rows:
        artists: Any = cache.manager(model)
        given = {self.field: self.value}
        return as_rows(await (artists.filter(**given) if self.field == "rank" else artists.get_or_none(**given)))


def as_rows(found: Any) -> Rows:
    artists: list[Any] = found if isinstance(found, list) else [] if found is None else [found]
    values = [each if isinstance(each, tuple | list) else map(vars(each).get, COLUMNS) for each in artists]
    return tuple(sorted(tuple(each) for each in values))


@dataclass(frozen=True)
class RankingOf(LookUp):
    """The same, computed."""

    field: str = "rank"
    value: int = 1

    async def ask(self, cache: ModelCache, model: type[Model], state: State) -> Rows:
        return as_rows(await chosen(Ranking(self.value), cache))


EVERYTHING = [
    *(LookUp("id", value) for value in (1, 2, 3)),
    *(LookUp("name", value) for value in ("a", "b", "c")),
    *(LookUp("rank", value) for value in (1, 2)),
]
ARTISTS = World((Artist,), EVERYTHING)
DATED = World((DatedArtist,), EVERYTHING, allowance=ALLOWTIME)
REFILLED = World((RefilledArtist,), EVERYTHING)
RANKED = World((RankedArtist,), [*EVERYTHING, RankingOf(value=1), RankingOf(value=2)])
