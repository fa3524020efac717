"""Private Redis, PostgreSQL and MariaDB servers for tests, benchmarks and examples.

Owns finding the programs, running each in a folder of its own on free ports, and ending them even if the process
that started them is killed. Knows nothing of pytest, and touches no server that it did not start.

``python -m tests.support.servers`` prints which of them this machine can run: ``redis,postgres,mariadb``.
"""

from contextlib import suppress

from tests.support.servers.database import DatabaseServer
from tests.support.servers.mariadb import MariaDBServer
from tests.support.servers.mysql import MySQLServer
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.programs import ServerMissing
from tests.support.servers.redis import RedisServer
from tests.support.servers.server import Server, ServerFailed

__all__ = [
    "DatabaseServer",
    "MariaDBServer",
    "MySQLServer",
    "PostgresServer",
    "RedisServer",
    "Server",
    "ServerFailed",
    "ServerMissing",
    "available",
]


def available() -> list[str]:
    """Returns the names of the servers that this machine has."""
    names: list[str] = []
    for server in (RedisServer, PostgresServer, MariaDBServer):
        with suppress(ServerMissing):
            server.program()
            names.append(server.name)
    return names
