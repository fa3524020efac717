"""The ASGI application: its resources, its middleware, and the HTTP status of each error."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import msgspec
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from tortoise import Tortoise
from tortoise.contrib.starlette import RegisterTortoise

from aiomodelcache import NotFoundError
from aiomodelcache.contrib.dashboard import Dashboard
from aiomodelcache.contrib.prometheus import ModelCacheCollector, metrics_app
from aiomodelcache.contrib.starlette import register_model_cache
from examples.releases import models
from examples.releases.middleware import Costs
from examples.releases.routes import routes
from examples.releases.service import Forbidden
from examples.releases.settings import Settings
from examples.releases.shared import LOCK_TTL, Busy, Shared

STATUS: dict[type[Exception], int] = {
    NotFoundError: 404,
    Forbidden: 403,
    Busy: 409,
    msgspec.DecodeError: 422,
}


async def explain(request: Request, error: Exception) -> Response:
    """Returns the message of an error that the client can correct, with its HTTP status."""
    status = next(status for kind, status in STATUS.items() if isinstance(error, kind))
    return JSONResponse({"error": str(error)}, status)


def create_app() -> Starlette:
    settings = Settings.from_environment()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[dict[str, Shared], None]:
        async with (
            Redis.from_url(settings.redis_url) as redis,
            RegisterTortoise(app, db_url=settings.database_url, modules={"releases": [models.__name__]}),
        ):
            shared = Shared(redis, settings.lock_wait)
            async with shared.exclusive("schema", LOCK_TTL):  # a real service would run migrations instead
                await Tortoise.generate_schemas()
            yield {"shared": shared}

    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        middleware=[Middleware(Costs)],
        exception_handlers=dict.fromkeys(STATUS, explain),
    )
    # The cache opens after Tortoise and closes before it. Each request has a scope, and says in a header what it cost.
    cache = register_model_cache(
        app,
        settings.redis_url,
        namespace="releases",
        enabled=settings.cache,
        not_found=NotFoundError,  # answered by ``explain``
        server_timing=True,
    )
    registry, collector = CollectorRegistry(), ModelCacheCollector(cache)
    registry.register(collector)
    app.mount("/metrics", metrics_app(collector, registry))
    # For requests of this machine alone. A real service passes authorize=.
    app.mount("/cache", Dashboard(cache, debug=True, allow_clear=True))
    return app
