"""Tortoise without a cache."""

import asyncio
from collections.abc import Sequence
from typing import Any

from benchmarks import data
from benchmarks.contestants.contestant import Contestant
from benchmarks.models import PlainProduct


async def page_of(number: int) -> list[dict[str, Any]]:
    """Computes a page from its products and their owners."""
    products = await PlainProduct.filter(id__in=data.page_of(number)).prefetch_related("owner")
    rows = {product.id: data.page_row(vars(product), product.owner.name) for product in products}
    return [rows[pk] for pk in data.page_of(number)]


class TortoiseAlone(Contestant):
    name = "Tortoise alone"

    async def get(self, pk: int) -> Any:
        return await PlainProduct.get(id=pk)

    async def get_by_slug(self, slug: str) -> Any:
        return await PlainProduct.get(slug=slug)

    async def together(self, pks: Sequence[int]) -> list[Any]:
        return await PlainProduct.filter(id__in=pks)

    async def together_by_slug(self, slugs: Sequence[str]) -> list[Any]:
        return await PlainProduct.filter(slug__in=slugs)

    async def products_of(self, owner: int) -> list[Any]:
        return await PlainProduct.filter(owner=owner).order_by("id")

    async def mixed(self, pk: int) -> list[Any]:
        by_pk, by_slug, first_list, second_list = await asyncio.gather(
            PlainProduct.get(id=pk),
            PlainProduct.get(slug=data.slug(pk + 1)),
            self.products_of(1),
            self.products_of(2),
        )
        return [by_pk, by_slug, *first_list, *second_list]

    async def regions_behind(self, products: Sequence[Any]) -> list[str]:
        await PlainProduct.fetch_for_list(products, "owner__region")
        return [product.owner.region.name for product in products]

    async def page(self, number: int) -> Any:
        return await page_of(number)

    async def forget_page(self, number: int) -> None:
        pass

    async def queried(self, owner: int) -> list[Any]:
        return await self.products_of(owner)

    async def save(self, product: Any) -> None:
        await product.save()

    async def forget(self, pks: Sequence[int]) -> None:
        pass  # without a cache, every lookup is a miss
