"""The parameters of a replication connection, and its failures."""

import asyncio
import ssl
from collections.abc import Awaitable
from types import SimpleNamespace
from typing import Any

import pytest

from aiomodelcache.exceptions import RelayError
from aiomodelcache.relay.stream import replication


def client(**changes: Any) -> Any:
    given = {"host": "db", "port": 5432, "user": "u", "password": "p", "database": "shop", "extra": {}}
    return SimpleNamespace(**given | changes)


def password() -> str:
    return "called"


async def later() -> str:
    return "awaited"


def begun() -> Awaitable[str]:
    return later()


@pytest.mark.parametrize(
    ("given", "expected"), [("p", "p"), (None, None), (password, "called"), (later, "awaited"), (begun, "awaited")]
)
async def test_a_password_may_be_a_function(given: Any, expected: str | None) -> None:
    parameters = await replication._parameters(client(password=given))
    assert parameters.get("password") == expected
    assert parameters["dbname"] == "shop"
    assert "sslmode" not in parameters, "libpq asks the environment"


def unchecked() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    return context


@pytest.mark.parametrize(
    ("setting", "mode"),
    [
        (True, "require"), (False, None), (None, None), ("verify-ca", "verify-ca"),
        (ssl.create_default_context(), "verify-full"), (unchecked(), "require"),
    ],
)  # fmt: skip
def test_encryption_is_that_of_the_application(setting: Any, mode: str | None) -> None:
    assert replication._ssl_mode(setting) == mode


@pytest.mark.parametrize(
    ("code", "is_lasting"),
    [
        (None, False), ("08006", False), ("28P01", False), ("57P01", False), ("53300", False), ("42501", False),
        ("55006", False), ("42704", True), ("55000", True), ("58P01", True), ("XX000", True),
    ],
)  # fmt: skip
def test_an_error_of_the_connection_leaves_the_slot_as_it_is(code: str | None, is_lasting: bool) -> None:
    error = SimpleNamespace(pgcode=code, diag=SimpleNamespace(message_primary="it failed"))
    failure = replication._failure("default", error)
    assert (str(failure), failure.is_lasting, failure.is_in_use) == ("default: it failed", is_lasting, code == "55006")


async def test_a_server_that_is_not_there_is_an_error_of_the_relay() -> None:
    here = client(host="127.0.0.1", port=1, connection_name="default")
    with pytest.raises(replication.ReplicationFailure, match=r"^default: .*refused") as caught:
        await replication.ReplicationStream.open(here, "slot", "publication")
    assert not caught.value.is_lasting


async def test_a_loop_that_watches_no_sockets_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(asyncio.get_running_loop(), "add_reader", refuse)
    with pytest.raises(RelayError, match="SelectorEventLoop"):
        await replication._ready(0, "reader")
