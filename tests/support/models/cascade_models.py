"""Models that refer to each other in every way in which a database deletes, or changes, rows along."""

from tortoise import fields
from tortoise.fields import CASCADE, NO_ACTION, RESTRICT, SET_NULL
from tortoise.models import Model

from aiomodelcache import CachedModel


class Shop(Model):
    """A parent that has no cache."""

    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=64)
    code = fields.IntField(unique=True, null=True)


class Offer(CachedModel):
    """Deleted with its shop; has lost its maker and its seller, who may be the same."""

    id = fields.IntField(primary_key=True)
    shop: fields.ForeignKeyRelation[Shop] = fields.ForeignKeyField("app.Shop", related_name="offers")
    maker: fields.ForeignKeyNullableRelation["Firm"] = fields.ForeignKeyField(
        "app.Firm", related_name="made", null=True, on_delete=SET_NULL
    )
    seller: fields.ForeignKeyNullableRelation["Firm"] = fields.ForeignKeyField(
        "app.Firm", related_name="sold", null=True, on_delete=SET_NULL
    )
    state = fields.IntField(default=0)

    class CacheMeta:
        filter_key_fields_list = [("shop",), ("maker",), ("maker", "seller"), ("maker", "state")]


class Firm(CachedModel):
    """A tree: its branches go with it, or stay without a head, or keep it from being deleted."""

    id = fields.IntField(primary_key=True)
    number = fields.IntField(unique=True)
    parent: fields.ForeignKeyNullableRelation["Firm"] = fields.ForeignKeyField(
        "app.Firm", related_name="branches", null=True, on_delete=CASCADE
    )
    partner: fields.ForeignKeyNullableRelation["Firm"] = fields.ForeignKeyField(
        "app.Firm", related_name="partners", null=True, on_delete=SET_NULL
    )

    class CacheMeta:
        get_key_fields_list = [("number",)]
        filter_key_fields_list = [("parent",), ("partner",)]


class Licence(CachedModel):
    """One to one, and the firm's number, not its primary key, is what it refers to."""

    firm: fields.OneToOneRelation[Firm] = fields.OneToOneField(
        "app.Firm", related_name="licence", to_field="number", on_delete=CASCADE
    )
    id = fields.IntField(primary_key=True)

    class CacheMeta:
        get_key_fields_list = [("firm",)]


class Seal(CachedModel):
    """One to one, as a primary key."""

    firm: fields.OneToOneRelation[Firm] = fields.OneToOneField("app.Firm", related_name="seal", primary_key=True)
    colour = fields.IntField(default=0)

    class CacheMeta:
        filter_key_fields_list = [("colour",)]


class Department(Model):
    """Has no cache, but stands between a firm and its desks."""

    id = fields.IntField(primary_key=True)
    firm: fields.ForeignKeyRelation[Firm] = fields.ForeignKeyField("app.Firm", related_name="departments")


class Desk(CachedModel):
    id = fields.IntField(primary_key=True)
    department: fields.ForeignKeyRelation[Department] = fields.ForeignKeyField(
        "app.Department",
        related_name="desks",
        on_delete="CASCADE",  # type: ignore[arg-type] # Tortoise takes the text, too
    )

    class CacheMeta:
        filter_key_fields_list = [("department",)]


class Audit(CachedModel):
    """Keeps its firm from being deleted."""

    id = fields.IntField(primary_key=True)
    firm: fields.ForeignKeyRelation[Firm] = fields.ForeignKeyField(
        "app.Firm", related_name="audits", on_delete=RESTRICT
    )
    other: fields.ForeignKeyNullableRelation[Firm] = fields.ForeignKeyField(
        "app.Firm", related_name="others", null=True, on_delete=NO_ACTION
    )

    class CacheMeta:
        filter_key_fields_list = [("firm",)]


class Rumour(CachedModel):
    """Refers to a firm that need not exist."""

    id = fields.IntField(primary_key=True)
    firm: fields.ForeignKeyRelation[Firm] = fields.ForeignKeyField(
        "app.Firm", related_name="rumours", db_constraint=False
    )

    class CacheMeta:
        filter_key_fields_list = [("firm",)]


class Street(Model):
    """A parent without a cache, of children without one."""

    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=64, default="")


class House(Model):
    id = fields.IntField(primary_key=True)
    street: fields.ForeignKeyRelation[Street] = fields.ForeignKeyField("app.Street", related_name="houses")
