from typing import Any

from litestar import get, post
from litestar.response import Stream
from main import app
from probe import look_up, rename, stream


@get("/probe")
async def probe() -> dict[str, Any]:
    return await look_up()


@post("/rename/{title:str}")
async def renamed(title: str) -> dict[str, Any]:
    return await rename(title)


@get("/stream")
async def streamed() -> Stream:
    return Stream(stream())


for handler in (probe, renamed, streamed):
    app.register(handler)
