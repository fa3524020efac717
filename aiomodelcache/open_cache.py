"""One open cache: the models bound to it, its reader, its writer; and which open cache is the default.

A ``Session`` is what look-ups and writes see of a ``ModelCache``. It lives from open to close.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Self

from tortoise.models import Model

from aiomodelcache.backends.breaker import Link
from aiomodelcache.config import CacheConfig
from aiomodelcache.engine.reader import Reader
from aiomodelcache.engine.tasks import Tasks
from aiomodelcache.engine.writer import Writer
from aiomodelcache.entries.many_to_many import Through
from aiomodelcache.entries.model import Binding, Source
from aiomodelcache.entries.predictions import Guesses
from aiomodelcache.entries.results import Result
from aiomodelcache.exceptions import CacheNotOpen, CacheNotRegistered
from aiomodelcache.observe.stats import Stats
from aiomodelcache.orm.relations import link_table
from aiomodelcache.orm.schema import ModelSchema
from aiomodelcache.plans.paths import Walk
from aiomodelcache.scopes.bypass import Switch
from aiomodelcache.write.cascades import Cascades


@dataclass(slots=True, eq=False)
class Session:
    """An open cache's inner half."""

    config: CacheConfig
    stats: Stats
    link: Link
    switch: Switch
    reader: Reader
    writer: Writer
    guesses: Guesses
    tasks: Tasks
    loop: asyncio.AbstractEventLoop
    bindings: dict[type[Model], Binding]
    declared: dict[type, Source | Result | Walk]
    """Stand-alone cache classes -> their key, what they compute, or the way to their rows."""
    namespace: str
    cascades: Cascades
    lists: list[Through] = field(default_factory=list[Through])
    """Every many-to-many list."""
    values: dict[object, Result] = field(default_factory=dict[object, Result])
    """Classes and functions whose values depend on no model, as far as they were used."""
    managers: dict[type[Model], Any] = field(default_factory=dict[type[Model], Any])
    """Model -> its manager on the default cache, made when it is first asked for."""
    connections: list[ModelSchema] = field(init=False)
    """A model of each connection."""
    closed: bool = False

    def __post_init__(self) -> None:
        self.connections = list({each.schema.connection: each.schema for each in self.bindings.values()}.values())

    def usable(self) -> Self:
        """Returns itself. Raises ``CacheNotOpen`` if it is closed, or was opened in another event loop."""
        if self.closed:
            raise CacheNotOpen(CLOSED)
        if self.loop is not asyncio.get_running_loop():
            raise CacheNotOpen(
                "This cache was opened in another event loop: close it there and open one in the loop that uses it."
            )
        return self

    def binding(self, model: type[Model]) -> Binding:
        """Returns what is known of a model. Raises ``CacheNotRegistered`` if it is not bound to this cache."""
        try:
            return self.bindings[model]
        except KeyError:
            raise CacheNotRegistered(
                f"{model.__name__} is not bound to the open cache: make it a CachedModel or give it a "
                "ModelCacheManager, and let Tortoise.init load its module before the cache opens."
            ) from None

    @property
    def in_transaction(self) -> bool:
        """Whether the caller has a transaction open, on whatever connection the cache's models use."""
        return any(schema.transaction() is not None for schema in self.connections)

    def links(self, table: str) -> bool:
        """Whether a table holds links of lists that are cached, or is itself that of a cached model."""
        tables = [each.relation.table for each in self.lists]
        return table in tables or any(binding.schema.table == table for binding in self.bindings.values())

    def list_of(self, model: type[Model], name: str) -> Through | None:
        """The list over a many-to-many relation, as Tortoise orders it; None if it is not cached."""
        binding = self.bindings.get(model)
        owned = binding.owned if binding is not None else []
        found = [each for each in owned if each.relation.name == name and each.limit is None]
        return next((each for each in found if each.order_by == each.schema.ordering), None)


open_sessions: list[Session] = []
"""Every open cache of this process; writes invalidate in all of them."""
_default: Session | None = None
CLOSED: Final = "This cache is closed: use it inside `async with`, or call open() first."


def bindings_of(model: type[Model]) -> list[tuple[Session, Binding]]:
    """Every open cache that the model is bound to. Raises ``CacheNotOpen`` in another event loop than the cache's."""
    return [
        (session.usable(), session.bindings[model])
        for session in open_sessions
        if model in session.bindings and not session.loop.is_closed()
    ]


def cascading(model: type[Model]) -> list[Session]:
    """Every open cache in which deleting rows of the model changes cached rows of others.

    Raises ``CacheNotOpen`` in another event loop than the cache's.
    """
    return [session.usable() for session in _alive() if session.cascades.concerns(model)]


def lists_of_hidden(model: type[Model], bindings: Iterable[tuple[Session, Binding]] | None = None) -> list[Session]:
    """The open caches in which a change of a row may bring it back into many-to-many lists that do not know it."""
    if bindings is None:
        bindings = bindings_of(model)
    return [session for session, binding in bindings if binding.schema.hides_rows and session.cascades.listing(model)]


def lists_in(session: Session, relation: Any) -> list[tuple[Through, bool]]:
    """The lists over the links of a relation (Tortoise's field): each, and whether it is by the relation's own side."""
    found = [each for each in session.lists if each.relation.table == link_table(relation)]
    return [(each, each.relation.own_column == relation.backward_key) for each in found]


def linked_sessions(relation: Any) -> list[Session]:
    """Every open cache that the links of a relation matter to. Raises ``CacheNotOpen`` in another event loop."""
    return [session.usable() for session in _alive() if session.links(link_table(relation))]


def _alive() -> list[Session]:
    """The open caches, without those whose program ended their event loop and did not close them."""
    return [session for session in open_sessions if not session.loop.is_closed()]


def default_session() -> Session:
    """Returns the process's default cache. Raises ``CacheNotOpen`` if there is none."""
    if _default is None:
        raise CacheNotOpen(
            "The default cache is closed: reach the one that is open by its manager(model)."
            if open_sessions
            else "No cache is open: wrap the application in `async with ModelCache(url):` after Tortoise.init."
        )
    return _default


def current_or_none() -> Session | None:
    """Returns the process's default cache, if one is open."""
    return _default


def opened(session: Session) -> None:
    """Registers an open cache; the first one becomes the default."""
    global _default
    for forgotten in set(open_sessions) - set(_alive()):
        closed(forgotten)
    open_sessions.append(session)
    if _default is None:
        _default = session


def closed(session: Session) -> None:
    """Forgets a cache."""
    global _default
    session.closed = True
    if session in open_sessions:
        open_sessions.remove(session)
    if _default is session:
        _default = None
