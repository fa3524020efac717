"""An application with a dashboard. ``STORE`` and ``DATABASE`` name its servers, ``SETTINGS`` has keywords as JSON."""

import asyncio
import itertools
import json
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from tortoise.context import TortoiseContext

from aiomodelcache import ModelCache, cached
from aiomodelcache.contrib.dashboard import Dashboard
from tests.contrib.watching import HOSTILE
from tests.support.models.shop_models import Latest, Listing, ListingCount, Mark, Rate, Seller, titles

MODULE = "tests.support.models.shop_models"
ROWS = 40


async def hostile(text: str) -> str:
    return text


hostile.__qualname__ = hostile.__name__ = HOSTILE
hostile_cached: Any = cached(hostile)

cache = ModelCache(os.environ["STORE"], namespace="shop")


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncGenerator[None, None]:
    async with TortoiseContext() as context:
        await context.init(
            config={
                "connections": {"default": os.environ["DATABASE"]},
                "apps": {"app": {"models": [MODULE], "default_connection": "default"}},
            },
            _enable_global_fallback=True,
        )
        await context.generate_schemas()
        async with cache:
            yield


async def fill(request: Request) -> Response:
    """Creates rows, and reads them by every kind of key."""
    seller = await Seller.create(id=1, name="kim")
    mark = await Mark.create(id=1, name="secret-mark")
    for number in range(1, ROWS + 1):
        listing = await Listing.create(id=number, slug=f"secret-{number}", title=HOSTILE, seller=seller)
        await listing.marks.add(mark)
    await Listing.create(id=ROWS + 1, slug=HOSTILE, seller=seller)
    return await work(request)


async def work(request: Request) -> Response:
    """Reads rows, some of them more often than others, and writes one of them."""
    for number in range(1, ROWS + 1):
        await asyncio.gather(*(Listing.cache.get(slug=f"secret-{at}") for at in range(1, 1 + ROWS // number)))
    first = await Listing.cache.get(id=1)
    await first.marks
    await Listing.cache.filter(seller=1)
    await Listing.cache.get_or_none(slug="secret-none")
    await Listing.cache.get_or_none(slug=HOSTILE)
    await asyncio.gather(Latest(1), ListingCount(1), titles(1), Rate("secret-rate"), hostile_cached(HOSTILE))
    await Listing.cache.update(first, title=f"hidden-{next(numbers)}")
    return JSONResponse({"pid": os.getpid()})


async def counts(request: Request) -> Response:
    """Says how many tasks this process has, and how often each class was looked up."""
    caches = {name: [each.hits, each.misses] for name, each in cache.stats.by_cache.items()}
    return JSONResponse({"tasks": len(asyncio.all_tasks()), "caches": caches})


numbers = itertools.count()
settings: dict[str, Any] = {"debug": True} | json.loads(os.environ.get("SETTINGS", "{}"))
app = Starlette(
    lifespan=lifespan,
    routes=[
        Route("/fill", fill),
        Route("/work", work),
        Route("/counts", counts),
        Mount("/cache", Dashboard(cache, **settings)),
        Mount("/readonly", Dashboard(cache, debug=True)),
    ],
)
