"""A worker with a cache on Redis and an endpoint for Prometheus, whose scrapes show all workers."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from aiomodelcache import ModelCache
from aiomodelcache.contrib.prometheus import ModelCacheCollector, metrics_app
from aiomodelcache.engine import publishing
from tests.support.databases import DatabaseUrl, tortoise_on
from tests.support.models.models import User

publishing.PUBLISH_INTERVAL, publishing.PUBLISHED_TTL = 0.1, 1.0  # type: ignore[misc]

cache = ModelCache(os.environ["STORE"], namespace="metered")
registry = CollectorRegistry()
collector = ModelCacheCollector(cache)
registry.register(collector)  # before the cache opens


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    database = DatabaseUrl("sqlite://:memory:", "sqlite")
    async with tortoise_on(database, "tests.support.models.models"):
        await User.create(id=1, username="kim")
        async with cache:
            yield


async def look_up(request: Request) -> Response:
    for _ in range(request.path_params["times"]):
        await User.cache.get(id=1)
    return JSONResponse(cache.worker.name)


routes = [Route("/look-up/{times:int}", look_up), Mount("/metrics", metrics_app(collector, registry))]
app = Starlette(routes=routes, lifespan=lifespan)
