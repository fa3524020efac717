from typing import Any

from litestar import WebSocket, get, post, websocket
from litestar.response import Stream
from main import app
from probe import look_up, rename, scope_of_a_socket, stream


@get("/probe")
async def probe() -> dict[str, Any]:
    return await look_up()


@post("/rename/{title:str}")
async def renamed(title: str) -> dict[str, Any]:
    return await rename(title)


@get("/stream")
async def streamed() -> Stream:
    return Stream(stream())


@websocket("/socket")
async def socket(socket: WebSocket[Any, Any, Any]) -> None:
    await socket.accept()
    await socket.send_text(scope_of_a_socket())
    await socket.close()


for handler in (probe, renamed, streamed, socket):
    app.register(handler)
