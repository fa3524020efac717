"""``Contestant``: the operations to measure. A contestant takes part only in cases whose methods it overrides."""

import asyncio
from collections.abc import Sequence
from typing import Any, ClassVar

from benchmarks import data
from benchmarks.models import PlainProduct
from benchmarks.places import Place


class Contestant:
    """One way to read and write rows. It is opened once per run, and its rows are compared with the catalogue."""

    name: ClassVar[str]
    model: ClassVar[type[Any]] = PlainProduct

    def __init__(self) -> None:
        self._drafts: dict[int, Any] = {}

    def draft(self, pk: int) -> Any:
        """Returns an instance of a product that is in the database, the same one at every call."""
        if pk not in self._drafts:
            self._drafts[pk] = self.model(**data.product(pk))
            self._drafts[pk]._saved_in_db = True
        return self._drafts[pk]

    async def open(self, place: Place) -> None:
        """Connects."""

    async def close(self) -> None:
        """Disconnects."""

    async def get(self, pk: int) -> Any:
        """Returns one product by primary key."""
        raise NotImplementedError

    async def get_by_slug(self, slug: str) -> Any:
        """Returns one product by its slug."""
        raise NotImplementedError

    async def gather(self, pks: Sequence[int]) -> list[Any]:
        """Returns many products, each looked up by a task of its own, like those of concurrent requests."""
        return await asyncio.gather(*[self.get(pk) for pk in pks])

    async def gather_futures(self, pks: Sequence[int]) -> list[Any]:
        """Returns many products, each looked up on its own and without a task."""
        raise NotImplementedError

    async def together(self, pks: Sequence[int]) -> list[Any]:
        """Returns many products in the contestant's own best way."""
        raise NotImplementedError

    async def gather_by_slug(self, slugs: Sequence[str]) -> list[Any]:
        """Returns many products by slug, each looked up by a task of its own."""
        return await asyncio.gather(*[self.get_by_slug(slug) for slug in slugs])

    async def together_by_slug(self, slugs: Sequence[str]) -> list[Any]:
        """Returns many products by slug in the contestant's own best way."""
        raise NotImplementedError

    async def nearby(self, pk: int) -> Any:
        """Returns one product by primary key from the entries that the process keeps."""
        raise NotImplementedError

    async def get_many(self, pks: Sequence[int]) -> list[Any]:
        """Returns many products by one call that takes many primary keys."""
        raise NotImplementedError

    async def again(self, pk: int) -> Any:
        """Returns a product that was looked up before in the same request."""
        raise NotImplementedError

    async def products_of(self, owner: int) -> list[Any]:
        """Returns the products of an owner, by primary key."""
        raise NotImplementedError

    async def queried(self, owner: int) -> list[Any]:
        """Returns the products of an owner by a query that was not declared before."""
        raise NotImplementedError

    async def mixed(self, pk: int) -> list[Any]:
        """Returns the products of four independent lookups: by primary key, by slug, and two lists."""
        raise NotImplementedError

    async def regions_behind(self, products: Sequence[Any]) -> list[str]:
        """Returns the names of the regions of the owners of these products."""
        raise NotImplementedError

    async def page(self, number: int) -> Any:
        """Returns the rows of a page, each a dict of products' columns and their owner's name, as one cached value."""
        raise NotImplementedError

    async def untracked_page(self, number: int) -> Any:
        """Returns the rows of a page as one cached value that ends by a timeout only."""
        raise NotImplementedError

    async def pages(self, numbers: Sequence[int]) -> list[Any]:
        """Returns many pages, each looked up by a task of its own."""
        return await asyncio.gather(*[self.page(number) for number in numbers])

    def page_rows(self, answer: Any) -> list[dict[str, Any]]:
        """Returns the rows of an answer of ``page``."""
        rows: list[dict[str, Any]] = answer
        return rows

    async def forget_page(self, number: int) -> None:
        """Makes the next lookup of a page miss, but not those of its rows. Not timed."""
        raise NotImplementedError

    async def save(self, product: Any) -> None:
        """Writes all columns of a product, and invalidates its entries."""
        raise NotImplementedError

    async def forget(self, pks: Sequence[int]) -> None:
        """Makes all lookups of these products miss. Not timed."""
        raise NotImplementedError

    def columns(self, row: Any) -> dict[str, Any]:
        """Returns the columns of a row of an answer."""
        return {name: value for name, value in vars(row).items() if not name.startswith("_")}

    def can(self, operation: str) -> bool:
        """Returns True if the contestant has this operation."""
        method = getattr(type(self), operation)
        if method is getattr(Contestant, operation):
            needs = {"gather": "get", "gather_by_slug": "get_by_slug", "pages": "page"}.get(operation)
            return needs is not None and self.can(needs)
        return True
