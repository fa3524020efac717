"""aiocache as its documentation shows it: a decorated function, Redis, the pickle serializer."""

from collections.abc import Sequence
from typing import Any

from aiocache import Cache, cached
from aiocache.serializers import PickleSerializer

from benchmarks import data
from benchmarks.contestants.contestant import Contestant
from benchmarks.contestants.tortoise_alone import page_of
from benchmarks.models import PlainProduct
from benchmarks.places import MANY_CONNECTIONS, Place
from tests.support.servers.server import HOST


class AiocacheRedis(Contestant):
    name = "aiocache, Redis"

    async def open(self, place: Place) -> None:
        settings: dict[str, Any] = {
            "cache": Cache.REDIS,
            "endpoint": HOST,
            "port": place.redis.port,
            "db": 4,
            "pool_max_size": MANY_CONNECTIONS["max_connections"],
            "create_connection_timeout": MANY_CONNECTIONS["socket_connect_timeout"],
            "timeout": 60,
            "serializer": PickleSerializer(),
            "ttl": 3600,
        }

        @cached(**settings, key_builder=lambda function, pk: f"product:{pk}")
        async def product_by_pk(pk: int) -> PlainProduct:
            return await PlainProduct.get(id=pk)

        @cached(**settings, key_builder=lambda function, slug: f"product:slug:{slug}")
        async def product_by_slug(slug: str) -> PlainProduct:
            return await PlainProduct.get(slug=slug)

        @cached(**settings, key_builder=lambda function, owner: f"products:owner:{owner}")
        async def products_by_owner(owner: int) -> list[PlainProduct]:
            return await PlainProduct.filter(owner=owner).order_by("id")

        @cached(**settings, key_builder=lambda function, number: f"page:{number}")
        async def page(number: int) -> list[dict[str, Any]]:
            return await page_of(number)

        self._functions: list[Any] = [product_by_pk, product_by_slug, products_by_owner, page]
        self._cache = self._functions[0].cache

    async def close(self) -> None:
        for function in self._functions:
            await function.cache.close()

    async def get(self, pk: int) -> Any:
        return await self._functions[0](pk)

    async def get_by_slug(self, slug: str) -> Any:
        return await self._functions[1](slug)

    async def together(self, pks: Sequence[int]) -> list[Any]:
        found: list[Any] = await self._cache.multi_get([f"product:{pk}" for pk in pks])
        return found

    async def products_of(self, owner: int) -> list[Any]:
        found: list[Any] = await self._functions[2](owner)
        return found

    async def page(self, number: int) -> Any:
        """Returns the page as it was cached. Writes do not invalidate it."""
        return await self._functions[3](number)

    async def forget_page(self, number: int) -> None:
        await self._cache.delete(f"page:{number}")

    async def save(self, product: Any) -> None:
        await product.save()
        for key in (f"product:{product.id}", f"product:slug:{product.slug}", f"products:owner:{product.owner_id}"):
            await self._cache.delete(key)

    async def forget(self, pks: Sequence[int]) -> None:
        keys = [key for pk in pks for key in (f"product:{pk}", f"product:slug:{data.slug(pk)}")]
        await self._cache.raw("delete", *keys, *{f"products:owner:{data.owner_of(pk)}" for pk in pks})
