"""Models that refer to each other with every kind of cascade."""

from tortoise import fields
from tortoise.fields import CASCADE, NO_ACTION, RESTRICT, SET_NULL
from tortoise.models import Model

from aiomodelcache import CachedModel


class Shop(Model):
    """A parent without a cache."""

    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=64)
    code = fields.IntField(unique=True, null=True)


class Offer(CachedModel):
    """A model that is deleted with its shop. Deleting its maker or seller, maybe one firm, sets NULL."""

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
    """A tree of firms. Deleting a firm deletes its subsidiaries and sets the reference of its partners to NULL."""

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
    """A one-to-one relation that refers to the firm's number instead of its primary key."""

    firm: fields.OneToOneRelation[Firm] = fields.OneToOneField(
        "app.Firm", related_name="licence", to_field="number", on_delete=CASCADE
    )
    id = fields.IntField(primary_key=True)

    class CacheMeta:
        get_key_fields_list = [("firm",)]


class Seal(CachedModel):
    """A one-to-one relation that is the primary key."""

    firm: fields.OneToOneRelation[Firm] = fields.OneToOneField("app.Firm", related_name="seal", primary_key=True)
    colour = fields.IntField(default=0)

    class CacheMeta:
        filter_key_fields_list = [("colour",)]


class Department(Model):
    """A model without a cache between a firm and its desks."""

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
    """A model that prevents the delete of its firm."""

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
    """A model whose firm need not exist, since the database has no constraint."""

    id = fields.IntField(primary_key=True)
    firm: fields.ForeignKeyRelation[Firm] = fields.ForeignKeyField(
        "app.Firm", related_name="rumours", db_constraint=False
    )

    class CacheMeta:
        filter_key_fields_list = [("firm",)]


class Street(Model):
    """A parent without a cache whose children have none."""

    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=64, default="")


class House(Model):
    id = fields.IntField(primary_key=True)
    street: fields.ForeignKeyRelation[Street] = fields.ForeignKeyField("app.Street", related_name="houses")
