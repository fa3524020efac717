from typing import Any

from fastapi import WebSocket
from fastapi.responses import StreamingResponse
from main import app
from probe import look_up, rename, scope_of_a_socket, stream

app.get("/probe")(look_up)
app.post("/rename/{title}")(rename)


@app.get("/stream")
async def streamed() -> Any:
    return StreamingResponse(stream())


@app.websocket("/socket")
async def socket(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text(scope_of_a_socket())
    await websocket.close()
