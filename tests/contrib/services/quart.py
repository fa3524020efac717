from typing import Any

from main import app
from probe import look_up, rename, scope_of_a_socket, stream
from quart import websocket

app.get("/probe")(look_up)
app.post("/rename/<title>")(rename)


@app.get("/stream")
async def streamed() -> Any:
    return stream(), 200


@app.websocket("/socket")
async def socket() -> None:
    await websocket.send(scope_of_a_socket())
