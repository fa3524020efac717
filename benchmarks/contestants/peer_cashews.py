"""cashews as its README shows it: a decorated function with a key template; ``delete`` after a write."""

from collections.abc import Sequence
from typing import Any, ClassVar

from cashews import Cache

from benchmarks import data
from benchmarks.contestants.contestant import Contestant
from benchmarks.contestants.tortoise_alone import page_of
from benchmarks.models import PlainProduct
from benchmarks.places import Place


class CashewsRedis(Contestant):
    name = "cashews, Redis"
    settings: ClassVar[dict[str, Any]] = {}

    def address(self, place: Place) -> str:
        return place.redis_url(2)

    async def open(self, place: Place) -> None:
        self._cache = cache = Cache()
        cache.setup(self.address(place), **self.settings)

        @cache(ttl="1h", key="product:{pk}")
        async def product_by_pk(pk: int) -> PlainProduct:
            return await PlainProduct.get(id=pk)

        @cache(ttl="1h", key="product:slug:{slug}")
        async def product_by_slug(slug: str) -> PlainProduct:
            return await PlainProduct.get(slug=slug)

        @cache(ttl="1h", key="products:owner:{owner}")
        async def products_by_owner(owner: int) -> list[PlainProduct]:
            return await PlainProduct.filter(owner=owner).order_by("id")

        @cache(ttl="1h", key="page:{number}")
        async def page(number: int) -> list[dict[str, Any]]:
            return await page_of(number)

        self._by_pk, self._by_slug, self._by_owner, self._page = product_by_pk, product_by_slug, products_by_owner, page
        await cache.init()

    async def close(self) -> None:
        await self._cache.close()

    async def get(self, pk: int) -> Any:
        return await self._by_pk(pk)

    async def get_by_slug(self, slug: str) -> Any:
        return await self._by_slug(slug)

    async def together(self, pks: Sequence[int]) -> list[Any]:
        return list(await self._cache.get_many(*[f"product:{pk}" for pk in pks]))

    async def products_of(self, owner: int) -> list[Any]:
        return await self._by_owner(owner)

    async def page(self, number: int) -> Any:
        """Returns the page as it was cached. Writes do not invalidate it."""
        return await self._page(number)

    async def forget_page(self, number: int) -> None:
        await self._cache.delete(f"page:{number}")

    async def save(self, product: Any) -> None:
        await product.save()
        await self._cache.delete_many(
            f"product:{product.id}", f"product:slug:{product.slug}", f"products:owner:{product.owner_id}"
        )

    async def forget(self, pks: Sequence[int]) -> None:
        keys = [key for pk in pks for key in (f"product:{pk}", f"product:slug:{data.slug(pk)}")]
        await self._cache.delete_many(*keys, *{f"products:owner:{data.owner_of(pk)}" for pk in pks})


class CashewsClientSide(CashewsRedis):
    """cashews with its near cache: values in the process, invalidated through Redis."""

    name = "cashews, client side"
    settings: ClassVar[dict[str, Any]] = {"client_side": True}

    def address(self, place: Place) -> str:
        return place.redis_url(3)


class CashewsMemory(CashewsRedis):
    """cashews with values in the process only."""

    name = "cashews, memory"
    settings: ClassVar[dict[str, Any]] = {"size": 100_000}

    def address(self, place: Place) -> str:
        return "mem://"
