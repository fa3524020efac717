"""Lookups of rows that are kept decoded take fewer instructions of Python than others, single ones included."""

from collections.abc import Callable
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache import ModelCache
from tests.observe.test_observers import instructions
from tests.support.models.models import User

LOOK_UPS: dict[str, tuple[float, Callable[[list[int]], Any]]] = {
    "a single one": (1.0, lambda pks: User.cache.get(id=pks[0]).resolve()),
    "many": (0.75, lambda pks: User.cache.get_many(pks).resolve()),
}
"""The largest share of the instructions that a lookup may take, and the lookup."""


@pytest.mark.parametrize("name", LOOK_UPS)
async def test_rows_kept_decoded_take_fewer_instructions(
    name: str, database: BaseDBAsyncClient, backend_url: str
) -> None:
    share, look_up = LOOK_UPS[name]
    counts: list[int] = []
    for limit in (0, 1 << 20):
        async with ModelCache(backend_url, decoded_memory_limit=limit) as cache:
            pks = [(await User.create(username=f"{limit} {number}")).id for number in range(50)]
            for _ in range(6):
                await look_up(pks)
            count, _ = await instructions(lambda pks=pks: look_up(pks))
            counts.append(count)
            assert (cache.stats.decoded.hits > 0) is (limit > 0)
    print(f"{name}: {counts[0] / 20:.0f} instructions, {counts[1] / 20:.0f} if kept decoded")
    assert counts[1] < counts[0] * share
