"""Results of cached functions, which follow the writes of everything that they were derived from."""

import asyncio
from typing import Any

from aiomodelcache import cached
from tests.protocol.interleavings.models import Artist
from tests.protocol.interleavings.questions import World
from tests.protocol.interleavings.roles import (
    NONE,
    TWO,
    A,
    Scenario,
    both,
    create,
    delete,
    far,
    first,
    near,
    save,
    transaction,
    update_where,
)
from tests.protocol.interleavings.values import Number, fans


@cached
async def by_lookup(pk: int) -> int:
    row = await Artist.cache.get_or_none(id=pk)
    return 0 if row is None else row.followers


@cached
async def by_list(rank: int) -> int:
    return sum([row.followers for row in await Artist.cache.filter(rank=rank)])


@cached
async def by_statement(rank: int) -> int:
    found: Any = await Artist.filter(rank=rank).values_list("followers", flat=True)
    return sum(found)


@cached
async def by_result(pk: int) -> int:
    """Reads another result, in a task of its own."""
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(by_lookup(pk))
    return task.result()


LOOKUP = Number("derived by lookup", 1, by_lookup.query, fans, column=0)
LIST = Number("derived by list", 1, by_list.query, fans)
OTHER_LIST = Number("derived by list", 2, by_list.query, fans)
STATEMENT = Number("derived by statement", 1, by_statement.query, fans)
RESULT = Number("derived by result", 1, by_result.query, fans, column=0)
DERIVED = World((Artist,), [LOOKUP, LIST, OTHER_LIST, STATEMENT, RESULT])

SCENARIOS: dict[str, Scenario] = {
    "derived by lookup, saved": Scenario(
        A, {"reader": near(LOOKUP, LOOKUP), "writer": save(followers=1)}, both, world=DERIVED
    ),
    "derived by lookup, created": Scenario(NONE, {"reader": near(LOOKUP), "writer": create()}, both, world=DERIVED),
    "derived by list, moved": Scenario(
        A, {"reader": near(LIST, OTHER_LIST), "writer": save(rank=2)}, both, world=DERIVED
    ),
    "derived by list, cold": Scenario(A, {"reader": near(LIST), "writer": save(followers=1)}, world=DERIVED),
    "derived by statement, saved": Scenario(
        A, {"reader": far(STATEMENT, STATEMENT), "writer": save(followers=1)}, both, world=DERIVED
    ),
    "derived by statement, in a transaction": Scenario(
        A, {"reader": far(STATEMENT), "writer": transaction(followers=1)}, both, world=DERIVED
    ),
    "derived by statement, rolled back": Scenario(
        A, {"reader": far(STATEMENT), "writer": transaction(followers=1, rolls_back=True)}, both, world=DERIVED
    ),
    "derived by statement, by a queryset": Scenario(
        TWO, {"reader": far(STATEMENT), "writer": update_where(rank=2)}, both, world=DERIVED
    ),
    "derived by result, saved": Scenario(
        A, {"reader": near(RESULT, RESULT), "writer": save(followers=1)}, both, world=DERIVED
    ),
    "derived by result, cold": Scenario(
        A, {"reader": near(RESULT, RESULT), "writer": save(followers=1)}, world=DERIVED
    ),
    "derived by result, deleted": Scenario(
        A, {"reader": near(RESULT), "writer": first(delete, create())}, both, world=DERIVED
    ),
}
