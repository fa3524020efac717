"""Tortoise with this library."""

import asyncio
import sys
from contextlib import AsyncExitStack
from typing import Any

from aiomodelcache import ModelCache
from benchmarks import data
from benchmarks.models import PlainProduct, Product
from benchmarks.other_orms.cases import GET, LIST, OWNER, PK, measure
from benchmarks.places import MODELS
from tests.support.databases import DatabaseUrl, tortoise_on


class OwnOrm:
    name = "Tortoise, aiomodelcache"

    def __init__(self, redis_url: str, database_url: str) -> None:
        self.statements = 0
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        self._runner.run(self._open(redis_url, DatabaseUrl(database_url, "postgres")))

    async def _open(self, redis_url: str, url: DatabaseUrl) -> None:
        client: Any = await self._stack.enter_async_context(tortoise_on(url, MODELS))
        await data.fill_database()
        await self._stack.enter_async_context(ModelCache(redis_url, socket_timeout=10.0))
        execute = client.execute_query

        async def counted(*arguments: Any) -> Any:
            self.statements += 1
            return await execute(*arguments)

        client.execute_query = counted

    async def _get(self, pk: int, *, cached: bool) -> Any:
        return await (Product.cache.get(id=pk) if cached else PlainProduct.get(id=pk))

    async def _list(self, owner: int, *, cached: bool) -> list[Any]:
        if cached:
            return await Product.cache.filter(owner=owner)
        return await PlainProduct.filter(owner_id=owner).order_by("id")

    async def _save(self, stock: int, *, cached: bool) -> None:
        row = (Product if cached else PlainProduct)(**{**data.product(PK), "stock": stock})
        row._saved_in_db = True
        await row.save()

    def get(self, pk: int, *, cached: bool) -> Any:
        return self._runner.run(self._get(pk, cached=cached))

    def list(self, owner: int, *, cached: bool) -> list[Any]:
        return self._runner.run(self._list(owner, cached=cached))

    def save(self, stock: int, *, cached: bool) -> None:
        self._runner.run(self._save(stock, cached=cached))

    def repeat(self, case: str, times: int, *, cached: bool) -> None:
        async def run() -> None:
            for _ in range(times):
                if case == GET:
                    await self._get(PK, cached=cached)
                elif case == LIST:
                    await self._list(OWNER, cached=cached)
                else:
                    await self._save(data.product(PK)["stock"], cached=cached)

        self._runner.run(run())

    def close(self) -> None:
        self._runner.run(self._stack.aclose())


if __name__ == "__main__":
    own = OwnOrm(*sys.argv[1:3])
    measure(own, int(sys.argv[3]))
    own.close()
