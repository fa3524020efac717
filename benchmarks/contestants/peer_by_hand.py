"""Cache-aside written by hand: redis-py, pickle, a timeout, DEL after a write."""

import pickle
from collections.abc import Sequence
from typing import Any

import redis.asyncio as redis

from benchmarks import data
from benchmarks.contestants.contestant import Contestant
from benchmarks.contestants.tortoise_alone import page_of
from benchmarks.models import PlainProduct
from benchmarks.places import MANY_CONNECTIONS, Place


class ByHand(Contestant):
    """A cache that can return rows older than the last write. It is compared by speed only."""

    name = "by hand, pickle"

    async def open(self, place: Place) -> None:
        self._redis = redis.Redis.from_url(place.redis_url(1), **MANY_CONNECTIONS)

    async def close(self) -> None:
        await self._redis.aclose()

    async def get(self, pk: int) -> Any:
        found = await self._redis.get(f"product:{pk}")
        if found is not None:
            return pickle.loads(found)
        product = await PlainProduct.get(id=pk)
        await self._redis.set(f"product:{pk}", pickle.dumps(product), ex=3600)
        return product

    async def get_by_slug(self, slug: str) -> Any:
        found = await self._redis.get(f"product:slug:{slug}")
        if found is not None:
            return pickle.loads(found)
        product = await PlainProduct.get(slug=slug)
        await self._redis.set(f"product:slug:{slug}", pickle.dumps(product), ex=3600)
        return product

    async def together(self, pks: Sequence[int]) -> list[Any]:
        found = await self._redis.mget([f"product:{pk}" for pk in pks])
        products = {pk: pickle.loads(bytes_) for pk, bytes_ in zip(pks, found, strict=True) if bytes_ is not None}
        if missing := [pk for pk in pks if pk not in products]:
            async with self._redis.pipeline(transaction=False) as pipeline:
                for product in await PlainProduct.filter(id__in=missing):
                    products[product.id] = product
                    pipeline.set(f"product:{product.id}", pickle.dumps(product), ex=3600)
                await pipeline.execute()
        return [products[pk] for pk in pks]

    async def products_of(self, owner: int) -> list[Any]:
        found = await self._redis.get(f"products:owner:{owner}")
        if found is not None:
            result: list[Any] = pickle.loads(found)
            return result
        products = await PlainProduct.filter(owner=owner).order_by("id")
        await self._redis.set(f"products:owner:{owner}", pickle.dumps(products), ex=3600)
        return products

    async def page(self, number: int) -> Any:
        """Returns the page as it was cached. Writes do not invalidate it: who wrote this would have to know it."""
        found = await self._redis.get(f"page:{number}")
        if found is not None:
            return pickle.loads(found)
        page = await page_of(number)
        await self._redis.set(f"page:{number}", pickle.dumps(page), ex=3600)
        return page

    async def forget_page(self, number: int) -> None:
        await self._redis.delete(f"page:{number}")

    async def queried(self, owner: int) -> list[Any]:
        return await self.products_of(owner)

    async def save(self, product: Any) -> None:
        await product.save()
        await self._redis.delete(
            f"product:{product.id}", f"product:slug:{product.slug}", f"products:owner:{product.owner_id}"
        )

    async def forget(self, pks: Sequence[int]) -> None:
        keys = [key for pk in pks for key in (f"product:{pk}", f"product:slug:{data.slug(pk)}")]
        await self._redis.delete(*keys, *{f"products:owner:{data.owner_of(pk)}" for pk in pks})
