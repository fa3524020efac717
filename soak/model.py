"""``Item``: the table under test. ``Folder``: deletes cascade to items.

Subjects set ``CacheMeta`` before the cache is opened: ``allowtime``, and ``relay`` if other programs write.
"""

from tortoise import fields

from aiomodelcache import CachedModel, InvalidationType
from soak.history import Change

DRAW_VERSION = "SELECT 1000000000 + nextval('versions') AS version"
"""Draws the version of a row before it is written, so that the writer knows the whole row. Only on PostgreSQL."""


class Folder(CachedModel):
    """A row whose delete cascades to items."""

    id = fields.IntField(primary_key=True, generated=False)

    class Meta:
        table = "folder"


class Item(CachedModel):
    """A row that names the write that made it."""

    id = fields.IntField(primary_key=True, generated=False)
    slug = fields.CharField(max_length=16, unique=True)
    team = fields.IntField(db_index=True)
    version = fields.IntField(default=0)
    """Number of the state, counted over all rows. The database sets it, unless the writer has drawn one."""
    nonce = fields.BigIntField()
    """Number of the write."""
    folder: fields.ForeignKeyNullableRelation[Folder] = fields.ForeignKeyField("app.Folder", null=True)
    note = fields.CharField(max_length=100, default="a few bytes, as real rows have them")

    class Meta:
        table = "item"
        ordering = ["id"]

    class CacheMeta:
        get_key_fields_list = [("slug",)]
        filter_key_fields_list = [("team",)]
        invalidation = InvalidationType.UNSET
        allowtime: float | None = None
        relay = False


def change(row: tuple[int, int, int, int, str, int]) -> Change:
    """Returns the change of a row of the table ``history``."""
    transaction, pk, version, nonce, slug, team = row
    return Change(transaction, pk, version, nonce, int(slug[1:]), team)
