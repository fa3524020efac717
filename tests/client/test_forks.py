"""A process that forks with an open cache: the child has none until it opens one, and the parent's goes on."""

import asyncio

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient

from tests.support.databases import DatabaseUrl
from tests.support.forking import CHILDREN, fork

pytestmark = [
    pytest.mark.only_on("sqlite", because="a fork is about the connections to the store"),
    pytest.mark.slow(because="starts processes"),
]

FORKED = (
    "This cache was opened before fork(), and its connections belong to the parent process: open a ModelCache in each "
    "process."
)


@pytest.mark.parametrize("child", CHILDREN)
async def test_a_child_opens_a_cache_of_its_own(
    database: BaseDBAsyncClient, db_url: DatabaseUrl, backend_url: str, child: str
) -> None:
    report = await asyncio.to_thread(fork, db_url, backend_url, child)
    seen = report.pop("child")
    assert [seen[name] for name in ("inherited", "by its manager", "clear", "closed")] == [FORKED] * 4
    assert seen["names"] == [["ada", "ada", "ada+"], ["ada+", "ada+", "ada++"]]
    shared = backend_url != "memory://"
    assert seen["hits"] == (2 if shared else 1)
    assert report["parent"] == ["ada", "ada", *["ada++" if shared else "ada"] * 2, "parent"]
    assert report["statements"] == 1
    assert report["errors"] == 0


@pytest.mark.only_on("redis", because="a store in memory has no connections")
async def test_a_child_may_open_the_backend_that_the_parent_has_opened(
    database: BaseDBAsyncClient, db_url: DatabaseUrl, backend_url: str
) -> None:
    report = await asyncio.to_thread(lambda: fork(db_url, backend_url, "os.fork", backend=True))
    assert report["child"]["names"] == [["ada", "ada", "ada+"], ["ada+", "ada+", "ada++"]]
    assert report["parent"] == ["ada", "ada", "ada++", "ada++", "parent"]
    assert report["errors"] == 0


@pytest.mark.parametrize("settings", [{}, {"near": True}], ids=["", "near"])
@pytest.mark.only_on("redis", because="a store in memory has no connections")
async def test_a_child_that_closes_the_inherited_cache_leaves_the_parents_connections_alone(
    database: BaseDBAsyncClient, db_url: DatabaseUrl, backend_url: str, settings: dict[str, bool]
) -> None:
    report = await asyncio.to_thread(lambda: fork(db_url, backend_url, "os.fork", closing=True, **settings))
    assert report["child"] is not None
    assert report["parent"] == ["ada", "ada", "ada", "ada", "parent"]
    assert report["statements"] == 1
    assert report["errors"] == 0
