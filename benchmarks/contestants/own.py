"""aiomodelcache as a contestant."""

import asyncio
from collections.abc import Sequence
from typing import Any

import redis.asyncio as redis

from aiomodelcache import BatchCacheQuery, InvalidationType, ModelCache, cached
from aiomodelcache.open_cache import open_caches
from benchmarks import data
from benchmarks.contestants.contestant import Contestant
from benchmarks.models import Product
from benchmarks.places import Place


async def page_of(number: int) -> list[dict[str, Any]]:
    """Computes a page from the cached rows of its products and of their owners."""
    products = await Product.cache.get_many(data.page_of(number))
    await Product.cache.prefetch(products, "owner")
    return [data.page_row(vars(product), product.owner.name) for product in products]


@cached
async def page(number: int) -> list[dict[str, Any]]:
    """The page, until a row of it is written. It has 41 dependencies: 20 products, 19 owners, 2 epochs."""
    return await page_of(number)


@cached(timeout=3600, invalidation=InvalidationType.OFF)
async def untracked_page(number: int) -> list[dict[str, Any]]:
    """The page, until its timeout."""
    return await page_of(number)


class Own(Contestant):
    name = "aiomodelcache"
    model = Product

    async def open(self, place: Place) -> None:
        self.cache = ModelCache(place.redis.url, socket_timeout=10.0)  # a burst must not look like an outage
        await self.cache.open()
        self._redis = redis.Redis.from_url(place.redis.url)

    async def close(self) -> None:
        await self.cache.close()
        await self._redis.aclose()

    async def get(self, pk: int) -> Any:
        return await Product.cache.get(id=pk)

    async def get_by_slug(self, slug: str) -> Any:
        return await Product.cache.get(slug=slug)

    async def gather(self, pks: Sequence[int]) -> list[Any]:
        # Passes the queries themselves: `gather` creates the tasks.
        return await asyncio.gather(*[Product.cache.get(id=pk) for pk in pks])

    async def gather_futures(self, pks: Sequence[int]) -> list[Any]:
        return await asyncio.gather(*[Product.cache.get(id=pk).start() for pk in pks])

    async def together(self, pks: Sequence[int]) -> list[Any]:
        return list((await BatchCacheQuery({pk: Product.cache.get(id=pk) for pk in pks})).values())

    async def gather_by_slug(self, slugs: Sequence[str]) -> list[Any]:
        return await asyncio.gather(*[Product.cache.get(slug=slug) for slug in slugs])

    async def together_by_slug(self, slugs: Sequence[str]) -> list[Any]:
        return await Product.cache.get_many(slugs, "slug")

    async def get_many(self, pks: Sequence[int]) -> list[Any]:
        return await Product.cache.get_many(pks)

    async def again(self, pk: int) -> Any:
        return await Product.cache.get(id=pk)

    async def products_of(self, owner: int) -> list[Any]:
        return await Product.cache.filter(owner=owner)

    async def queried(self, owner: int) -> list[Any]:
        return await Product.cache.query(Product.filter(owner_id=owner).order_by("id"))

    async def mixed(self, pk: int) -> list[Any]:
        found = await BatchCacheQuery(
            by_pk=Product.cache.get(id=pk),
            by_slug=Product.cache.get(slug=data.slug(pk + 1)),
            first_list=Product.cache.filter(owner=1),
            second_list=Product.cache.filter(owner=2),
        )
        return [found["by_pk"], found["by_slug"], *found["first_list"], *found["second_list"]]

    async def regions_behind(self, products: Sequence[Any]) -> list[str]:
        await Product.cache.prefetch(products, "owner__region")
        return [product.owner.region.name for product in products]

    async def page(self, number: int) -> Any:
        return await page(number)

    async def untracked_page(self, number: int) -> Any:
        return await untracked_page(number)

    async def pages(self, numbers: Sequence[int]) -> list[Any]:
        return await asyncio.gather(*[page.query(number) for number in numbers])

    async def forget_page(self, number: int) -> None:
        await self._redis.unlink(page.key(number), untracked_page.key(number))

    async def save(self, product: Any) -> None:
        await product.save()

    async def forget(self, pks: Sequence[int]) -> None:
        entries = self.cache.open_cache.entries_of(Product)
        keys = [entries.rows.key(pk) for pk in pks]
        for index in entries.indexes:
            values = [data.slug(pk) if index.unique else data.owner_of(pk) for pk in pks]
            keys += [index.key((value,)) for value in dict.fromkeys(values)]
        await self._redis.unlink(*keys)


class Near(Own):
    """This library with entries kept in the process. Its entries are never invalidated during a run."""

    name = "aiomodelcache near"

    async def open(self, place: Place) -> None:
        self.cache = ModelCache(place.redis.url, socket_timeout=10.0, near=True, near_lag=3_600.0)
        await self.cache.open()
        open_caches.remove(self.cache.open_cache)  # else each write would mark and clear its intent twice
        self._products = self.cache.manager(Product)

    async def close(self) -> None:
        await self.cache.close()

    def can(self, method: str) -> bool:
        return method == "nearby"

    async def nearby(self, pk: int) -> Any:
        return await self._products.get(id=pk)
