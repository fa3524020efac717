"""Lookups of all kinds together: in one round trip, without the cache, in a transaction, through another cache."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.expressions import F
from tortoise.transactions import in_transaction

from aiomodelcache import BatchCacheQuery, CacheNotOpen, CacheQuery, ModelCache, NotFoundError
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.support.models.feature_models import (
    Greeting,
    HasPosts,
    NewestPosts,
    Post,
    PostByNumber,
    PostCount,
    Titles,
    Writer,
    squared,
)
from tests.support.stored import states

pytestmark = [
    pytest.mark.models("tests.support.models.feature_models"),
    pytest.mark.every_pair(because="each feature has one test that sees all of it"),
]


@pytest.fixture
async def post(database: BaseDBAsyncClient) -> Post:
    """One of three posts of one writer, as loaded from the database."""
    writer = await Writer.create(number=1, team=1)
    for number in (1, 2, 3):
        await Post.create(number=number, title=f"post{number}", writer=writer)
    return await Post.get(number=2)


def lookups_of_all_kinds(post: Post) -> dict[str, CacheQuery[Any]]:
    """Returns a query of every kind."""
    writer = post.writer_id  # type: ignore[attr-defined]
    awaited: Any = post.writer
    return {
        "get by pk": Post.cache.get(id=post.id),
        "get": Post.cache.get(number=2),
        "get_or_none": Post.cache.get_or_none(number=404),
        "get_or_404": Post.cache.get_or_404(number=3),
        "get_from_cache": Post.cache.get_from_cache(number=1),
        "filter": Post.cache.filter(writer=writer),
        "exists": Post.cache.exists(writer=writer),
        "count": Post.cache.count(writer=writer),
        "get_many": Post.cache.get_many([3, 1, 404], key="number"),
        "get_many_from_cache": Post.cache.get_many_from_cache([post.id]),
        "in_bulk": Writer.cache.in_bulk([writer]),
        "foreign key": awaited,
        "InstanceCache": PostByNumber(2),
        "QuerysetCache": NewestPosts(writer),
        "QuerysetCountCache": PostCount(writer),
        "QuerysetExistsCache": HasPosts(writer),
        "ResultCache": Titles(writer),
        "ValueCache": Greeting("Kim"),
        "cached": squared.query(7),
    }


def expected(post: Post, one: Post, three: Post, writer: Writer) -> dict[str, Any]:
    return {
        "get by pk": post,
        "get": post,
        "get_or_none": None,
        "get_or_404": three,
        "get_from_cache": one,
        "filter": [one, post, three],
        "exists": True,
        "count": 3,
        "get_many": [three, one],
        "get_many_from_cache": [post],
        "in_bulk": {writer.id: writer},
        "foreign key": writer,
        "InstanceCache": post,
        "QuerysetCache": [three, post],
        "QuerysetCountCache": 3,
        "QuerysetExistsCache": True,
        "ResultCache": ["post1", "post2", "post3"],
        "ValueCache": "Hello, Kim",
        "cached": 49,
    }


async def answers(post: Post) -> dict[str, Any]:
    one, three = await Post.get(number=1), await Post.get(number=3)
    return expected(post, one, three, await Writer.get(number=1))


async def test_lookups_of_all_kinds_share_one_round_trip(post: Post, backend: CountingBackend) -> None:
    right = await answers(post)
    async with ModelCache(backend):
        for _ in range(2):  # predictions are learned from the first hit
            batch = await BatchCacheQuery(lookups_of_all_kinds(post))
            batch["filter"].sort(key=lambda row: row.number)  # no order is declared
            assert batch == right
        async with assert_ops(backend, sql=0, redis=["read"]):
            await BatchCacheQuery(lookups_of_all_kinds(post))
        async with assert_ops(backend, sql=0, redis=["read"]):
            await asyncio.gather(*lookups_of_all_kinds(post).values())
        async with assert_ops(backend, sql=0, redis=["read"]), asyncio.TaskGroup() as tasks:
            for query in lookups_of_all_kinds(post).values():
                tasks.create_task(query.resolve())


@pytest.mark.parametrize("by", ["setting", "block"])
async def test_lookups_of_all_kinds_work_with_the_cache_disabled(by: str, post: Post, backend: CountingBackend) -> None:
    right = await answers(post)
    async with ModelCache(backend, enabled=by == "block") as cache:
        with cache.disabled():
            async with assert_ops(backend, redis=0):
                batch = await BatchCacheQuery(lookups_of_all_kinds(post))
                await Post.cache.prefetch([post], "writer")
                with pytest.raises(NotFoundError):
                    await Post.cache.get_or_404(number=404)
                assert (await Post.cache.explain(number=2)).reason == "disabled"
            assert post.writer.number == 1
            batch["filter"].sort(key=lambda row: row.number)
            assert batch == right
            async with assert_ops(backend, redis=1):  # invalidates entries that other processes may have stored
                assert await Post.cache.refresh(Post.cache.get(number=2)) == post
            async with assert_ops(backend, redis=2):
                await Post.cache.update(post, title="new")
            assert await Titles(post.writer.id) == ["post1", "new", "post3"]


async def test_lookups_in_a_transaction_see_its_writes_and_store_nothing(post: Post, backend: CountingBackend) -> None:
    async with ModelCache(backend) as cache:
        async with in_transaction() as connection:
            await Post.cache.update(post, title="inside", number=F("number") + 10)
            async with assert_ops(backend, redis=0):
                assert (await Post.cache.get(number=12)).title == "inside"
                assert (await Post.cache.get_or_404(number=12)).title == "inside"
                assert (await PostByNumber(12)).title == "inside"
                assert await Titles(post.writer_id) == ["post1", "post3", "inside"]  # type: ignore[attr-defined]
                assert (await Post.cache.refresh(Post.cache.get(number=12))).title == "inside"
                [again] = await Post.filter(number=12).using_db(connection)
                await Post.cache.prefetch([again], "writer")
                assert again.writer.number == 1
                assert await PostCount(again.writer.id) == 3
            await connection.rollback()
        assert await states(cache, Post.cache.get(number=12), Post.cache.get(id=post.id)) == ".."
        assert await Titles(post.writer_id) == ["post1", "post2", "post3"]  # type: ignore[attr-defined]


async def test_a_cache_that_is_not_the_default_is_used_through_its_managers(
    post: Post, backend: CountingBackend
) -> None:
    second_store = CountingBackend(backend.backend)
    async with ModelCache(backend), ModelCache(second_store, namespace="second") as second:
        posts = second.manager(Post)
        async with assert_ops(backend, redis=0):
            assert await posts.get_or_404(number=2) == post
            assert await posts.get_many_from_cache([post.id]) == [post]
            assert (await posts.explain(number=2)).source == "cache"
            assert posts.key(number=2) == f"second:{Post.cache.key(number=2)}"
            assert await posts.refresh(posts.get(number=2)) == post
            await posts.prefetch([post], "writer")
            posts.set_related(post, "writer", post.writer)
            assert await posts.invalidate(post) == 1
        assert (await posts.explain(id=post.id)).reason == "missing"
        assert (await Post.cache.explain(id=post.id)).reason == "missing"
        async with assert_ops(backend, redis=["mark", "clear"]):  # a write invalidates both caches
            await posts.update(post, title="new")


async def test_clearing_invalidates_only_the_cleared_models_in_two_round_trips(
    post: Post, backend: CountingBackend
) -> None:
    async with ModelCache(backend) as cache:
        reads: dict[str, Callable[[], Awaitable[Any]]] = {
            "post": lambda: Post.cache.get(number=2),
            "count": lambda: PostCount(1),
            "writer": lambda: Writer.cache.get(number=1),
        }
        for models, invalidated in (([Post], {"post", "count"}), ([Writer], {"writer"}), ([Post, Writer], set(reads))):
            for read in reads.values():
                await read()
            async with assert_ops(backend, sql=0, redis=["mark", "clear"]):
                await (models[0].cache.clear() if len(models) == 1 else cache.clear(*models))
            for name, read in reads.items():
                async with assert_ops(backend) as ops:
                    await read()
                assert bool(ops.statements) is (name in invalidated)
        async with assert_ops(backend, sql=0, redis=["mark", "clear"]):
            await cache.clear_all()
        async with assert_ops(backend, sql=2):
            await reads["post"]()
            await reads["writer"]()
        with pytest.raises(TypeError, match=r"^ModelCache\.clear takes .*name them, or use clear_all\(\)"):
            await cache.clear()


async def test_invalidate_takes_only_rows_of_its_model(post: Post, backend: CountingBackend) -> None:
    async with ModelCache(backend):
        writer = await Writer.get(number=1)
        async with assert_ops(backend, sql=0, redis=0):
            for wrong in (writer, [post, writer], Writer.all()):
                with pytest.raises(TypeError, match=r"Post\.cache\.invalidate takes rows of Post; got"):
                    await Post.cache.invalidate(wrong)


@pytest.mark.only_on("no store", because="no cache is open")
async def test_without_an_open_cache_lookups_are_errors_and_update_works(post: Post) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: Post.cache.get_or_404(number=1),
        lambda: Post.cache.explain(number=1),
        lambda: Post.cache.refresh(number=1),
        lambda: Post.cache.prefetch([post], "writer"),
    ]
    for call in calls:
        with pytest.raises(CacheNotOpen, match="No cache is open"):
            await call()
    for sync in (lambda: Post.cache.key(number=1), lambda: Post.cache.set_related(post, "writer", None)):
        with pytest.raises(CacheNotOpen, match="No cache is open"):
            sync()
    await Post.cache.update(post, title="new")
    assert (await Post.get(id=post.id)).title == "new"
