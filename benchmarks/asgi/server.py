"""One server process, which answers pages by one contestant. It prints its port, and ends with its standard input."""

import asyncio
import gc
import json
import socket
import sys
import threading
from typing import Any, NamedTuple

import uvicorn

from benchmarks.asgi.pages import application
from benchmarks.contestants import ALL
from benchmarks.places import LoopName, Place
from tests.support.databases import DatabaseUrl
from tests.support.servers.server import HOST


class RunningRedis(NamedTuple):
    """The address of a Redis that another process has started."""

    url: str
    port: int


class Order(NamedTuple):
    """Arguments of a server process."""

    contestant: str
    loop: LoopName
    redis_url: str
    redis_port: int
    database_url: str
    dialect: Any
    frozen: bool
    """True to freeze the collector's objects when the contestant has opened."""

    def place(self) -> Place:
        store: Any = RunningRedis(self.redis_url, self.redis_port)
        return Place(self.loop, self.dialect, store, DatabaseUrl(self.database_url, self.dialect))


async def serve(order: Order, place: Place) -> None:
    """Serves until standard input ends."""
    [kind] = [kind for kind in ALL if kind.name == order.contestant]
    contestant = kind()
    async with place.catalogue(create=False):
        await contestant.open(place)
        if order.frozen:
            gc.collect()
            gc.freeze()
        settings: dict[str, Any] = {"loop": "none", "lifespan": "off", "access_log": False, "log_level": "warning"}
        server = uvicorn.Server(uvicorn.Config(application(contestant), **settings))
        # With its protocol named, or asyncio leaves Nagle's algorithm on, and each response takes 40 ms.
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.bind((HOST, 0))
        listening.listen(1_024)

        def wait_for_the_end() -> None:
            sys.stdin.read()
            server.should_exit = True

        threading.Thread(target=wait_for_the_end, daemon=True).start()
        print(listening.getsockname()[1], flush=True)
        await server.serve([listening])
        await contestant.close()


if __name__ == "__main__":
    order = Order(*json.loads(sys.argv[1]))
    place = order.place()
    with asyncio.Runner(loop_factory=place.new_loop) as runner:
        runner.run(serve(order, place))
