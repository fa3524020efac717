from aiohttp import web
from main import app
from probe import look_up, rename, scope_of_a_socket, stream


async def probe(request: web.Request) -> web.StreamResponse:
    return web.json_response(await look_up())


async def renamed(request: web.Request) -> web.StreamResponse:
    return web.json_response(await rename(request.match_info["title"]))


async def streamed(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    async for chunk in stream():
        await response.write(chunk)
    return response


async def socket(request: web.Request) -> web.WebSocketResponse:
    response = web.WebSocketResponse()
    await response.prepare(request)
    await response.send_str(scope_of_a_socket())
    return response


app.add_routes([web.get("/socket", socket)])
app.add_routes([web.get("/probe", probe), web.post("/rename/{title}", renamed), web.get("/stream", streamed)])

if __name__ == "__main__":
    import os
    import signal
    import sys

    second = os.fork()  # before an event loop and a cache exist
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), reuse_port=True)
    if second:
        os.kill(second, signal.SIGTERM)
        os.waitpid(second, 0)
