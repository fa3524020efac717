"""Sizes of one product in bytes, as an entry and as a pickled instance."""

import pickle
from typing import Any

import redis.asyncio as redis

from aiomodelcache.open_cache import default_cache
from benchmarks.models import PlainProduct, Product
from benchmarks.places import Place


async def measured_sizes(place: Place, pk: int) -> dict[str, float]:
    """Returns the bytes of the value alone, and of the memory that Redis needs for key and value."""
    await Product.cache.get(id=pk)
    key = default_cache().entries_of(Product).rows.key(pk)
    pickled = pickle.dumps(await PlainProduct.get(id=pk))
    async with redis.Redis.from_url(place.redis.url) as client:
        store: Any = client
        entry: bytes = await store.get(key)
        await store.set("pickled", pickled, ex=3600)
        sizes = {
            "entry": len(entry),
            "pickled instance": len(pickled),
            "entry, in Redis": await store.memory_usage(key, samples=0),
            "pickled instance, in Redis": await store.memory_usage("pickled", samples=0),
        }
        await store.delete("pickled")
    return {name: float(size) for name, size in sizes.items()}
