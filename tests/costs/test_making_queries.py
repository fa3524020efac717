"""Querysets are named, and the SQL of saves is made, at little cost beside Tortoise's own."""

from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache import ModelCache
from tests.support.instructions import instructions
from tests.support.models.models import User


@pytest.mark.only_on("sqlite", because="Python's instructions are those of every database")
async def test_a_plain_queryset_is_named_at_less_cost_than_it_is_made(cache: ModelCache) -> None:
    async def make() -> Any:
        return User.filter(team=1).order_by("id")

    async def name() -> Any:
        return User.cache.query(User.filter(team=1).order_by("id"))

    (alone, _), (both, _) = await instructions(make), await instructions(name)
    print(f"{alone / 20:.0f} instructions of Tortoise, {(both - alone) / 20:.0f} more")
    assert both < 2.1 * alone


async def test_a_save_makes_no_text_of_sql_that_an_earlier_one_has_made(
    cache: ModelCache, database: BaseDBAsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = await User.create(username="kim", team=1, email="kim@example.org")
    user.team = 2
    await user.save()
    made: list[int] = []
    executor: Any = database.executor_class
    parameter = executor.parameter

    def noted(self: Any, pos: int) -> Any:
        made.append(pos)
        return parameter(self, pos)

    monkeypatch.setattr(executor, "parameter", noted)
    for team in (3, 4):
        user.team = team
        await user.save()
    assert not made
