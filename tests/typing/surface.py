"""The other public names: errors, counters, settings of managers, many-to-many lists and middleware."""

from typing import Any, assert_type

from tortoise import fields
from tortoise.exceptions import DoesNotExist

from aiomodelcache import (
    CACHE_TIME_30M,
    CACHE_TIME_DAY,
    BackendError,
    CacheConfigurationError,
    CachedModel,
    CacheError,
    CacheNotOpen,
    CacheNotOpenWarning,
    CacheNotRegistered,
    CacheWriteError,
    DatabaseOverloaded,
    InvalidationType,
    ModelCache,
    ModelCacheManager,
    NotFoundError,
    ReadOnlyInstanceError,
    StaleInstanceError,
    TenantError,
    ValueCache,
    deferred_invalidation,
    no_invalidation,
    writes_without_cache,
)
from aiomodelcache.contrib.asgi import LocalCacheMiddleware


class Tag(CachedModel):
    id = fields.IntField(primary_key=True)


class Post(CachedModel):
    id = fields.IntField(primary_key=True)
    tags: fields.ManyToManyRelation[Tag] = fields.ManyToManyField("app.Tag", related_name="posts")


class PostCaches(ModelCacheManager[Post]):
    model = Post
    cached_manytomany = ["tags"]
    timeout = CACHE_TIME_DAY
    negative_timeout = CACHE_TIME_30M
    version = 2
    invalidation = InvalidationType.DYNAMIC
    allowtime = 5
    near = False
    write_through = True
    keep_unchanged = True
    relay = True
    paged = True


class Setting(ValueCache[str]):
    timeout = CACHE_TIME_DAY
    negative_timeout = 5.5
    allowtime = 1
    version = "b"
    near = True

    async def get_value(self, name: str) -> str:
        return name


async def lists(post: Post) -> None:
    assert_type(await post.tags, list[Tag])
    await post.tags.add(Tag())
    await Post.cache.prefetch([post], "tags")
    assert_type(await Post.cache.using("archive").get(id=1), Post)
    async with deferred_invalidation():
        await post.save()
    with writes_without_cache(), no_invalidation():
        await post.save()
    assert_type(await Setting("x"), str)


async def errors(cache: ModelCache) -> None:
    problems: list[CacheError] = [
        BackendError(),
        CacheConfigurationError(),
        CacheNotOpen(),
        CacheNotRegistered(),
        CacheWriteError(),
        DatabaseOverloaded(),
        ReadOnlyInstanceError(),
        StaleInstanceError(),
        TenantError(),
    ]
    print(problems)
    lookup: ValueError = CacheNotRegistered()
    runtime: RuntimeError = CacheNotOpen()
    warning: UserWarning = CacheNotOpenWarning()
    print(lookup, runtime, warning)
    try:
        await Post.cache.get_or_404(id=1)
    except NotFoundError as error:
        missing: DoesNotExist = error
        print(missing)
        assert_type(error.status_code, int)
    with cache.disabled(Post, Setting), cache.without_fill():
        assert_type(await Post.cache.get(id=1).options(fill=False, timeout="10s"), Post)
    cache.disabled("Post")  # wrong
    assert_type(cache.stats.round_trips, int)
    cache.publish_stats()
    assert_type(cache.worker.stats.round_trips, int)
    assert_type([worker.stats.statements for worker in (await cache.fleet()).workers], list[int])
    assert_type(cache.stats.of("Post").hits, int)


def middleware(app: Any) -> None:
    LocalCacheMiddleware(app)
    wrong: str = LocalCacheMiddleware(app)  # wrong
    timeout: str = CACHE_TIME_DAY  # wrong
    print(wrong, timeout)
