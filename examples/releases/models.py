"""Models of the service, and the keys by which their rows are looked up.

Primary keys come from ``shared.Shared.ids``, so they are known before the row is written.
"""

from typing import Any

from tortoise import fields
from tortoise.manager import Manager
from tortoise.queryset import QuerySet

from aiomodelcache import CachedModel


class Organisation(CachedModel):
    id = fields.BigIntField(primary_key=True, generated=False)
    slug = fields.CharField(max_length=80, unique=True)
    name = fields.CharField(max_length=64)
    owner = fields.BigIntField()

    class CacheMeta:
        get_key_fields_list = [("slug",)]


class Project(CachedModel):
    id = fields.BigIntField(primary_key=True, generated=False)
    organisation: fields.ForeignKeyRelation[Organisation] = fields.ForeignKeyField("releases.Organisation")
    slug = fields.CharField(max_length=80)
    name = fields.CharField(max_length=64)

    organisation_id: int

    class Meta:
        unique_together = [("organisation", "slug")]

    class CacheMeta:
        get_key_fields_list = [("organisation", "slug")]


class Access(CachedModel):
    """The permission of one actor to work on one project."""

    id = fields.BigIntField(primary_key=True)
    actor = fields.BigIntField()
    project: fields.ForeignKeyRelation[Project] = fields.ForeignKeyField("releases.Project")

    project_id: int

    class Meta:
        unique_together = [("actor", "project")]
        ordering = ["id"]

    class CacheMeta:
        filter_key_fields_list = [("actor",)]


class VisibleManager(Manager):
    """Hides deleted rows. The cache reads through the model's manager, so it hides the same rows."""

    def get_queryset(self) -> QuerySet[Any]:
        return super().get_queryset().filter(deleted_at=None)


class Release(CachedModel):
    id = fields.BigIntField(primary_key=True, generated=False)
    organisation: fields.ForeignKeyRelation[Organisation] = fields.ForeignKeyField("releases.Organisation")
    version = fields.CharField(max_length=64)
    created_at = fields.DatetimeField(auto_now_add=True)
    deleted_at = fields.DatetimeField(null=True)

    everything = Manager()

    class Meta:
        manager = VisibleManager()
        unique_together = [("organisation", "version")]
        ordering = ["-id"]

    class CacheMeta:
        get_key_fields_list = [("organisation", "version")]
        filter_key_fields_list = [("organisation",)]


class Commit(CachedModel):
    id = fields.BigIntField(primary_key=True, generated=False)
    organisation: fields.ForeignKeyRelation[Organisation] = fields.ForeignKeyField("releases.Organisation")
    sha = fields.CharField(max_length=40)
    author = fields.CharField(max_length=64)
    message = fields.TextField()

    class Meta:
        unique_together = [("organisation", "sha")]


class ReleaseProject(CachedModel):
    id = fields.BigIntField(primary_key=True)
    release: fields.ForeignKeyRelation[Release] = fields.ForeignKeyField("releases.Release")
    project: fields.ForeignKeyRelation[Project] = fields.ForeignKeyField("releases.Project")

    project_id: int

    class Meta:
        unique_together = [("release", "project")]
        ordering = ["id"]

    class CacheMeta:
        filter_key_fields_list = [("release",)]


class ReleaseCommit(CachedModel):
    id = fields.BigIntField(primary_key=True)
    release: fields.ForeignKeyRelation[Release] = fields.ForeignKeyField("releases.Release")
    commit: fields.ForeignKeyRelation[Commit] = fields.ForeignKeyField("releases.Commit")
    position = fields.IntField()

    class Meta:
        unique_together = [("release", "position")]
        ordering = ["position"]

    class CacheMeta:
        filter_key_fields_list = [("release",)]
