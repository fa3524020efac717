"""Lookups of a cache, and their allowed answers."""

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
    """A lookup, with its allowed answers."""

    @property
    def by_hand(self) -> bool:
        """True if writes do not invalidate the lookup. Its allowed answers then follow ``Stage.tell``."""
        ...

    def true(self, states: Sequence[State]) -> list[Any]:
        """Returns the answers of lookups that see these states in this order, one state at each step."""
        ...

    async def ask(self, cache: ModelCache, model: type[Model], state: State) -> Any:
        """Returns the answer of a cache in the same form. ``state`` is committed when the lookup begins."""
        ...


@dataclass(frozen=True)
class World:
    """The tables of a scenario, and all lookups that are checked at its end."""

    models: tuple[type[Model], ...]
    """The models in an order in which rows can be inserted. The first has a ``name``, its only required column."""
    everything: Sequence[Question]
    links: tuple[str, ...] = ()
    """A table without a model, followed by its columns."""
    allowance: float = 0
    """The maximum age of an answer in seconds."""
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The settings of both caches."""
    modules: tuple[str, ...] = ()
    """Modules with models beside those of all worlds."""
    at_once: bool = False
    """True if the store stores rows without late leases."""

    def tables(self) -> list[tuple[str, tuple[str, ...]]]:
        """Returns each table with its columns."""
        tables = [(model._meta.db_table, columns_of(model)) for model in self.models]
        return [*tables, *([(self.links[0], self.links[1:])] if self.links else [])]


def columns_of(model: type[Model]) -> tuple[str, ...]:
    return tuple(model._meta.fields_db_projection)


def on_cache(query: Any, cache: ModelCache) -> CacheQuery[Any]:
    """Returns the query bound to a cache."""
    query.explicit_cache = cache.open_cache
    bound: CacheQuery[Any] = query
    return bound


COLUMNS = ("id", "name", "rank", "followers")


@dataclass(frozen=True)
class LookUp:
    """The lookup of the artists with a value."""

    field: str
    value: Any
    by_hand = False

    def true(self, states: Sequence[State]) -> list[Rows]:
        at = COLUMNS.index(self.field)
        return [tuple(row for row in rows if row[at] == self.value) for rows, *_ in states]

    async def ask(self, cache: ModelCache, model: type[Model], state: State) -> Rows:
        artists: Any = cache.manager(model)
        key = {self.field: self.value}
        return as_rows(await (artists.filter(**key) if self.field == "rank" else artists.get_or_none(**key)))


@dataclass(frozen=True)
class Unstored(LookUp):
    """The same lookup, which stores nothing."""

    async def ask(self, cache: ModelCache, model: type[Model], state: State) -> Rows:
        key = {self.field: self.value}
        return as_rows(await cache.manager(model).get_or_none(**key).options(fill=False))


def as_rows(found: Any) -> Rows:
    artists: list[Any] = found if isinstance(found, list) else [] if found is None else [found]
    values = [artist if isinstance(artist, tuple | list) else map(vars(artist).get, COLUMNS) for artist in artists]
    return tuple(sorted(tuple(row) for row in values))


@dataclass(frozen=True)
class RankingOf(LookUp):
    """The lookup of the artists of a rank as a computed result."""

    field: str = "rank"
    value: int = 1

    async def ask(self, cache: ModelCache, model: type[Model], state: State) -> Rows:
        return as_rows(await on_cache(Ranking(self.value), cache))


EVERYTHING = [
    *(LookUp("id", value) for value in (1, 2, 3)),
    *(LookUp("name", value) for value in ("a", "b", "c")),
    *(LookUp("rank", value) for value in (1, 2)),
]
ARTISTS = World((Artist,), EVERYTHING)
DATED = World((DatedArtist,), EVERYTHING, allowance=ALLOWTIME)
REFILLED = World((RefilledArtist,), EVERYTHING)
RANKED = World((RankedArtist,), [*EVERYTHING, RankingOf(value=1), RankingOf(value=2)])
