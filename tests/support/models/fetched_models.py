"""Models whose managers, querysets or constructors change how instances are read."""

from typing import Any, Self

from tortoise import fields
from tortoise.expressions import F
from tortoise.manager import Manager
from tortoise.query_utils import Prefetch
from tortoise.queryset import QuerySet

from aiomodelcache import CachedModel


class Author(CachedModel):
    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=20, unique=True, source_field="full_name")
    born: Any = fields.IntField(null=True)

    class CacheMeta:
        get_key_fields_list = [("name",)]


class Annotating(Manager):
    def get_queryset(self) -> QuerySet[Any]:
        return super().get_queryset().annotate(twice=F("number") * 2)


class Choosing(Manager):
    def get_queryset(self) -> QuerySet[Any]:
        return super().get_queryset().only("id", "number")


class Joining(Manager):
    def get_queryset(self) -> QuerySet[Any]:
        return super().get_queryset().select_related("author")


class Prefetching(Manager):
    def get_queryset(self) -> QuerySet[Any]:
        return super().get_queryset().prefetch_related("author")


class Querying(Manager):
    def get_queryset(self) -> QuerySet[Any]:
        return super().get_queryset().prefetch_related(Prefetch("author", queryset=Author.all()))


class Own(QuerySet[Any]):
    async def _execute(self) -> Any:
        found: Any = await super()._execute()
        for each in found:
            each.number += 100
        return found


class Executing(Manager):
    def get_queryset(self) -> QuerySet[Any]:
        return Own(self._model)


class Book(CachedModel):
    id = fields.IntField(primary_key=True)
    number = fields.IntField()
    text = fields.CharField(max_length=20, default="text")
    author: fields.ForeignKeyNullableRelation[Author] = fields.ForeignKeyField(
        "app.Author", related_name=False, null=True
    )

    class Meta:
        abstract = True


class Annotated(Book):
    class Meta:
        manager = Annotating()


class Chosen(Book):
    class Meta:
        manager = Choosing()


class Joined(Book):
    class Meta:
        manager = Joining()


class Prefetched(Book):
    class Meta:
        manager = Prefetching()


class Queried(Book):
    class Meta:
        manager = Querying()


class Executed(Book):
    class Meta:
        manager = Executing()


class Made(Book):
    @classmethod
    def _init_from_db(cls, **kwargs: Any) -> Self:
        made = super()._init_from_db(**kwargs)
        made.text = "made"
        return made


class Begun(Book):
    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        begun = super().__new__(cls)
        object.__setattr__(begun, "extra", "begun")
        return begun


class Watching(Book):
    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        object.__setattr__(self, "watched", True)
