"""A replication connection of psycopg2, read in the event loop. Must not know what messages mean."""

import asyncio
import importlib
import inspect
import ssl
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache.exceptions import RelayError
from aiomodelcache.relay.stream.messages import PROTOCOL_VERSION

_NEVER: Final = 10**6
"""Seconds after which psycopg2 would confirm by itself."""
_SETTINGS: Final = "-c datestyle=ISO,MDY -c intervalstyle=postgres -c extra_float_digits=3 -c timezone=UTC"
"""The settings that the text of a value depends on."""
_PASSING: Final = ("08", "28", "53", "57")
"""Classes of errors that have another cause than the content of the slot: the connection, the user, and the server."""
_PASSING_CODES: Final = (None, "42501", "55006")
"""Other such errors: those of the client, missing rights, and a slot that another connection reads."""
IN_USE: Final = "55006"
"""The code of the error that another connection reads the slot."""


class ReplicationFailure(RelayError):
    """The stream has ended. ``is_lasting``: it would end there again, as the content of the slot cannot be decoded."""

    def __init__(self, text: str, *, is_lasting: bool, is_in_use: bool = False) -> None:
        super().__init__(text)
        self.is_lasting = is_lasting
        self.is_in_use = is_in_use


def load_driver() -> Any:
    """Imports psycopg2. Raises ``RelayError``."""
    try:
        importlib.import_module("psycopg2.extras")
        return importlib.import_module("psycopg2")
    except ImportError as error:
        raise RelayError(
            "The source pgoutput needs psycopg2, which is not installed: pip install 'aiomodelcache[pgoutput]'."
        ) from error


class Sent(NamedTuple):
    """A message."""

    data: bytes
    time: float
    """The time at which it was sent, by the server's clock."""


class ReplicationStream:
    """The messages that a slot sends."""

    def __init__(self, connection: Any, connection_name: str) -> None:
        self._connection = connection
        self._name = connection_name
        self._cursor: Any = None

    @classmethod
    async def open(cls, client: BaseDBAsyncClient, slot: str, publication: str) -> "ReplicationStream":
        """Connects and begins to read. Raises ``ReplicationFailure``."""
        driver, parameters = load_driver(), await _parameters(client)
        factory = driver.extras.LogicalReplicationConnection
        with _failures(client.connection_name):  # in a thread, as it may look up the name of the host
            connection = await asyncio.to_thread(driver.connect, connection_factory=factory, async_=True, **parameters)
        stream = cls(connection, client.connection_name)
        try:
            await stream._begin(slot, publication)
        except BaseException:
            stream.close()
            raise
        return stream

    async def _begin(self, slot: str, publication: str) -> None:
        options = {"proto_version": PROTOCOL_VERSION, "publication_names": f'"{publication}"', "messages": "true"}
        with _failures(self._name):
            await self._poll()
            self._cursor = self._connection.cursor()
            self._cursor.start_replication(slot_name=slot, options=options, status_interval=_NEVER)
            await self._poll()

    def read(self) -> Sent | None:
        """Returns the next message, or None if it has not arrived. Raises ``ReplicationFailure``."""
        with _failures(self._name):
            message = self._cursor.read_message()
        return None if message is None else Sent(message.payload, message.send_time.timestamp())

    async def wait(self, timeout: float) -> bool:
        """Waits until something has arrived, at most ``timeout`` seconds. Returns False if nothing has."""
        try:
            async with asyncio.timeout(timeout):
                await _ready(self._connection.fileno(), "reader")
        except TimeoutError:
            return False
        return True

    def confirm(self, lsn: int) -> None:
        """Lets the slot forget what was committed before a position. Raises ``ReplicationFailure``."""
        with _failures(self._name):
            self._cursor.send_feedback(flush_lsn=lsn, force=True)

    def close(self) -> None:
        """Closes the connection. Idempotent."""
        self._connection.close()

    async def _poll(self) -> None:
        """Waits until the connection is made or a command is answered."""
        extensions = load_driver().extensions
        while (state := self._connection.poll()) != extensions.POLL_OK:
            await _ready(self._connection.fileno(), "reader" if state == extensions.POLL_READ else "writer")


async def _ready(number: int, side: str) -> None:
    """Waits until a socket can be read or written."""
    loop: Any = asyncio.get_running_loop()
    ready = loop.create_future()
    try:
        getattr(loop, f"add_{side}")(number, _resolve, ready)
    except NotImplementedError as error:
        raise RelayError(
            "The source pgoutput needs an event loop with add_reader, which Windows' default one has not: use "
            "asyncio.SelectorEventLoop."
        ) from error
    try:
        await ready
    finally:
        getattr(loop, f"remove_{side}")(number)


def _resolve(ready: "asyncio.Future[None]") -> None:
    if not ready.done():
        ready.set_result(None)


@contextmanager
def _failures(connection: str) -> Generator[None]:
    """Raises ``ReplicationFailure`` for an error of psycopg2."""
    try:
        yield
    except load_driver().Error as error:
        raise _failure(connection, error) from None


def _failure(connection: str, error: Any) -> ReplicationFailure:
    code = error.pgcode
    text = error.diag.message_primary or " ".join(str(error).split()) or type(error).__name__
    is_lasting = code not in _PASSING_CODES and code[:2] not in _PASSING
    return ReplicationFailure(f"{connection}: {text}", is_lasting=is_lasting, is_in_use=code == IN_USE)


async def _parameters(client: Any) -> dict[str, Any]:
    """Returns psycopg2's parameters for the database of a Tortoise client."""
    password = client.password() if callable(client.password) else client.password
    if inspect.isawaitable(password):
        password = await password
    found = {
        "host": client.host,
        "port": client.port,
        "user": client.user,
        "password": password,
        "dbname": client.database,
        "sslmode": _ssl_mode(client.extra.get("ssl")),
        "application_name": "aiomodelcache relay",
        "client_encoding": "utf8",
        "options": _SETTINGS,
    }
    return {name: value for name, value in found.items() if value is not None}


def _ssl_mode(setting: Any) -> str | None:
    """Returns libpq's setting for Tortoise's ``ssl``. None: that of the environment, or the default."""
    if isinstance(setting, str):
        return setting
    if isinstance(setting, ssl.SSLContext) and setting.check_hostname:
        return "verify-full"
    return "require" if setting else None
