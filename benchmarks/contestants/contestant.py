"""What can be asked of a contestant. What it does not override it does not do, and is left out of that case."""

import asyncio
from collections.abc import Sequence
from typing import Any, ClassVar

from benchmarks import data
from benchmarks.models import PlainProduct
from benchmarks.places import Place


class Contestant:
    """One way of getting rows. Opened once for a run; rows that it returns are compared with the catalogue."""

    name: ClassVar[str]
    model: ClassVar[type[Any]] = PlainProduct

    def __init__(self) -> None:
        self._drafts: dict[int, Any] = {}

    def draft(self, pk: int) -> Any:
        """An instance of a product that is in the database already, always the same one."""
        if pk not in self._drafts:
            self._drafts[pk] = self.model(**data.product(pk))
            self._drafts[pk]._saved_in_db = True
        return self._drafts[pk]

    async def open(self, place: Place) -> None:
        """Connects."""

    async def close(self) -> None:
        """Disconnects."""

    async def get(self, pk: int) -> Any:
        """One product by primary key."""
        raise NotImplementedError

    async def get_by_slug(self, slug: str) -> Any:
        """One product by its slug."""
        raise NotImplementedError

    async def gather(self, pks: Sequence[int]) -> list[Any]:
        """Many products, each asked for by a task of its own, as the tasks of many requests do."""
        return await asyncio.gather(*[self.get(pk) for pk in pks])

    async def together(self, pks: Sequence[int]) -> list[Any]:
        """Many products in the contestant's own best way for many."""
        raise NotImplementedError

    async def gather_by_slug(self, slugs: Sequence[str]) -> list[Any]:
        """Many products by slug, each asked for by a task of its own."""
        return await asyncio.gather(*[self.get_by_slug(slug) for slug in slugs])

    async def together_by_slug(self, slugs: Sequence[str]) -> list[Any]:
        """Many products by slug in the contestant's own best way for many."""
        raise NotImplementedError

    async def nearby(self, pk: int) -> Any:
        """One product by primary key, once more, of what the process keeps itself."""
        raise NotImplementedError

    async def get_many(self, pks: Sequence[int]) -> list[Any]:
        """Many products by one call that takes many primary keys."""
        raise NotImplementedError

    async def again(self, pk: int) -> Any:
        """A product that was looked up before in the same request."""
        raise NotImplementedError

    async def products_of(self, owner: int) -> list[Any]:
        """The products of an owner, by primary key."""
        raise NotImplementedError

    async def mixed(self, pk: int) -> list[Any]:
        """Products found in four ways: by primary key, by slug, two lists, all independent of each other."""
        raise NotImplementedError

    async def regions_behind(self, products: Sequence[Any]) -> list[str]:
        """The names of the regions of the owners of these products."""
        raise NotImplementedError

    async def save(self, product: Any) -> None:
        """Writes all columns of a product, and invalidates what has to be."""
        raise NotImplementedError

    async def forget(self, pks: Sequence[int]) -> None:
        """Makes these products be misses, however they are asked for. Not timed."""
        raise NotImplementedError

    def columns(self, row: Any) -> dict[str, Any]:
        """The columns of an answer's row."""
        return {name: value for name, value in vars(row).items() if not name.startswith("_")}

    def can(self, operation: str) -> bool:
        """Whether it does this."""
        method = getattr(type(self), operation)
        if method is getattr(Contestant, operation):
            needs = {"gather": "get", "gather_by_slug": "get_by_slug"}.get(operation)
            return needs is not None and self.can(needs)
        return True
