"""Connections, transactions, and the outcome of statements, as Tortoise's clients know them."""

from collections.abc import Iterable
from typing import Any, Final, cast

from tortoise.backends.base.client import BaseDBAsyncClient, TransactionalDBClient
from tortoise.context import get_current_context
from tortoise.models import Model

from aiomodelcache.exceptions import CacheConfigurationError
from aiomodelcache.orm.meta import meta_of


def bound_models() -> list[type[Model]]:
    """All models of the current ``Tortoise.init``. Raises ``CacheConfigurationError`` if there was none."""
    context = get_current_context()
    if context is None or context.apps is None:
        raise CacheConfigurationError("Tortoise is not initialised: await Tortoise.init(...) before opening the cache.")
    return list({model: None for app in context.apps.values() for model in app.values()})


def write_client(model: type[Model]) -> BaseDBAsyncClient:
    """The connection that a write of the model goes to now: an open transaction's, if there is one."""
    return cast("BaseDBAsyncClient", cast("Any", model)._choose_db(True))


def relation_client(model: type[Model]) -> BaseDBAsyncClient:
    """The connection that a many-to-many write goes to now, which asks no router."""
    return cast("BaseDBAsyncClient", meta_of(model).db)


def root_client(client: Any) -> BaseDBAsyncClient:
    """The client in autocommit mode, also where the cache opens inside a transaction."""
    while isinstance(client, TransactionalDBClient):
        client = cast("Any", client)._parent
    return cast("BaseDBAsyncClient", client)


_DRAWS: Final = 32
"""How often a router is asked for one model: it may name one of several replicas at random."""


def read_from_primaries(models: Iterable[type[Model]]) -> None:
    """From here on in this context, replicas that a router names stand for the connections that are written to.

    For methods of users whose results are cached: their queries must not find a replica that lags.
    """
    context = get_current_context()
    for model in models if context is not None else ():
        choose: Any = cast("Any", model)._choose_db
        primary = root_client(choose(True))
        for name in {root_client(choose()).connection_name for _ in range(_DRAWS)} - {primary.connection_name}:
            cast("Any", context).connections.set(name, primary)


def outermost(client: BaseDBAsyncClient) -> TransactionalDBClient | None:
    """The client whose COMMIT decides about a write on ``client``; None in autocommit mode.

    Savepoints are clients of their own whose parent is the transaction; with asyncpg releasing one
    calls its ``commit``, which commits nothing. A task that outlives its transaction holds a finished client.
    """
    if not isinstance(client, TransactionalDBClient):
        return None
    outer: Any = client
    while isinstance(outer._parent, TransactionalDBClient):
        outer = outer._parent
    return None if outer._finalized else outer


def is_finished(client: BaseDBAsyncClient) -> bool:
    """Whether it is the client of a transaction that is over: on it, each statement commits by itself."""
    return isinstance(client, TransactionalDBClient) and outermost(client) is None
