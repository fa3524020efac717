"""``python -m benchmarks.responses``: requests per second of a page of 50 rows, rendered, cached, and not modified.

The applications are called by ASGI in this process, without a server, whose time all ways would share. Every response
is compared with the rendered one before anything is timed. Rounds sample the ways in changing order.
"""

import argparse
import asyncio
import gc
import random
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from aiomodelcache import ModelCache
from aiomodelcache.contrib.http import CachedResponseMiddleware, cached_response
from benchmarks import data
from benchmarks.models import PlainProduct, Product
from benchmarks.places import DATABASES, LOOPS, Place, open_place
from benchmarks.samples import percentile, ratios
from tests.support.servers import ServerMissing

BUDGET: Final = 5.0
"""The least ratio of requests per second, of a cached page and of a 304, to those of the rendered page."""
OWNERS: Final = range(1, data.OWNERS + 1)
RENDERED: Final = "rendered, from the database"
FROM_ROWS: Final = "rendered, from cached rows"
CACHED: Final = "cached"
NOT_MODIFIED: Final = "304"

Send = Callable[[int], Awaitable[bytes]]
"""A function that requests the page of an owner, and returns its content."""


def page_of(products: Sequence[Any]) -> list[dict[str, Any]]:
    """Returns the content of a page, as JSON has it."""
    return [
        {
            "slug": product.slug,
            "title": product.title,
            "text": product.text,
            "price": str(product.price),
            "details": product.details,
            "created": product.created.isoformat(),
            "stock": product.stock,
            "owner": product.owner.name,
            "region": product.owner.region.name,
        }
        for product in products
    ]


async def from_database(owner: int) -> list[dict[str, Any]]:
    return page_of(await PlainProduct.filter(owner_id=owner).order_by("id").prefetch_related("owner__region"))


async def from_rows(owner: int) -> list[dict[str, Any]]:
    products = await Product.cache.filter(owner=owner)
    await Product.cache.prefetch(products, "owner__region")
    return page_of(products)


def starlette_app(read: Callable[[int], Awaitable[Any]], *, decorate: bool = False, middleware: bool = False) -> Any:
    """Returns a Starlette application with the page."""

    async def show(request: Request) -> JSONResponse:
        return JSONResponse(await read(int(request.path_params["owner"])))

    show.__qualname__ = f"show.{read.__name__}.{decorate}"
    endpoint = cached_response()(show) if decorate else show
    above = [Middleware(CachedResponseMiddleware)] if middleware else []
    return Starlette(routes=[Route("/owners/{owner}", endpoint)], middleware=above)


def fastapi_app(read: Callable[[int], Awaitable[Any]], *, decorate: bool = False) -> Any:
    """Returns a FastAPI application with the page."""
    app = FastAPI()

    async def show(owner: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = await read(owner)
        return found

    show.__qualname__ = f"show_by_fastapi.{read.__name__}.{decorate}"
    app.get("/owners/{owner}")(cached_response()(show) if decorate else show)
    return app


def client_of(app: Any, tags: dict[int, bytes] | None = None) -> Send:
    """Returns a function that requests pages of an application. With ``tags``, they are validated."""

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def request(owner: int) -> bytes:
        headers = [(b"host", b"localhost"), (b"accept", b"*/*"), (b"user-agent", b"benchmark")]
        if tags is not None and owner in tags:
            headers.append((b"if-none-match", tags[owner]))
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": f"/owners/{owner}",
            "raw_path": b"/owners/%d" % owner,
            "root_path": "",
            "query_string": b"",
            "headers": headers,
            "server": ("localhost", 80),
            "client": ("localhost", 1),
        }
        messages: list[Any] = []

        async def send(message: Any) -> None:
            messages.append(message)

        await app(scope, receive, send)
        start, *parts = messages
        expected = 200 if tags is None or owner not in tags else 304
        assert start["status"] == expected, start
        if tags is not None and owner not in tags:
            tags[owner] = dict(start["headers"])[b"etag"]
        return b"".join(part.get("body", b"") for part in parts)

    return request


def ways() -> dict[str, dict[str, Send]]:
    """Returns the ways to answer, by framework."""
    starlette, fastapi = starlette_app(from_database), fastapi_app(from_database)
    decorated = starlette_app(from_rows, decorate=True)
    fastapi_decorated = fastapi_app(from_rows, decorate=True)
    below = starlette_app(from_rows, middleware=True)
    return {
        "Starlette": {
            RENDERED: client_of(starlette),
            FROM_ROWS: client_of(starlette_app(from_rows)),
            CACHED: client_of(decorated),
            NOT_MODIFIED: client_of(decorated, {}),
        },
        "FastAPI": {
            RENDERED: client_of(fastapi),
            FROM_ROWS: client_of(fastapi_app(from_rows)),
            CACHED: client_of(fastapi_decorated),
            NOT_MODIFIED: client_of(fastapi_decorated, {}),
        },
        "middleware": {
            RENDERED: client_of(starlette),
            FROM_ROWS: client_of(starlette_app(from_rows)),
            CACHED: client_of(below),
            NOT_MODIFIED: client_of(below, {}),
        },
    }


async def measure(place: Place, concurrency: int, rounds: int, seconds: float) -> None:
    """Measures all ways in one place and prints a table."""
    async with place.catalogue(), ModelCache(place.redis_url(0)):
        for framework, sends in ways().items():
            for owner in OWNERS:
                expected = await sends[RENDERED](owner)
                for _ in range(2):
                    for name, send in sends.items():
                        content = await send(owner)
                        assert content == expected or (name == NOT_MODIFIED and content == b""), (framework, name)
            found: dict[str, list[float]] = {name: [] for name in sends}
            slowest: dict[str, list[float]] = {name: [] for name in sends}
            for number in range(rounds):
                for name in random.Random(number).sample(list(sends), len(sends)):
                    rate, latencies = await load(sends[name], concurrency, seconds)
                    found[name].append(rate)
                    slowest[name] += latencies
            print(f"\n{framework}, {concurrency} requests at a time, {place}:\n")
            print("| page of 50 rows | requests/s | p99, ms | times the rendered page | budget |")
            print("|---|---:|---:|---:|---:|")
            for name, rates in found.items():
                ratio = ratios(rates, found[RENDERED]).median
                budget = f">= {BUDGET:g}" if name in (CACHED, NOT_MODIFIED) else ""
                late = 1000 * percentile(sorted(slowest[name]), 0.99)
                print(f"| {name} | {statistics.median(rates):,.0f} | {late:,.1f} | {ratio:.1f} | {budget} |")


async def load(send: Send, concurrency: int, seconds: float) -> tuple[float, list[float]]:
    """Returns requests per second of ``concurrency`` tasks, and the seconds that each request took."""
    latencies: list[float] = []
    gc.collect()
    gc.freeze()
    began = time.perf_counter()

    async def user(number: int) -> None:
        chance = random.Random(number)
        while time.perf_counter() - began < seconds or not latencies:
            started = time.perf_counter()
            await send(chance.choice(OWNERS))
            latencies.append(time.perf_counter() - started)

    try:
        async with asyncio.TaskGroup() as users:
            for number in range(concurrency):
                users.create_task(user(number))
    finally:
        gc.unfreeze()
    return len(latencies) / (time.perf_counter() - began), latencies


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.responses", description=__doc__)
    parser.add_argument("--loop", choices=LOOPS, default="default")
    parser.add_argument("--database", choices=DATABASES, default="postgres")
    parser.add_argument("--concurrency", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each sample")
    options = parser.parse_args(arguments)
    try:
        with (
            open_place(options.loop, options.database) as place,
            asyncio.Runner(loop_factory=place.new_loop) as runner,
        ):
            runner.run(measure(place, options.concurrency, options.rounds, options.seconds))
    except (ServerMissing, ImportError) as error:
        sys.exit(f"skipped: {error}")


if __name__ == "__main__":
    main()
