"""One side of the comparison: a process that measures whichever ``aiomodelcache`` is on its path.

It runs as a script, so that it imports nothing of the checkout that it belongs to, and uses only public names, so that
older versions can be measured. It prints its cases as JSON. For each request on standard input it then
measures one case and prints the seconds of CPU time of a single operation, or its instructions of Python.
"""

import asyncio
import datetime
import decimal
import functools
import gc
import json
import random
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any, Final

import redis.asyncio as redis
from tortoise import Tortoise, fields

from aiomodelcache import BatchCacheQuery, CachedModel, ModelCache, cached, local_cache

OWNERS: Final = 24
LIST: Final = 50
"""Number of products of one owner."""
HUNDRED: Final = list(range(101, 201))
"""Primary keys that are looked up as hits. The rows of misses are others."""
ABSENT: Final = list(range(401, 501))
REPEATED: Final = 200
"""Number of lookups in one run of a case whose lookups send no request."""
TRACED: Final = 5
"""Runs of which the instructions are counted."""


class Owner(CachedModel):
    """An owner of products."""

    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=40)


class Product(CachedModel):
    """A row of ten columns."""

    id = fields.IntField(primary_key=True)
    slug = fields.CharField(max_length=64, unique=True)
    title = fields.CharField(max_length=100)
    text = fields.TextField()
    price = fields.DecimalField(max_digits=10, decimal_places=2)
    token = fields.UUIDField()
    details = fields.JSONField[dict[str, Any]]()
    created = fields.DatetimeField()
    stock = fields.IntField()
    owner = fields.ForeignKeyField("app.Owner", related_name="products")
    owner_id: int

    class CacheMeta:
        get_key_fields_list = [("slug",)]
        filter_key_fields_list = [("owner",)]
        order_by = ["id"]


def product(pk: int) -> Product:
    """Returns a row, the same one at every call."""
    chance = random.Random(pk)
    return Product(
        id=pk,
        slug=f"product-{pk:05}",
        title=f"Product {chance.random()}",
        text=" ".join(["text"] * 50),
        price=decimal.Decimal(chance.randrange(100, 100_000)) / 100,
        token=uuid.UUID(int=chance.getrandbits(128), version=4),
        details={"colour": chance.choice(["red", "green"]), "sizes": [1, 2, 3], "weight": chance.random()},
        created=datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(microseconds=pk * 1_000_003),
        stock=chance.randrange(1_000),
        owner_id=(pk - 1) // LIST + 1,
    )


async def titles(owner: int) -> list[str]:
    """Returns a result that is computed from rows."""
    return [product.title for product in await Product.cache.filter(owner=owner)]


@functools.cache
def cached_titles() -> Any:
    """Returns the function with its cache. Not made on import, as older versions refuse to."""
    return cached(titles)


@dataclass(frozen=True)
class GuardCase:
    """One operation to measure."""

    run: Callable[[], Awaitable[Any]]
    answer: Callable[[Any], Any]
    """Returns what ``expected`` says of an answer."""
    expected: Any
    count: int = 1
    """Number of operations in one run."""
    misses: bool = False
    """True to remove what ``run`` stores before each run, outside of the timed part."""


def _pk(row: Any) -> Any:
    return row.id


def _pks(rows: Any) -> Any:
    return [row.id for row in rows]


async def _local() -> Any:
    async with local_cache():
        for _ in range(REPEATED):
            found = await Product.cache.get(id=101)
    return found


async def _batch() -> Any:
    return list((await BatchCacheQuery({pk: Product.cache.get(id=pk) for pk in HUNDRED})).values())


async def _gather() -> Any:
    return await asyncio.gather(*[Product.cache.get(id=pk) for pk in HUNDRED])


async def _one_by_pk(pk: int = 101) -> Any:
    return await Product.cache.get(id=pk)


async def _one_by_slug(pk: int = 101) -> Any:
    return await Product.cache.get(slug=f"product-{pk:05}")


async def _many(pks: list[int] = HUNDRED) -> Any:
    return await Product.cache.get_many(pks)


async def _list() -> Any:
    return await Product.cache.filter(owner=1)


async def _query() -> Any:
    return await Product.cache.query(Product.filter(owner_id=1).order_by("id"))


async def _titles() -> Any:
    return await cached_titles()(1)


async def _save() -> Any:
    row = product(201)
    row._saved_in_db = True
    await row.save()
    return row


CASES: Final = {
    "hit in local_cache()": GuardCase(_local, _pk, 101, REPEATED),
    "hit by pk": GuardCase(_one_by_pk, _pk, 101),
    "hit by slug": GuardCase(_one_by_slug, _pk, 101),
    "gather of 100 hits": GuardCase(_gather, _pks, HUNDRED, 100),
    "batch of 100 hits": GuardCase(_batch, _pks, HUNDRED, 100),
    "get_many of 100 hits": GuardCase(_many, _pks, HUNDRED, 100),
    "list of 50": GuardCase(_list, _pks, list(range(1, 51))),
    "query of 50 rows": GuardCase(_query, _pks, list(range(1, 51))),
    "cached function": GuardCase(_titles, len, 50),
    "miss by pk": GuardCase(lambda: _one_by_pk(301), _pk, 301, misses=True),
    "miss by slug": GuardCase(lambda: _one_by_slug(302), _pk, 302, misses=True),
    "100 misses, get_many": GuardCase(lambda: _many(ABSENT), _pks, ABSENT, 100, misses=True),
    "save": GuardCase(_save, _pk, 201),
}


class GuardSide:
    """The cases on an open cache."""

    def __init__(self, store: "redis.Redis") -> None:
        self._store = store
        self._stored: dict[str, list[bytes]] = {}
        """The keys that the run of a case stores, so that removing them makes the next run miss."""

    async def rehearse(self) -> dict[str, int]:
        """Checks the answers. Returns the cases that this version has, and how many operations one run has."""
        await Product.cache.get(id=1_000)  # stores what all lookups of the model share
        return {name: case.count for name, case in CASES.items() if await self._can(name, case)}

    async def _can(self, name: str, case: GuardCase) -> bool:
        before = set(await self._store.keys())
        try:
            answer = await case.run()
        except (AttributeError, TypeError) as error:
            print(f"no {name}: {error}", file=sys.stderr)
            return False
        self._stored[name] = list(set(await self._store.keys()) - before)
        assert case.answer(answer) == case.expected, (name, answer)
        assert case.answer(await case.run()) == case.expected, name
        return True

    async def _prepare(self, name: str, case: GuardCase) -> None:
        if case.misses:
            await self._store.delete(*self._stored[name])
            await asyncio.sleep(0)

    async def cpu(self, name: str, repeats: int) -> float:
        """Returns the seconds of CPU time for each operation."""
        case = CASES[name]
        await self._prepare(name, case)
        await case.run()
        gc.collect()
        gc.freeze()
        worked = 0.0
        for _ in range(repeats):
            await self._prepare(name, case)
            began = time.process_time()
            await case.run()
            worked += time.process_time() - began
        return worked / repeats / case.count

    async def instructions(self, name: str) -> float:
        """Returns the instructions of Python for each operation, without those of the event loop."""
        case = CASES[name]
        found = 0

        def trace(frame: FrameType, event: str, _: object) -> Any:
            nonlocal found
            frame.f_trace_opcodes = True
            found += event == "opcode" and frame.f_code.co_name != "_run_once"
            return trace

        for number in range(-TRACED, TRACED):  # the first ones warm up
            await self._prepare(name, case)
            if number < 0:
                await case.run()
                continue
            sys.settrace(trace)
            await case.run()
            sys.settrace(None)
        return found / TRACED / case.count


async def main(redis_url: str, database_url: str) -> None:
    """Measures until standard input ends."""
    await Tortoise.init(db_url=database_url, modules={"app": ["__main__"]})
    await Tortoise.generate_schemas()
    async with ModelCache(redis_url, socket_timeout=10.0):
        await Owner.bulk_create([Owner(id=number, name=f"Owner {number}") for number in range(1, OWNERS + 1)])
        await Product.bulk_create([product(pk) for pk in range(1, OWNERS * LIST + 1)], batch_size=200)
        store = redis.Redis.from_url(redis_url)
        side = GuardSide(store)
        print(json.dumps(await side.rehearse()), flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            name, repeats = json.loads(line)
            figure = await (side.cpu(name, repeats) if repeats else side.instructions(name))
            print(json.dumps(figure), flush=True)
        await store.aclose()
    await Tortoise.close_connections()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
