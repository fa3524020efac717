"""Results that are computed from stale copies: none is stored, whatever the function declares.

A stale copy is there when its writer has finished, so the versions of tables are fresh already.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from aiomodelcache import InvalidationType, ModelCache, ResultCache, cached, depends_on
from tests.support.gates import PATIENCE
from tests.support.models.stale_models import Ticket

pytestmark = pytest.mark.models("tests.support.models.stale_models")

Read = Callable[[], Awaitable[int]]


async def by_row() -> int:
    return (await Ticket.cache.get(id=1)).votes


async def by_list() -> int:
    [ticket] = await Ticket.cache.filter(queue=1)
    return ticket.votes


def undeclared(read: Read) -> Any:
    return cached(read)


def declared_by_setting(read: Read) -> Any:
    return cached(depends_on=Ticket)(read)


def declared_by_call(read: Read) -> Any:
    @cached
    async def votes() -> int:
        await depends_on(Ticket)
        return await read()

    return votes


def of_the_model(read: Read) -> Any:
    class Votes(ResultCache[int]):
        model = Ticket
        key_fields = ("id",)
        invalidation = InvalidationType.UNSET

        async def get_result(self, id: int) -> int:
            return await read()

    return lambda: Votes(1)


@pytest.fixture(params=[by_row, by_list], ids=lambda read: read.__name__)
def read(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(
    params=[undeclared, declared_by_setting, declared_by_call, of_the_model], ids=lambda declare: declare.__name__
)
def result(request: pytest.FixtureRequest, read: Read) -> Any:
    """The result, declared before the cache opens."""
    return request.param(read)


async def test_a_result_of_a_stale_copy_is_not_stored(result: Any, read: Read, cache: ModelCache) -> None:
    await Ticket.create(id=1, number=1)
    assert [await read(), await result()] == [0, 0]
    await Ticket.filter(id=1).update(votes=5)
    assert await result() in (0, 5)  # within `allowtime`, both are right
    async with asyncio.timeout(PATIENCE):
        while await read() != 5:
            await asyncio.sleep(0.001)
    assert await result() == 5
