"""Connections and transactions, as Tortoise's clients represent them."""

from collections.abc import Iterable
from typing import Any, Final, cast

from tortoise.backends.base.client import BaseDBAsyncClient, TransactionalDBClient
from tortoise.context import get_current_context
from tortoise.models import Model

from aiomodelcache.exceptions import CacheConfigurationError
from aiomodelcache.orm.meta import meta_of


def bound_models() -> list[type[Model]]:
    """Returns all models of the current ``Tortoise.init``. Raises ``CacheConfigurationError`` if there was none."""
    context = get_current_context()
    if context is None or context.apps is None:
        raise CacheConfigurationError("Tortoise is not initialised: await Tortoise.init(...) before opening the cache.")
    return list({model: None for app in context.apps.values() for model in app.values()})


def write_client(model: type[Model]) -> BaseDBAsyncClient:
    """Returns the connection that a write of the model goes to now: an open transaction's, if there is one."""
    return cast("BaseDBAsyncClient", cast("Any", model)._choose_db(True))


def relation_client(model: type[Model]) -> BaseDBAsyncClient:
    """Returns the connection that a many-to-many write goes to now. Tortoise asks no router for these writes."""
    return cast("BaseDBAsyncClient", meta_of(model).db)


def root_client(client: Any) -> BaseDBAsyncClient:
    """Returns the client in autocommit mode, even if ``client`` is a transaction's."""
    while isinstance(client, TransactionalDBClient):
        client = cast("Any", client)._parent
    return cast("BaseDBAsyncClient", client)


_ROUTER_CALLS: Final = 32
"""The number of times that a router is asked for the replicas of one model, because it may choose one at random."""


def read_from_primaries(models: Iterable[type[Model]]) -> None:
    """Replaces the replicas that a router names by their primaries, in the current Tortoise context.

    A user's method whose result is cached runs in such a context, so that its queries do not read a lagging replica.
    """
    context = get_current_context()
    for model in models if context is not None else ():
        choose: Any = cast("Any", model)._choose_db
        primary = root_client(choose(True))
        for name in {root_client(choose()).connection_name for _ in range(_ROUTER_CALLS)} - {primary.connection_name}:
            cast("Any", context).connections.set(name, primary)


def outermost(client: BaseDBAsyncClient) -> TransactionalDBClient | None:
    """Returns the client whose COMMIT commits a write on ``client``; None in autocommit mode.

    A savepoint has a client of its own, whose parent is the transaction's. With asyncpg, releasing a savepoint calls
    its client's ``commit``, which commits nothing. A task that outlives its transaction holds a finished client, on
    which each statement commits by itself: the result is None.
    """
    if not isinstance(client, TransactionalDBClient):
        return None
    outer: Any = client
    while isinstance(outer._parent, TransactionalDBClient):
        outer = outer._parent
    return None if outer._finalized else outer


def is_finished(client: BaseDBAsyncClient) -> bool:
    """Returns True for the client of a finished transaction, on which each statement commits by itself."""
    return isinstance(client, TransactionalDBClient) and outermost(client) is None
