"""SQLAlchemy with advanced-alchemy's cached repository, as its documentation shows it: dogpile.cache on Redis.

Each operation has a session of its own, like a request. The repository caches only if it detaches what it returns
(``auto_expunge``) and if a list is filtered by keyword.
"""

import asyncio
import datetime
import decimal
import sys
import uuid
from typing import Any
from urllib.parse import urlsplit

from advanced_alchemy.cache import CacheConfig, CacheManager, setup_cache_listeners
from advanced_alchemy.repository import SQLAlchemyAsyncRepository
from sqlalchemy import JSON, DateTime, Numeric, event
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from benchmarks import data
from benchmarks.other_orms.cases import GET, LIST, OWNER, PK, measure


class Base(DeclarativeBase):
    pass


class Product(Base):
    __tablename__ = "alchemy_product"

    id: Mapped[int] = mapped_column(primary_key=True)
    slug: Mapped[str] = mapped_column(unique=True)
    title: Mapped[str]
    text: Mapped[str]
    price: Mapped[decimal.Decimal] = mapped_column(Numeric(10, 2))
    token: Mapped[uuid.UUID]
    details: Mapped[dict[str, Any]] = mapped_column(JSON)
    created: Mapped[datetime.datetime] = mapped_column(DateTime(timezone=True))
    stock: Mapped[int]
    owner_id: Mapped[int] = mapped_column(index=True)


class Products(SQLAlchemyAsyncRepository[Product]):
    model_type = Product


class Alchemy:
    name = "SQLAlchemy, advanced-alchemy"

    def __init__(self, redis_url: str, database_url: str) -> None:
        self.statements = 0
        self._runner = asyncio.Runner()
        url = urlsplit(redis_url)
        where = {"host": url.hostname, "port": url.port, "db": 0}
        self._manager = CacheManager(CacheConfig("dogpile.cache.redis", arguments=where))
        self._engine = create_async_engine(database_url.replace("asyncpg://", "postgresql+asyncpg://"))
        self._session = async_sessionmaker(self._engine, expire_on_commit=False)
        setup_cache_listeners()
        self._runner.run(self._fill())
        event.listen(self._engine.sync_engine, "before_cursor_execute", self._count)

    def _count(self, *arguments: Any) -> None:
        self.statements += 1

    async def _fill(self) -> None:
        async with self._engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        async with self._session() as session:
            session.add_all([Product(**data.product(pk)) for pk in range(1, data.PRODUCTS + 1)])
            await session.commit()

    def _repository(self, session: Any, *, cached: bool) -> Products:
        return Products(session=session, auto_expunge=True, cache_manager=self._manager if cached else None)

    async def _get(self, pk: int, *, cached: bool) -> Any:
        async with self._session() as session:
            return await self._repository(session, cached=cached).get(pk)

    async def _list(self, owner: int, *, cached: bool) -> list[Any]:
        async with self._session() as session:
            repository = self._repository(session, cached=cached)
            return await repository.get_many(owner_id=owner, order_by=("id", False))

    async def _save(self, stock: int, *, cached: bool) -> None:
        async with self._session() as session:
            row = Product(**{**data.product(PK), "stock": stock})
            await self._repository(session, cached=cached).update(row)
            await session.commit()  # not auto_commit=True, which commits before it notes what to invalidate

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


if __name__ == "__main__":
    measure(Alchemy(*sys.argv[1:3]), int(sys.argv[3]))
