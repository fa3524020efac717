"""Parts of the routes of all test applications, and a log of the order in which resources close."""

import logging
import os
from collections.abc import AsyncIterator
from typing import Any

from events import Event

from aiomodelcache.open_cache import default_cache, default_cache_or_none
from aiomodelcache.scopes.request import current_scope


async def look_up() -> dict[str, Any]:
    """Looks up twice. Says which worker it is, and how many statements it has sent so far."""
    event = await Event.cache.get(slug="pycon")
    again = await Event.cache.get(slug="pycon")
    counts = default_cache().stats
    return {"pid": os.getpid(), "title": event.title, "shared": again is event, "statements": counts.statements}


async def rename(title: str) -> dict[str, Any]:
    event = await Event.cache.get(slug="pycon")
    await Event.cache.update(event, title=title)
    return {"pid": os.getpid()}


async def stream() -> AsyncIterator[bytes]:
    """Says whether a stream has the scope of its request, after a first chunk that starts the response."""
    yield b"a scope: "
    yield str(current_scope() is not None).encode()


def scope_of_a_socket() -> str:
    """Says whether a WebSocket, which is open now, has a scope."""
    return f"a scope: {current_scope() is not None}"


class Order(logging.Handler):
    """Prints whether a cache is open when Tortoise has closed."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() == "Tortoise-ORM shutdown":
            print("Tortoise closed; a cache is open:", default_cache_or_none() is not None, flush=True)


_logger = logging.getLogger("tortoise")
_logger.addHandler(Order())
_logger.setLevel(logging.INFO)
