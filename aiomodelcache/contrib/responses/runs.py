"""One run of the application for a whole response, in a task that outlives the client that asked for it.

The task is in the context of the computation, so that what the application reads is recorded. What follows the
response, such as background tasks, waits until the response was sent.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

from aiomodelcache.contrib.asgi_types import Application, ASGIScope, Message, Receive, Send
from aiomodelcache.contrib.responses.fields import Fields, combined_value, delta_seconds
from aiomodelcache.contrib.responses.stored import WholeResponse

Start = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
"""A function that runs a coroutine in a task that it owns."""

_NO_CONTENT: Final[Message] = {"type": "http.request", "body": b"", "more_body": False}


class ApplicationRun:
    """The application, answering one request without content.

    The outcome of ``respond`` is a whole response, or None for a stream, which is ``forward``ed to one client.
    """

    def __init__(self, application: Application, scope: ASGIScope, max_size: int) -> None:
        self._application = application
        self._scope = scope
        self._max_size = max_size
        loop = asyncio.get_running_loop()
        self._outcome: asyncio.Future[WholeResponse | None] = loop.create_future()
        self._go_on: asyncio.Future[None] = loop.create_future()
        """Resolved when the response was sent, or when a client takes the stream."""
        self._ended: asyncio.Future[None] = loop.create_future()
        self._task: asyncio.Task[None]
        self.response: WholeResponse | None = None
        """The whole response. None for a stream."""
        self._error: Exception | None = None
        self._alone = False
        """True if no client is there to get an error that is raised after the response."""
        self._asked = False
        self._held: list[Message] = []
        """The messages of the response so far."""
        self._size = 0
        self._client: tuple[Receive, Send] | None = None

    async def respond(self, start: Start) -> WholeResponse | None:
        """Runs the application until its response is whole, or is known to be a stream. Raises what it raises."""
        self._task = start(self._work())
        self._task.add_done_callback(self._finished)
        self.response = await asyncio.shield(self._outcome)
        return self.response

    async def forward(self, receive: Receive, send: Send) -> None:
        """Passes a stream on to a client, and returns when the application has ended. Raises what it raises."""
        for message in self._held:
            await send(message)
        self._held.clear()
        self._client = receive, send
        await self.finish()

    async def finish(self) -> None:
        """Lets the application go on after its response, and waits until it has ended. Raises what it raises."""
        self.release()
        await asyncio.shield(self._ended)
        if self._error is not None:
            raise self._error

    def release(self) -> None:
        """Lets the application go on after its response. Idempotent."""
        if not self._go_on.done():
            self._go_on.set_result(None)

    def detach(self) -> None:
        """Lets the application go on after its response, which no client waits for, once its computation has ended."""
        self._alone = True
        asyncio.get_running_loop().call_soon(self.release)

    def cancel(self) -> None:
        """Ends the application, because no client takes what it sends."""
        self._task.cancel()

    async def _work(self) -> None:
        try:
            await self._application(self._scope, self._receive, self._send)
        except Exception as error:
            self._error = error

    def _finished(self, task: asyncio.Task[None]) -> None:
        """Resolves the futures, as a callback of the task: it runs also if the task is cancelled before it begins."""
        if not self._outcome.done():
            if self._error is not None:
                self._outcome.set_exception(self._error)
            elif task.cancelled():
                self._outcome.cancel()
            else:
                self._outcome.set_exception(RuntimeError("The application returned without sending a response."))
        elif self._alone and self._error is not None:
            context = {"message": "A request failed after its response.", "exception": self._error, "task": task}
            task.get_loop().call_exception_handler(context)
        self._ended.set_result(None)

    async def _receive(self) -> Message:
        if not self._asked:
            self._asked = True
            return _NO_CONTENT
        if self._client is None:
            await asyncio.shield(self._go_on)
        if self._client is None:
            return {"type": "http.disconnect"}
        return await self._client[0]()

    async def _send(self, message: Message) -> None:
        if self._client is None:
            whole = self._hold(message)
            if whole is None:
                return
            if not self._outcome.done():
                self._outcome.set_result(whole if isinstance(whole, WholeResponse) else None)
            await asyncio.shield(self._go_on)
            return
        await self._client[1](message)

    def _hold(self, message: Message) -> "WholeResponse | bool | None":
        """Holds a message. Returns the response if it is whole, True if it is a stream, and None to go on."""
        self._held.append(message)
        kind = message["type"]
        if kind == "http.response.start":
            return None
        start = self._held[0]
        if kind != "http.response.body" or start["type"] != "http.response.start" or start.get("trailers"):
            return True
        self._size += len(message.get("body", b""))
        headers: Fields = [(bytes(name), bytes(value)) for name, value in start.get("headers", ())]
        if message.get("more_body", False):
            length = delta_seconds(combined_value(headers, b"content-length"))
            return True if length is None or max(length, self._size) > self._max_size else None
        if self._size > self._max_size:
            return True
        body = b"".join([bytes(part.get("body", b"")) for part in self._held[1:]])
        return WholeResponse(start["status"], headers, body)
