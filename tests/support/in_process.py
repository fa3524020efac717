"""A real server of HTTP in the event loop of the test."""

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from typing import Any

import httpx
import uvicorn


@asynccontextmanager
async def client_of(app: Any) -> AsyncGenerator[httpx.AsyncClient, None]:
    """A client of an ASGI application, which uvicorn serves on a port of its own."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        config = uvicorn.Config(app, ws="none", lifespan="off", log_config=None, timeout_graceful_shutdown=5)
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        async with httpx.AsyncClient(base_url=url, trust_env=False, verify=False, timeout=30) as client:
            yield client
        server.should_exit = True
        await serving
