from main import app
from probe import look_up, rename, scope_of_a_socket, stream
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.websockets import WebSocket


async def probe(request: Request) -> Response:
    return JSONResponse(await look_up())


async def renamed(request: Request) -> Response:
    return JSONResponse(await rename(request.path_params["title"]))


async def streamed(request: Request) -> Response:
    return StreamingResponse(stream())


async def socket(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text(scope_of_a_socket())
    await websocket.close()


app.add_route("/probe", probe)
app.add_route("/rename/{title}", renamed, methods=["POST"])
app.add_route("/stream", streamed)
app.router.add_websocket_route("/socket", socket)
