"""Models with many-to-many relations: cached from both sides, from one, to itself, and with a through model."""

from typing import Any

from tortoise import fields
from tortoise.manager import Manager
from tortoise.models import Model
from tortoise.queryset import QuerySet

from aiomodelcache import CachedModel, RelatedQuerysetCache


class Visible(Manager):
    def get_queryset(self) -> QuerySet[Any]:
        return super().get_queryset().filter(hidden=False)


class Tag(CachedModel):
    id = fields.IntField(primary_key=True, generated=False)
    place = fields.IntField(default=0)
    hidden = fields.BooleanField(default=False)

    class Meta:
        ordering = ["place", "id"]
        manager = Visible()

    class CacheMeta:
        cached_manytomany = ["posts"]


class Post(CachedModel):
    id = fields.IntField(primary_key=True)
    title = fields.CharField(max_length=32, default="")
    blog: fields.ForeignKeyNullableRelation["Blog"] = fields.ForeignKeyField("app.Blog", null=True)
    tags: fields.ManyToManyRelation[Tag] = fields.ManyToManyField("app.Tag", related_name="posts")
    see: fields.ManyToManyRelation["Post"] = fields.ManyToManyField(
        "app.Post", related_name="seen_from", through="see_also", forward_key="to_id", backward_key="from_id"
    )
    authors: fields.ManyToManyRelation["Author"] = fields.ManyToManyField(
        "app.Author", related_name="posts", through="authorship", forward_key="author_id", backward_key="post_id"
    )

    editors: fields.ManyToManyRelation["Author"] = fields.ManyToManyField(
        "app.Author", related_name="edited", through="editing", forward_key="author_id", backward_key="post_id"
    )

    class Meta:
        ordering = ["id"]

    class CacheMeta:
        cached_manytomany = ["tags", "see", "authors"]


class Blog(Model):
    """A model without a cache whose rows are deleted along with their posts."""

    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=8, default="")


class Author(CachedModel):
    """A model whose many-to-many list of posts is not cached."""

    id = fields.UUIDField(primary_key=True)


class Authorship(Model):
    """The through model of posts and authors, without a cache."""

    id = fields.IntField(primary_key=True)
    post: fields.ForeignKeyRelation[Post] = fields.ForeignKeyField("app.Post", related_name="authorships")
    author: fields.ForeignKeyRelation[Author] = fields.ForeignKeyField("app.Author", related_name="authorships")

    class Meta:
        table = "authorship"


class Editing(CachedModel):
    """The through model of posts and editors. Its rows are cached, the lists over it are not."""

    id = fields.IntField(primary_key=True)
    post: fields.ForeignKeyRelation[Post] = fields.ForeignKeyField("app.Post", related_name="editings")
    author: fields.ForeignKeyRelation[Author] = fields.ForeignKeyField("app.Author", related_name="editings")

    class Meta:
        table = "editing"

    class CacheMeta:
        filter_key_fields_list = [("post",)]


class TagsOf(RelatedQuerysetCache[Tag]):
    model = Post
    key_fields = ("id",)
    relation = "tags"


class TaggedLikewise(RelatedQuerysetCache[Post]):
    """The posts that share a tag with a post."""

    model = Post
    key_fields = ("id",)
    relation = "tags__posts"


class EditedBy(RelatedQuerysetCache[Post]):
    """A path over a many-to-many relation whose lists are not cached."""

    model = Author
    key_fields = ("id",)
    relation = "edited"
