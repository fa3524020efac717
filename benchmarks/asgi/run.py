"""Rounds of loads, in which each contestant's server gets each kind of page once, in changing order."""

import asyncio
import gc
import json
import random
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from benchmarks.asgi.load import Requested, ask, ask_all, load
from benchmarks.asgi.pages import PAGES, USED, body
from benchmarks.asgi.server import Order
from benchmarks.contestants import ALL, ByHand, Contestant, Own
from benchmarks.places import Place

FROZEN = ", frozen"
"""The end of the name of a server that called ``gc.freeze()`` when its contestant had opened."""
CONCURRENCY = 50
"""Requests in flight, unless the command line names another number."""
NEEDS = ("get_by_slug", "gather", "products_of", "page")

Requests = dict[str, list[Requested]]


@asynccontextmanager
async def server(place: Place, contestant: str, *, frozen: bool = False) -> AsyncIterator[int]:
    """Starts a server process and ends it. Yields its port."""
    order = Order(contestant, place.loop, place.redis.url, place.redis.port, str(place.url), place.url.dialect, frozen)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.asgi.server", json.dumps(order)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield int(await process.stdout.readline())
    finally:
        process.stdin.close()
        await process.wait()


def taking_part() -> list[type[Contestant]]:
    """Returns the contestants that can answer every page."""
    return [kind for kind in ALL if all(map(kind().can, NEEDS))]


async def run_asgi(place: Place, concurrency: int, rounds: int, seconds: float, *, frozen: bool = False) -> list[Any]:
    """Measures the pages of all contestants. The tables of the catalogue must be filled.

    Returns one record for each contestant, page and round. With ``frozen``, it measures this library and the cache by
    hand, with and without frozen objects. A load of no seconds measures nothing, so a tenth of the pages is checked.
    """
    requests: Requests = {
        page: [Requested.of(path, body(content())) for path, content in paths.items()] for page, paths in PAGES.items()
    }
    checked = [request for page in requests.values() for request in page][:: 1 if seconds else 10]
    names = [kind.name for kind in ((Own, ByHand) if frozen else taking_part())]
    names += [f"{name}{FROZEN}" for name in names if frozen]
    records: list[Any] = []
    place.redis.flush()
    async with AsyncExitStack() as stack:
        ports = {}
        for name in names:
            print(f"starting and checking: {name}", file=sys.stderr)
            ports[name] = port = await stack.enter_async_context(
                server(place, name.removesuffix(FROZEN), frozen=name.endswith(FROZEN))
            )
            for _ in range(3):  # a miss, a hit, and a hit of what the process has kept meanwhile
                await ask_all(port, checked, concurrency)
        gc.collect()
        gc.freeze()
        for number in range(rounds):
            print(f"pages, round {number + 1} of {rounds}", file=sys.stderr)
            for page, choices in requests.items():
                for name in random.Random(f"{number} {page}").sample(names, len(names)):
                    used = await _used(ports[name])
                    figures = dict(await load(ports[name], choices, concurrency, seconds, number))
                    figures["cpu"] = (await _used(ports[name]) - used) / figures.pop("requests")
                    records.append({"page": page, "contestant": name, "concurrency": concurrency, **figures})
        gc.unfreeze()
    return sorted(records, key=lambda record: names.index(record["contestant"]))


async def _used(port: int) -> float:
    """Returns the CPU time that a server has used, in seconds."""
    return float(await ask(port, Requested.of(USED, None)))
