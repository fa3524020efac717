"""A real server of HTTP in the event loop of the test."""

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from typing import Any

import httpx
import uvicorn

LIMIT = 5.0
"""Seconds in which requests must end after their client has gone."""


@asynccontextmanager
async def client_of(app: Any, **settings: Any) -> AsyncGenerator[httpx.AsyncClient, None]:
    """A client of an ASGI application, which uvicorn serves on a port of its own.

    This function ends the server, because uvicorn looks every 0.1 s only for what it waits for. ``settings`` are those
    of uvicorn.
    """
    # asyncio sends at once only if the protocol is named. Otherwise a response may wait 0.04 s for an acknowledgement.
    with closing(socket.socket(proto=socket.IPPROTO_TCP)) as listening:
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, ws="none", lifespan="off", log_config=None, **settings)
        config.load()
        server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        await server.startup(sockets=[listening])
        serving = asyncio.create_task(server.main_loop())
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        try:
            async with httpx.AsyncClient(base_url=url, trust_env=False, verify=False, timeout=30) as client:
                yield client
        finally:
            serving.cancel()
            for each in server.servers:
                each.close()
            state = server.server_state
            for connection in list(state.connections):
                connection.shutdown()
            async with asyncio.timeout(LIMIT):
                while state.connections or state.tasks:
                    await asyncio.sleep(0.001)
