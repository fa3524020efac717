"""The health of a relay over HTTP, for systemd, containers and Prometheus. Serves ``/metrics``, and JSON elsewhere."""

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Final

import anyio

from aiomodelcache.observe.relay_status import RELAY_METRICS
from aiomodelcache.relay.relay import Relay

REQUEST_LIMIT: Final = 5.0
"""Maximum seconds that a client may take for its request. Beyond it, the connection is closed."""
_METRICS: Final = {
    "claim_left": ("gauge", "claim_left_seconds", "Seconds for which readers believe the cache if no drain follows"),
    **RELAY_METRICS,
}
"""The metrics by their names in ``Relay.health``."""


@asynccontextmanager
async def health_server(relay: Relay, host: str, port: int) -> AsyncGenerator[int]:
    """Serves the health of a relay, with status 200 while all its claims live, else 503. Yields the port in use."""
    server = await asyncio.start_server(partial(_answer, relay), host, port)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()
        await server.wait_closed()


async def _answer(relay: Relay, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        with anyio.move_on_after(REQUEST_LIMIT), suppress(OSError, ValueError, asyncio.IncompleteReadError):
            request = (await reader.readline()).split()
            while (await reader.readline()).strip():
                pass
            data = await relay.health()
            if request[1:2] == [b"/metrics"]:
                status, kind, body = 200, "text/plain; version=0.0.4", _metrics(data)
            else:
                status, kind, body = 200 if data["ok"] else 503, "application/json", json.dumps(data)
            reason = "OK" if status == 200 else "Service Unavailable"
            content = body.encode()
            head = f"HTTP/1.1 {status} {reason}\r\nContent-Type: {kind}\r\nContent-Length: {len(content)}\r\n"
            writer.write(f"{head}Connection: close\r\n\r\n".encode() + (b"" if request[:1] == [b"HEAD"] else content))
            await writer.drain()
    finally:
        writer.close()


def _metrics(data: Mapping[str, Any]) -> str:
    lines: list[str] = []
    for name, (kind, metric, text) in _METRICS.items():
        full = f"aiomodelcache_relay_{metric}"
        lines += [f"# HELP {full} {text}.", f"# TYPE {full} {kind}"]
        lines += [
            f'{full}{{connection="{each["connection"]}"}} {float(each[name]):g}'
            for each in data["connections"]
            if each[name] is not None
        ]
    return "\n".join([*lines, ""])
