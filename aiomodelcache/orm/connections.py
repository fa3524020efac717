"""Connections and transactions, as Tortoise's clients represent them."""

from collections.abc import Iterable, Mapping
from contextvars import Context, copy_context
from typing import Any, Final, cast

from tortoise.backends.base.client import BaseDBAsyncClient, TransactionalDBClient
from tortoise.connection import get_connection
from tortoise.context import get_current_context
from tortoise.models import Model
from tortoise.router import router

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


def router_client(model: type[Model], *, for_write: bool) -> BaseDBAsyncClient:
    """Returns the client in autocommit mode of the connection that a router names, or else of the model's own.

    Raises ``CacheConfigurationError`` for a router that cannot name one in the current context.
    """
    try:
        return root_client(cast("Any", model)._choose_db(for_write))
    except LookupError as error:
        raise CacheConfigurationError(
            f"{model.__name__}: a router reads a context variable that is not set here: set it before the cache opens, "
            "or let the router name a connection without it."
        ) from error


def relation_client(model: type[Model]) -> BaseDBAsyncClient:
    """Returns the connection that a many-to-many write goes to now. Tortoise asks no router for these writes."""
    return cast("BaseDBAsyncClient", meta_of(model).db)


def root_client(client: Any) -> BaseDBAsyncClient:
    """Returns the client in autocommit mode, even if ``client`` is a transaction's."""
    while isinstance(client, TransactionalDBClient):
        client = cast("Any", client)._parent
    return cast("BaseDBAsyncClient", client)


def named_client(connection: str | BaseDBAsyncClient) -> BaseDBAsyncClient:
    """Returns the client in autocommit mode of a connection, given by its alias or as a client.

    Raises ``ValueError`` for a client that does not belong to the current Tortoise context.
    """
    if isinstance(connection, str):
        return root_client(get_connection(connection))
    client = root_client(connection)
    if root_client(get_connection(client.connection_name)) is not client:
        raise ValueError(f"{client.connection_name} is another connection in the current Tortoise context.")
    return client


_OF_TORTOISE: Final = ("tortoise_context", "storage_")
"""The beginnings of the names of Tortoise's context variables: the current context, and its connections."""
_ROUTER_CALLS: Final = 32
"""The number of times that a router is asked for the replicas of one model, because it may choose one at random."""


def primaries(models: Iterable[type[Model]]) -> dict[str, BaseDBAsyncClient]:
    """Returns the primary of each replica that a router names for these models, by the replica's name."""
    found: dict[str, BaseDBAsyncClient] = {}
    if not cast("Any", router)._routers:
        return found
    for model in models:
        primary = router_client(model, for_write=True)
        names = {router_client(model, for_write=False).connection_name for _ in range(_ROUTER_CALLS)}
        found.update(dict.fromkeys(names - {primary.connection_name}, primary))
    return found


def adopt_tortoise(opened: Context) -> None:
    """Gives the current context what Tortoise keeps in the context in which a cache was opened, if it lacks that.

    A server may run requests in other contexts than the application's startup.
    """
    here = copy_context()
    for variable, value in opened.items():
        if variable.name.startswith(_OF_TORTOISE) and here.get(variable) is None:
            variable.set(value)


def use_in_background(replaced: Mapping[str, BaseDBAsyncClient]) -> None:
    """Replaces connections in the current context, for work on behalf of many callers.

    Its caller's transactions are left, so that it sees nothing uncommitted. ``replaced``: the ``primaries``, because
    the queries of a user's method whose result is cached must not read a lagging replica.
    """
    context = get_current_context()
    if context is not None:
        connections: Any = context.connections
        left = {
            name: root_client(client)
            for name, client in connections._copy_storage().items()
            if isinstance(client, TransactionalDBClient)
        }
        for name, client in {**left, **replaced}.items():
            connections.set(name, client)


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
