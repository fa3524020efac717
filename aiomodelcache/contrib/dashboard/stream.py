"""Server-sent events: one response that lasts while a browser watches, and no longer than the application."""

import asyncio
import signal
import time
from typing import Any, Final

import anyio

from aiomodelcache.contrib.asgi_types import Receive, Send
from aiomodelcache.contrib.dashboard.feed import INTERVAL, Feed
from aiomodelcache.contrib.dashboard.http import json_text, start
from aiomodelcache.exceptions import CacheNotOpen

MAX_LIFETIME: Final = 30.0
"""Maximum seconds that one response lasts. The browser asks again at once, and is authorized again.

Servers wait for responses in progress when they stop, so it bounds that wait, too.
"""
STEP: Final = 0.25
"""Seconds between two looks at whether the server is stopping."""


async def stream(feed: Feed, config: dict[str, Any], receive: Receive, send: Send) -> None:
    """Sends measurements until the client leaves, the cache closes, the server stops, or ``MAX_LIFETIME`` are over."""
    await start(send, 200, "text/event-stream", [(b"x-accel-buffering", b"no")])
    async with anyio.create_task_group() as tasks:

        async def end_with_client() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            tasks.cancel_scope.cancel()

        tasks.start_soon(end_with_client)
        try:
            async with feed.watching():
                await _send(send, "config", config | {"points": feed.points, "interval": INTERVAL})
                await _send_measurements(feed, send)
        except CacheNotOpen:
            await _send(send, "closed", {})
        except OSError:  # the client has left, and the server says so here
            return
        tasks.cancel_scope.cancel()
    await send({"type": "http.response.body", "body": b""})


async def _send_measurements(feed: Feed, send: Send) -> None:
    until = time.monotonic() + MAX_LIFETIME
    sent = -1
    while time.monotonic() < until and not is_stopping():
        number, state = await feed.latest()
        if number != sent:
            sent = number
            await _send(send, "state", state)
        await asyncio.sleep(STEP)


async def _send(send: Send, name: str, data: dict[str, Any]) -> None:
    text = f"event: {name}\nretry: 1000\ndata: {json_text(data)}\n\n"
    await send({"type": "http.response.body", "body": text.encode(), "more_body": True})


def is_stopping() -> bool:
    """Returns True if the server that runs the application is stopping, as far as it can be known.

    uvicorn tells applications only after the last response has ended, but its handler of signals knows before.
    """
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return getattr(server, "should_exit", False) is True
