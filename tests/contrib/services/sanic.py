from typing import Any

from main import app
from probe import look_up, rename, scope_of_a_socket, stream
from sanic import Request, Websocket, json


@app.get("/probe")
async def probe(request: Request) -> Any:
    return json(await look_up())


@app.post("/rename/<title>", unquote=True)
async def renamed(request: Request, title: str) -> Any:
    return json(await rename(title))


@app.get("/stream")
async def streamed(request: Request) -> None:
    response = await request.respond()
    async for chunk in stream():
        await response.send(chunk)


@app.websocket("/socket")
async def socket(request: Request, websocket: Websocket) -> None:
    await websocket.send(scope_of_a_socket())
