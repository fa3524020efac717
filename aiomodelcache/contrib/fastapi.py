"""``register_model_cache`` for FastAPI."""

from typing import TYPE_CHECKING, Unpack

from aiomodelcache.client import ModelCache
from aiomodelcache.config import Settings
from aiomodelcache.contrib import starlette
from aiomodelcache.contrib.registration import StoreOrURL
from aiomodelcache.exceptions import NotFoundError

if TYPE_CHECKING:
    from fastapi import FastAPI


def register_model_cache(
    app: "FastAPI",
    url: StoreOrURL,
    *,
    namespace: str = "",
    request_scope: bool = True,
    server_timing: bool = False,
    **settings: Unpack[Settings],
) -> ModelCache:
    """Opens a cache when the application has started, and closes it before the application stops.

    As for Starlette, but ``get_or_404`` raises FastAPI's ``HTTPException``.

    >>> from fastapi import FastAPI
    >>> from tortoise.contrib.fastapi import register_tortoise
    >>> from aiomodelcache.contrib.fastapi import register_model_cache
    >>> app = FastAPI()
    >>> register_tortoise(app, db_url="postgres://localhost/app", modules={"app": ["events"]})
    >>> cache = register_model_cache(app, "redis://localhost:6379/0", namespace="shop")
    """
    settings.setdefault("not_found", not_found)
    return starlette.register_model_cache(
        app, url, namespace=namespace, request_scope=request_scope, server_timing=server_timing, **settings
    )


def not_found(error: NotFoundError) -> Exception:
    """Returns FastAPI's ``HTTPException`` with the status 404: the default of the setting ``not_found``."""
    from fastapi import HTTPException

    return HTTPException(404, str(error))
