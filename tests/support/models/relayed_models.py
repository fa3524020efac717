"""Models whose tables other programs write to, with every kind of entry that such a write may change."""

from typing import Any

from tortoise import fields
from tortoise.manager import Manager
from tortoise.queryset import QuerySet

from aiomodelcache import CachedModel, QuerysetCache, QuerysetCountCache, cached


class Author(CachedModel):
    """A row at the end of a foreign key."""

    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=40, unique=True)

    class CacheMeta:
        get_key_fields_list = [("name",)]
        relay = True


class Visible(Manager):
    """Hides rows whose ``hidden`` is set."""

    def get_queryset(self) -> QuerySet[Any]:
        return super().get_queryset().filter(hidden=False)


class Label(CachedModel):
    """A row at the other end of a many-to-many relation, which may be hidden."""

    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=40)
    hidden = fields.BooleanField(default=False)

    class Meta:
        manager = Visible()

    class CacheMeta:
        relay = True


class Article(CachedModel):
    """A row that is found by every kind of key."""

    id = fields.IntField(primary_key=True)
    slug = fields.CharField(max_length=40, unique=True)
    title = fields.CharField(max_length=40, default="")
    views = fields.IntField(default=0)
    author: Any = fields.ForeignKeyField("app.Author", related_name="articles", on_delete=fields.CASCADE)
    labels: Any = fields.ManyToManyField("app.Label", related_name="articles", through="article_label")

    class CacheMeta:
        get_key_fields_list = [("slug",)]
        filter_key_fields_list = [("author",), ("author", "title"), ()]
        cached_foreignkeys = ["author"]
        cached_manytomany = ["labels"]
        queries_by = "author"
        paged = True
        relay = True


class Note(CachedModel):
    """A row whose table no other program writes to."""

    id = fields.IntField(primary_key=True)
    text = fields.CharField(max_length=40)


class Newest(QuerysetCache[Article]):
    model = Article
    key_fields = ("author",)
    order_by = ["-id"]
    limit = 2


class ArticleCount(QuerysetCountCache):
    model = Article
    key_fields = ("author",)


@cached
async def article_titles(author: int) -> list[str]:
    """The titles of an author's articles: a derived entry that depends on a lookup and on a statement."""
    found = await Author.cache.get_or_none(id=author)
    return [found.name if found else "", *[row.title for row in await Article.filter(author_id=author).order_by("id")]]
