"""Tables, and which models share one: models of one table see each other's rows."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.models import Model

from aiomodelcache.orm.connections import root_client, write_client
from aiomodelcache.orm.meta import meta_of


def models_by_table(
    models: Collection[type[Model]], client: BaseDBAsyncClient | None = None
) -> dict[type[Model], list[type[Model]]]:
    """Returns all models of each model's table, the model itself included.

    The models may use connections of different names, if these lead to the same database by the same address. With
    ``client``, all of them use this connection.
    """
    tables: dict[tuple[Any, ...], list[type[Model]]] = {}
    for model in models:
        tables.setdefault(_table_id(model, client or root_client(write_client(model))), []).append(model)
    return {model: sharing for sharing in tables.values() for model in sharing}


def _table_id(model: type[Model], client: BaseDBAsyncClient) -> tuple[Any, ...]:
    meta, dialect, database = meta_of(model), client.capabilities.dialect, database_id(client)
    default = {"postgres": getattr(client, "schema", None) or "public", "mysql": getattr(client, "database", None)}
    names = meta.schema or default.get(dialect), meta.db_table
    return (*database, *(names if dialect == "postgres" else [str(name).lower() for name in names]))


def database_id(client: BaseDBAsyncClient) -> tuple[Any, ...]:
    """Returns the address of a database, which is equal for all connections to it."""
    connection: Any = client
    filename = getattr(connection, "filename", None)
    if filename is not None:  # SQLite; each connection to :memory: has a database of its own
        return (connection.connection_name if ":memory:" in filename else str(Path(filename).resolve()),)
    address = tuple(getattr(connection, name, None) for name in ("host", "port", "database"))
    return (client.capabilities.dialect, *address) if any(address) else (connection.connection_name,)
