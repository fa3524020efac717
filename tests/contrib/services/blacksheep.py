from typing import Any

from blacksheep import Content, Response, StreamedContent, WebSocket, json
from main import app
from probe import look_up, rename, scope_of_a_socket, stream


@app.router.get("/probe")
async def probe() -> Any:
    return json(await look_up())


@app.router.post("/rename/{title}")
async def renamed(title: str) -> Any:
    return json(await rename(title))


@app.router.get("/stream")
async def streamed() -> Response:
    content: Content = StreamedContent(b"text/plain", stream)
    return Response(200, content=content)


@app.router.ws("/socket")
async def socket(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text(scope_of_a_socket())
    await websocket.close()
