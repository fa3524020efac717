"""Rows of the catalogue. They are the same in every run."""

import datetime
import decimal
import functools
import random
import uuid
from typing import Any, Final

from aiomodelcache import writes_without_cache
from benchmarks.models import Owner, PlainOwner, PlainProduct, PlainRegion, Product, Region

REGIONS: Final = 5
OWNERS: Final = 24
LIST_LENGTH: Final = 50
"""Number of products of one owner."""
PRODUCTS: Final = OWNERS * LIST_LENGTH
_TEXT: Final = "a cache keeps what was asked for near to callers that ask it again and forgets it when it changes"
_WORDS: Final = _TEXT.split()


def slug(pk: int) -> str:
    return f"product-{pk:05}"


def owner_of(pk: int) -> int:
    return (pk - 1) // LIST_LENGTH + 1


def region_name(owner: int) -> str:
    return f"Region {owner % REGIONS + 1}"


def products_of(owner: int) -> list[int]:
    """Returns the primary keys of an owner's products, in order."""
    return list(range((owner - 1) * LIST_LENGTH + 1, owner * LIST_LENGTH + 1))


def page_of(number: int) -> list[int]:
    """Returns the primary keys of the 20 products of a page. They have 19 owners."""
    return [*range(number, number + 19 * LIST_LENGTH, LIST_LENGTH), number + 1]


def page(number: int) -> list[dict[str, Any]]:
    """Returns the rows of a page: some columns of its products, and the names of their owners."""
    return [page_row(product(pk), f"Owner {owner_of(pk)}") for pk in page_of(number)]


def page_row(columns: dict[str, Any], owner: str) -> dict[str, Any]:
    """Returns one row of a page."""
    return {name: columns[name] for name in ("id", "slug", "title", "stock")} | {"owner": owner}


@functools.cache
def product(pk: int) -> dict[str, Any]:
    """Returns the columns of one product."""
    chance = random.Random(pk)
    return {
        "id": pk,
        "slug": slug(pk),
        "title": " ".join(chance.choices(_WORDS, k=5)).capitalize(),
        "text": " ".join(chance.choices(_WORDS, k=40)),
        "price": decimal.Decimal(chance.randrange(100, 100_000)) / 100,
        "token": uuid.UUID(int=chance.getrandbits(128), version=4),
        "details": {"colour": chance.choice(["red", "green"]), "sizes": [1, 2, 3], "weight": chance.random()},
        "created": datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(microseconds=pk * 1_000_003),
        "stock": chance.randrange(1_000),
        "owner_id": owner_of(pk),
    }


async def fill_database() -> None:
    """Writes all rows, for the models with the cache and for the plain ones."""
    with writes_without_cache():
        for region in (Region, PlainRegion):
            await region.bulk_create([region(id=n, name=f"Region {n}") for n in range(1, REGIONS + 1)])
        for owner in (Owner, PlainOwner):
            await owner.bulk_create(
                [owner(id=n, name=f"Owner {n}", region_id=n % REGIONS + 1) for n in range(1, OWNERS + 1)]
            )
        for kind in (Product, PlainProduct):
            await kind.bulk_create([kind(**product(pk)) for pk in range(1, PRODUCTS + 1)], batch_size=200)
