from main import app
from probe import look_up, rename, stream
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse


async def probe(request: Request) -> Response:
    return JSONResponse(await look_up())


async def renamed(request: Request) -> Response:
    return JSONResponse(await rename(request.path_params["title"]))


async def streamed(request: Request) -> Response:
    return StreamingResponse(stream())


app.add_route("/probe", probe)
app.add_route("/rename/{title}", renamed, methods=["POST"])
app.add_route("/stream", streamed)
