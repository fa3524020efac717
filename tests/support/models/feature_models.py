"""Models and cache classes for every kind of lookup, for tests of all kinds together."""

from typing import Any

from tortoise import fields

from aiomodelcache import (
    CachedModel,
    InstanceCache,
    QuerysetCache,
    QuerysetCountCache,
    QuerysetExistsCache,
    ResultCache,
    ValueCache,
    cached,
)


class Writer(CachedModel):
    id = fields.IntField(primary_key=True)
    number = fields.IntField(unique=True)
    team = fields.IntField(default=0)

    class CacheMeta:
        get_key_fields_list = [("number",)]
        filter_key_fields_list = [("team",)]


class Post(CachedModel):
    id = fields.IntField(primary_key=True)
    number = fields.IntField(unique=True)
    title = fields.CharField(max_length=64, default="")
    writer: fields.ForeignKeyRelation[Writer] = fields.ForeignKeyField("app.Writer", related_name="posts")

    class CacheMeta:
        get_key_fields_list = [("number",)]
        filter_key_fields_list = [("writer",)]
        cached_foreignkeys = ["writer"]


class PostByNumber(InstanceCache[Post]):
    model = Post
    key_fields = ("number",)


class NewestPosts(QuerysetCache[Post]):
    model = Post
    key_fields = ("writer",)
    order_by = ["-number"]
    limit = 2


class PostCount(QuerysetCountCache):
    model = Post
    key_fields = ("writer",)


class HasPosts(QuerysetExistsCache):
    model = Post
    key_fields = ("writer",)


class Titles(ResultCache[list[str]]):
    model = Post
    key_fields = ("writer",)

    async def get_result(self, writer: int) -> list[str]:
        return [post.title for post in await Post.filter(writer_id=writer).order_by("number")]


class Greeting(ValueCache[str]):
    async def get_value(self, name: str) -> str:
        return f"Hello, {name}"


@cached(timeout=60)
async def squared(number: int) -> Any:
    return number * number
