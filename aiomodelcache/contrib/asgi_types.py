"""The types of the ASGI protocol, as its specification names them."""

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

ASGIScope = MutableMapping[str, Any]
"""The description of one connection or request."""
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[ASGIScope, Receive, Send], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]
