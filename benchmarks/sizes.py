"""How many bytes one product takes, as an entry and as a pickled instance."""

import pickle
from typing import Any

import redis.asyncio as redis

from aiomodelcache.open_cache import default_cache
from benchmarks.models import PlainProduct, Product
from benchmarks.places import Place


async def measured_sizes(place: Place, pk: int) -> dict[str, float]:
    """Of the value alone, and of all that Redis keeps for it, its key included."""
    await Product.cache.get(id=pk)
    key = default_cache().entries_of(Product).rows.key(pk)
    pickled = pickle.dumps(await PlainProduct.get(id=pk))
    async with redis.Redis.from_url(place.redis.url) as client:
        there: Any = client
        entry: bytes = await there.get(key)
        await there.set("pickled", pickled, ex=3600)
        sizes = {
            "entry": len(entry),
            "pickled instance": len(pickled),
            "entry, in Redis": await there.memory_usage(key, samples=0),
            "pickled instance, in Redis": await there.memory_usage("pickled", samples=0),
        }
        await there.delete("pickled")
    return {name: float(size) for name, size in sizes.items()}
