"""Proxies that understand Redis's protocol, in threads, because commands run an event loop of their own."""

import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Any, Literal

import hiredis

from aiomodelcache.backends.redis.connection import pack_commands

Rewrite = Callable[[tuple[bytes, ...], bytes], bytes]
"""Returns the reply to pass on, of a command and the server's reply."""
_NOTHING: Any = object()


def unchanged(command: tuple[bytes, ...], reply: bytes) -> bytes:
    """Returns the server's reply."""
    return reply


class _Upstream:
    """A connection to the server, on which one request is in flight at a time."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._lock = threading.Lock()

    def ask(self, command: tuple[bytes, ...]) -> bytes:
        with self._lock:
            self._socket.sendall(pack_commands([command]))
            parser: Any = hiredis.Reader(notEnoughData=_NOTHING)
            received = b""
            while parser.gets() is _NOTHING:
                chunk = self._socket.recv(65_536)
                if not chunk:
                    raise ConnectionError
                received += chunk
                parser.feed(chunk)
            return received

    def close(self) -> None:
        self._socket.close()


@contextmanager
def middleman(
    port: int, kind: Literal["of its own", "shared", "pooled"] = "of its own", rewrite: Rewrite = unchanged
) -> Generator[str]:
    """Runs a proxy of a server. Yields its URL.

    ``kind``: each client has a connection to the server, all share one, or requests take turns on a pool of three.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    common = [_Upstream(port) for _ in range({"of its own": 0, "shared": 1, "pooled": 3}[kind])]
    turns = 0

    def serve(client: socket.socket) -> None:
        nonlocal turns
        upstreams = common or [_Upstream(port)]
        parser: Any = hiredis.Reader(notEnoughData=_NOTHING)
        with client, suppress(OSError):
            while chunk := client.recv(65_536):
                parser.feed(chunk)
                while (command := parser.gets()) is not _NOTHING:
                    turns += 1
                    reply = upstreams[turns % len(upstreams)].ask(tuple(command))
                    client.sendall(rewrite(tuple(command), reply))
        if not common:
            upstreams[0].close()

    def accept() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=serve, args=(client,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
        for upstream in common:
            upstream.close()
