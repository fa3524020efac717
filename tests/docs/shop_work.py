"""The work of the application ``shop``: ``fill``, ``serve``, ``trace`` (logs requests), ``behind`` (the cache),
``orders`` (in another cache).

Started as ``python -m tests.docs.shop_work WORK REDIS_URL``.
"""

import asyncio
import dataclasses
import datetime
import json
import logging
import pickle
import sys

import anyio
from redis.asyncio import Redis
from shop.models import Event, Order, Tag, User
from shop.settings import TORTOISE_ORM
from shop.views import EventCount, Latest, Rate, titles
from tortoise import timezone
from tortoise.connection import get_connection
from tortoise.context import TortoiseContext

from aiomodelcache import ModelCache


async def fill(cache: ModelCache) -> None:
    """Creates rows, and reads them by every kind of key."""
    kim = await User.create(id=1, name="kim")
    tag = await Tag.create(id=1, name="python")
    for number in range(5):
        event = await Event.create(id=number + 1, slug=f"e{number}", title=f"T{number}", organizer=kim)
        await event.tags.add(tag)
        await Event.cache.get(slug=event.slug)
    await Event.cache.get_or_none(slug="none")
    await User.cache.get(name="kim")
    await (await Event.cache.get(id=1)).tags
    await Event.cache.filter(organizer=1)
    await Latest(1)
    await EventCount(1)
    await Rate("EUR")
    await titles(1)


async def serve(cache: ModelCache) -> None:
    """Reads for ever."""
    cache.publish_stats()
    await Event.cache.get_or_none(slug="none")
    await User.cache.get(name="kim")
    await (await Event.cache.get(id=1)).tags
    await EventCount(1)
    await cache.fleet()  # publishes the counters now
    print("ready", flush=True)
    number = 0
    while True:
        event = await Event.cache.get(slug="e0")
        await event.organizer
        await Event.cache.filter(organizer=1)
        await Event.cache.get_or_none(id=1_000 + number // 25)
        number += 1
        await asyncio.sleep(0.002)


async def trace(cache: ModelCache) -> None:
    """Sends statements that are logged, and asks for some keys only."""
    logger = logging.getLogger("tortoise.db_client")
    logger.addHandler(logging.FileHandler("app.log", "w"))
    logger.setLevel(logging.DEBUG)
    for number in range(60):
        await Event.filter(organizer=1, title=f"T{number % 4}")
        await Event.filter(organizer=1, public=number % 2 == 0)
        await Event.filter(id__gt=number)
    await Event.get(id=1)
    for number in range(3):
        await Event.filter(id=5).update(title=f"T{number}")
    logger.setLevel(logging.WARNING)
    await Event.cache.get(slug="e0")
    await Event.cache.filter(organizer=1)
    await (await Event.cache.get(id=1)).tags
    await Latest(1)
    await EventCount(1)
    await anyio.Path("counts.json").write_text(json.dumps(dataclasses.asdict(cache.stats), default=list))


async def behind(cache: ModelCache) -> None:
    """Writes a row behind the cache."""
    await Event.cache.get(id=1)
    await get_connection("default").execute_script("UPDATE event SET title = 'changed' WHERE id = 1")


async def orders(cache: ModelCache) -> None:
    """Pickles orders into Redis, as a cache made by hand does, and writes three of them without deleting their keys."""
    async with Redis.from_url(sys.argv[2]) as redis:
        for number in range(1, 251):
            order = await Order.create(id=number, total=number)
            if number <= 240:
                await redis.set(f"order:{number}", pickle.dumps(order))
    for number in (3, 70, 120):
        await Order.filter(id=number).update(total=0, updated=timezone.now() - datetime.timedelta(minutes=number))


async def main(what: str, url: str) -> None:
    """Does one of these in the application."""
    async with TortoiseContext() as context:
        await context.init(config=TORTOISE_ORM)
        if what == "fill":
            await context.generate_schemas()
        async with ModelCache(url, namespace="shop") as cache:
            works = {"fill": fill, "serve": serve, "trace": trace, "behind": behind, "orders": orders}
            await works[what](cache)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
