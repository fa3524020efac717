"""The types of computed results and values."""

import asyncio
from decimal import Decimal
from typing import Any, assert_type

from aiomodelcache import CacheQuery
from tests.typing.declarations import (
    Event,
    EventCount,
    HasEvents,
    NextEvent,
    Rate,
    Service,
    Sizes,
    Slugs,
    permissions,
    quota,
)


async def of_models() -> None:
    assert_type(await NextEvent(organizer=1), Event | None)
    assert_type(await Slugs(1), list[str])
    assert_type(await EventCount(1), int)
    assert_type(await HasEvents(1), bool)
    await EventCount(1).invalidate()
    count: str = await EventCount(1)  # wrong
    print(count)


async def of_no_model() -> None:
    assert_type(await Rate("USD", quote="EUR"), Decimal)
    await Rate("USD").invalidate()
    assert_type(await Sizes("a"), int)
    await Rate.clear()
    assert_type(await permissions(7, team="x"), list[str])
    assert_type(permissions.query(7), CacheQuery[list[str]])  # wrong
    query: CacheQuery[list[str]] = permissions.query(7)
    assert_type(await query, list[str])
    assert_type(permissions.key(7), str)
    await permissions.invalidate(7, team="x")
    assert_type(await permissions.refresh(7), list[str])
    assert_type(await Rate("USD").refresh(), Decimal)
    await permissions.clear()
    assert_type(await quota(7), int)
    assert_type(await asyncio.gather(Rate("USD"), quota(1)), tuple[Decimal, int])
    assert_type(await Service().answer(7), dict[str, Any])
    await Service().answer.invalidate(7)


async def wrong() -> None:
    await permissions("7")  # wrong
    await permissions(7, "x")  # wrong
    await permissions.invalidate()  # wrong
    permissions.query(number=7)  # wrong
    await quota()  # wrong
    await Service().answer("7")  # wrong
