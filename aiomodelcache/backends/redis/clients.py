"""The redis-py clients of a backend, which send every command at most once.

Owns the settings of redis-py that have to be made or overridden, for one server, Sentinel and Cluster, in its versions
6 to 8. Must not know which commands are sent, or why.

By default redis-py resends a command when the connection broke before the reply came. The server may have run the
command, and a lease or a fill that runs twice breaks the protocol.
"""

import copy
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Final, Protocol, TypeAlias, cast

from redis.asyncio import BlockingConnectionPool, Connection, Redis, RedisCluster, SSLConnection
from redis.asyncio.connection import ConnectionPool
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from aiomodelcache.backends.near import Near
from aiomodelcache.backends.redis.cluster.endpoint import ClusterEndpoint
from aiomodelcache.backends.redis.cluster.node import ConnectionSettings
from aiomodelcache.backends.redis.cluster.slots import Address
from aiomodelcache.backends.redis.connection import Command, ReconnectingConnection, pack_commands
from aiomodelcache.backends.redis.incarnation import IDENTIFY, ServerIncarnation, ask_identity
from aiomodelcache.backends.redis.replicas import Replication, ReplicaWait
from aiomodelcache.backends.redis.url import SCHEMES, Url, at_most_once, masked
from aiomodelcache.exceptions import CacheConfigurationError

MAX_CONNECTIONS: Final = 50
"""Maximum number of connections to one server.

Beyond it, commands wait for a free connection, for at most ``socket_timeout`` seconds.
"""
UNLIMITED_CONNECTIONS: Final = 2**31 - 1
"""Maximum number of connections through Sentinel, in effect unlimited.

There, redis-py cannot wait for a free connection and would fail instead.
"""

_POOLED: Final = {"max_connections", "timeout", "health_check_interval"}
"""The options by which a URL configures redis-py's pool. If a URL has one of them, commands use that pool."""


_OF_CLUSTER_CLIENTS: Final = {
    "cluster_error_retry_attempts",
    "dynamic_startup_nodes",
    "load_balancing_strategy",
    "max_connections",
    "read_from_replicas",
    "redis_connect_func",  # for reads from replicas
    "reinitialize_steps",
    "require_full_coverage",
    "response_callbacks",
}
"""The options of redis-py's client of Clusters that are not for connections. They are ignored."""


class Pipeline(Protocol):
    """The part of redis-py's pipelines that is used: commands that are sent together."""

    def execute_command(self, *args: bytes | str | int) -> object: ...

    async def execute(self, raise_on_error: bool = ...) -> list[Any]: ...


class Client(Protocol):
    """The part of redis-py's clients that is used."""

    async def execute_command(self, *args: bytes | str | int) -> object: ...

    def pipeline(self, transaction: bool = ...) -> Pipeline: ...


class Closable(Protocol):
    """A resource of an endpoint that is closed with it."""

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True)
class RedisEndpoint:
    """A client of one server, the address that it leads to, and the resources that the backend must close."""

    is_cluster: ClassVar = False
    client: Client
    where: str
    """The server without its password, for messages."""
    incarnation: ServerIncarnation
    owned: tuple[Closable, ...]
    reading: ReconnectingConnection | None = None
    writing: ReconnectingConnection | None = None
    tracking: ReconnectingConnection | None = None
    """Faster connections to the same server than the client's.

    Reads have one of their own (``reading``), so that a bulk write does not delay them. So have reads whose keys the
    server tracks (``tracking``), so that it tracks no others.
    """
    replication: Replication = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "replication", Replication(self.where))

    def track(self, near: Near | None) -> None:
        """Reports every change of entries that are read from now on to ``near``. Raises ``CacheConfigurationError``."""
        if self.tracking is not None:
            self.tracking.near = near
        elif near is not None:
            raise CacheConfigurationError(
                f"near needs a connection of its own to Redis at {self.where}. It works neither with a client "
                f"that you pass in, nor with a URL that sets {', '.join(sorted(_POOLED))}: "
                "pass a redis:// or redis+sentinel:// URL without these, or remove near."
            )

    def incarnation_of(self, key: bytes) -> ServerIncarnation:
        """Returns the incarnation of the server that holds a key."""
        return self.incarnation

    def mask_stale_versions(self, keys: Sequence[bytes], values: list[bytes | None]) -> list[bytes | None]:
        """Replaces versions of other incarnations than the present one by None."""
        return self.incarnation.mask_stale_versions(values)

    async def send(self, commands: Sequence[Command], *, read_only: bool = False, tracked: bool = False) -> list[Any]:
        """Sends commands in one round trip. Returns all replies, errors of the server among them.

        ``tracked``: the server reports changes of their keys. Raises redis-py's exceptions when commands could not be
        sent or were not answered.
        """
        connection = self.tracking if tracked else self.reading if read_only else self.writing
        if connection is not None:
            return await connection.send(pack_commands(commands), len(commands))
        if len(commands) == 1:
            try:
                return [await self.client.execute_command(*commands[0])]
            except ResponseError as error:
                return [error]
        pipeline = self.client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return await pipeline.execute(raise_on_error=False)

    async def send_and_wait(self, commands: Sequence[Command], wait: ReplicaWait) -> list[Any]:
        """Sends commands as ``send`` does, and waits in the same round trip for replicas to have them."""
        return self.replication.judge(wait, await self.send([*commands, self.replication.command(wait)]))

    async def servers(self) -> list[Callable[[Sequence[Command]], Awaitable[list[Any]]]]:
        """Returns a function for each server, of which there is one, that sends commands to it."""
        return [self.send]

    async def send_to_each(self, commands: Sequence[Command]) -> list[list[Any]]:
        """Sends commands to every server, of which there is one."""
        return [await self.send(commands)]

    async def load_scripts(self, texts: Iterable[str]) -> list[Any]:
        """Loads scripts into the script cache of the server. Returns replies as ``send`` does."""
        return await self.send([("SCRIPT", "LOAD", text) for text in texts])

    async def check_identity(self, keys: Iterable[bytes]) -> None:
        """Asks the server that holds these keys for its identity again."""
        if self.writing is not None:
            self.incarnation.check_identity(await self.writing.send(pack_commands(IDENTIFY), len(IDENTIFY)))
            return
        pool = cast("Any", self.client).connection_pool
        connection = await pool.get_connection()
        try:
            self.incarnation.check_identity(await ask_identity(connection))
        finally:
            await pool.release(connection)

    async def close(self) -> None:
        """Closes the resources that the endpoint owns."""
        for resource in self.owned:
            await resource.aclose()


Endpoint: TypeAlias = RedisEndpoint | ClusterEndpoint


def endpoint_of(source: str | Redis | RedisCluster, socket_timeout: float) -> Endpoint:
    """Builds the endpoint for a URL, or for a client that the program passes in. No I/O.

    Raises ``CacheConfigurationError``.
    """
    if isinstance(source, Redis):
        return _client_endpoint(source, socket_timeout)
    if isinstance(source, RedisCluster):
        return _cluster_like(source, socket_timeout)
    if not isinstance(source, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers are not all typed
        kind = type(source)
        raise CacheConfigurationError(
            f"A {kind.__module__}.{kind.__qualname__} is not an asyncio client: "
            "pass a redis.asyncio.Redis, a redis.asyncio.RedisCluster or a URL."
        )
    try:
        return _endpoint_of_url(Url.split(source), socket_timeout)
    except (ValueError, TypeError, RedisError) as error:
        raise CacheConfigurationError(
            f"{masked(source)!r} is not a URL of Redis: {str(error).rstrip('.')}. It must begin with {SCHEMES}."
        ) from error


def _endpoint_of_url(url: Url, socket_timeout: float) -> Endpoint:
    match url.transport, url.kind:
        case "unix", "":
            return _server_endpoint(url.path, url.socket_options(socket_timeout))
        case (("redis" | "rediss"), ""):
            (host, port), *more = url.addresses(6379)
            if more:
                raise ValueError("several hosts are for redis+cluster:// and redis+sentinel:// only")
            options = url.options(socket_timeout, url.path.strip("/"))
            return _server_endpoint(f"{host}:{port}", options | {"host": host, "port": port})
        case (("redis" | "rediss"), "cluster"):
            if url.path.strip("/") not in ("", "0"):
                raise ValueError("a Cluster has database 0 only")
            return _cluster_endpoint(url.addresses(6379), url.options(socket_timeout, ""))
        case (("redis" | "rediss"), "sentinel"):
            service, _, database = url.path.strip("/").partition("/")
            if not service:
                raise ValueError("after the hosts, /name-of-the-service is missing")
            return _sentinel_endpoint(url.addresses(26379), service, url.options(socket_timeout, database))
        case _:
            raise ValueError("its scheme is unknown")


def _server_endpoint(where: str, options: Mapping[str, Any]) -> RedisEndpoint:
    incarnation = ServerIncarnation(where)
    client: Any = Redis.from_pool(_pool(_observed(options, incarnation)))
    _check_options(client)
    if _POOLED & options.keys():
        return RedisEndpoint(client, where, incarnation, owned=(client,))
    return _with_own_connections(RedisEndpoint(client, where, incarnation, owned=(client,)))


def _with_own_connections(endpoint: RedisEndpoint) -> RedisEndpoint:
    """Adds connections of the endpoint's own, outside of the client's pool."""
    make: Callable[[], Any] = cast("Any", endpoint.client).connection_pool.make_connection
    own = [ReconnectingConnection(make) for _ in range(3)]
    return replace(endpoint, owned=(*own, *endpoint.owned), reading=own[0], writing=own[1], tracking=own[2])


def _observed(options: Mapping[str, Any], incarnation: ServerIncarnation) -> dict[str, Any]:
    """Returns the options with a callback that asks each new connection for the server's identity."""
    return {**options, "redis_connect_func": incarnation.on_connect(options.get("redis_connect_func"))}


def _pool(options: Mapping[str, Any]) -> ConnectionPool:
    pool_class: Any = BlockingConnectionPool
    waiting = {"timeout": options["socket_timeout"], "max_connections": MAX_CONNECTIONS}
    return cast("ConnectionPool", pool_class(**(waiting | dict(options))))


def _check_options(client: Any) -> None:
    # Does not connect. redis-py rejects unknown options here.
    client.connection_pool.make_connection()


def _sentinel_endpoint(addresses: list[tuple[str, int]], service: str, options: dict[str, Any]) -> RedisEndpoint:
    options["ssl"] = options.pop("connection_class", None) is SSLConnection
    options.setdefault("max_connections", UNLIMITED_CONNECTIONS)
    shared = {name: options[name] for name in options if name.startswith(("ssl", "socket_", "protocol"))}
    sentinel_class: Any = Sentinel
    sentinel = sentinel_class(addresses, sentinel_kwargs=shared | {"retry": Retry(NoBackoff(), 0)})
    where = f"{','.join(f'{host}:{port}' for host, port in addresses)} (service {service!r})"
    incarnation = ServerIncarnation(where)
    client = sentinel.master_for(service, **_observed(options, incarnation))
    _check_options(client)
    return _with_own_connections(RedisEndpoint(client, where, incarnation, owned=(client, *sentinel.sentinels)))


def _cluster_endpoint(
    startup: Iterable[Address], options: Mapping[str, Any], remap: Callable[[Address], Address] | None = None
) -> ClusterEndpoint:
    """Builds the endpoint of a Cluster. Ignores options of redis-py's own client, which is not used."""
    kept = {name: value for name, value in options.items() if name not in _OF_CLUSTER_CLIENTS}
    settings = ConnectionSettings(kept.pop("connection_class", None) or Connection, kept)
    return ClusterEndpoint(startup, settings, remap or _as_it_is)


def _as_it_is(address: Address) -> Address:
    return address


def _client_endpoint(client: Any, socket_timeout: float) -> RedisEndpoint:
    pool = client.connection_pool
    options = pool.connection_kwargs
    incarnation = ServerIncarnation(_where(pool, options))
    sibling = copy.copy(client)  # of the same class, with the attributes that instrumentation added
    sibling.connection_pool = _pool_like(pool, _observed(_options_like(options, socket_timeout), incarnation))
    sibling.connection = None
    sibling.single_connection_client = False
    sibling.auto_close_connection_pool = True
    return RedisEndpoint(sibling, _where(pool, options), incarnation, owned=(sibling,))


def _where(pool: Any, options: Mapping[str, Any]) -> str:
    if isinstance(pool, SentinelConnectionPool):
        return f"service {cast('Any', pool).service_name!r}"
    return str(options.get("path") or f"{options.get('host', 'localhost')}:{options.get('port', 6379)}")


def _options_like(options: Mapping[str, Any], socket_timeout: float) -> dict[str, Any]:
    """Returns connection options like another client's, without those that belong to that client alone."""
    theirs = ("maint_notifications", "oss_cluster", "orig_", "himport_", "connection_pool")
    kept = {name: value for name, value in options.items() if not name.startswith(theirs)}
    for name in ("socket_timeout", "socket_connect_timeout"):
        if kept.get(name) is None:
            kept[name] = socket_timeout
    return kept | {"protocol": 2} | at_most_once()


def _pool_like(pool: Any, options: dict[str, Any]) -> Any:
    options["connection_class"] = pool.connection_class
    if isinstance(pool, SentinelConnectionPool):
        pool_class: Any = SentinelConnectionPool
        theirs = cast("Any", pool)
        for name in ("is_master", "check_connection", "max_connections"):
            options[name] = getattr(theirs, name)
        return pool_class(theirs.service_name, theirs.sentinel_manager, **options)
    return _pool(options | {"max_connections": min(pool.max_connections, MAX_CONNECTIONS)})


def _cluster_like(cluster: RedisCluster, socket_timeout: float) -> ClusterEndpoint:
    """Builds an endpoint with the settings of a client, which may resend commands or read from replicas."""
    manager = cluster.nodes_manager
    startup = [(node.host, int(node.port)) for node in manager.startup_nodes.values()]
    return _cluster_endpoint(startup, _options_like(cluster.connection_kwargs, socket_timeout), manager.address_remap)
