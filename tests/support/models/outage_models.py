"""Models of tests that stop their database."""

from typing import Any

from tortoise import fields

from aiomodelcache import CachedModel


class Guest(CachedModel):
    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=20)


class Visit(CachedModel):
    id = fields.IntField(primary_key=True)
    place = fields.CharField(max_length=20)
    guest: Any = fields.ForeignKeyField("app.Guest", related_name="visits")
