"""Models whose writes by other programs are seen within a bound, beside one whose are not."""

from typing import Any

from tortoise import fields

from aiomodelcache import (
    CachedModel,
    InvalidationType,
    QuerysetCache,
    QuerysetCountCache,
    RelatedInstanceCache,
    ResultCache,
    cached,
)


class Tag(CachedModel):
    """A model without ``relay``."""

    id = fields.IntField(primary_key=True, generated=False)
    name = fields.CharField(max_length=32, default="old")

    class CacheMeta:
        get_key_fields_list = [("name",)]


class Author(CachedModel):
    id = fields.IntField(primary_key=True, generated=False)
    name = fields.CharField(max_length=32, default="old")
    slug = fields.CharField(max_length=32, unique=True)
    team = fields.IntField(default=1)
    tags: fields.ManyToManyRelation[Tag] = fields.ManyToManyField("app.Tag", related_name="authors")

    class CacheMeta:
        relay = True
        get_key_fields_list = [("slug",)]
        filter_key_fields_list = [("team",), ()]
        cached_manytomany = ["tags"]
        queries_by = ["team"]
        queries_ignore = ["slug"]
        paged = True


class Book(CachedModel):
    """A model without ``relay``, whose rows lead to others with it."""

    id = fields.IntField(primary_key=True, generated=False)
    title = fields.CharField(max_length=32, default="book")
    author: fields.ForeignKeyRelation[Author] = fields.ForeignKeyField("app.Author", related_name="books")

    class CacheMeta:
        cached_foreignkeys = ["author"]


class Stock(CachedModel):
    """Rows of which stale copies answer."""

    id = fields.IntField(primary_key=True, generated=False)
    name = fields.CharField(max_length=32, default="old")

    class CacheMeta:
        relay = True
        invalidation = InvalidationType.DYNAMIC
        allowtime = 600


class AuthorsOfTeam(QuerysetCache[Author]):
    model = Author
    key_fields = ("team",)
    order_by = ("-id",)


class NumberOfAuthors(QuerysetCountCache):
    model = Author
    key_fields = ("team",)


class NamesOfTeam(ResultCache[list[str]]):
    model = Author
    key_fields = ("team",)

    async def get_result(self, team: int) -> list[str]:
        return [author.name for author in await Author.filter(team=team).order_by("id")]


class AuthorOfBook(RelatedInstanceCache[Author]):
    model = Book
    key_fields = ("id",)
    relation = "author"


@cached
async def name_by_sql(pk: int) -> str:
    """Depends on the version of the table."""
    return (await Author.get(id=pk)).name


@cached
async def name_by_cache(pk: int) -> str:
    """Depends on the entry of a row."""
    return (await Author.cache.get(id=pk)).name


@cached
async def nested_name(pk: int) -> str:
    """Depends on another value, and on a row without ``relay``."""
    tag = await Tag.cache.get(id=1)
    return f"{await name_by_cache(pk)} {tag.name}"


is_down = False
"""True if ``name_if_up`` fails."""


@cached(timeout=900, stale_if_error=300)
async def name_if_up(pk: int) -> str:
    """Has a last good value."""
    name = (await Author.get(id=pk)).name
    if is_down:
        raise ConnectionError("what it needs is away")
    return name


@cached
async def author_and_tag(pk: int) -> list[Any]:
    """Holds instances."""
    return [await Author.cache.get(id=pk), await Tag.cache.get(id=1)]


@cached
async def tag_by_sql(pk: int) -> str:
    """Depends on nothing with ``relay``."""
    return (await Tag.get(id=pk)).name
