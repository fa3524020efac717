"""Models whose keys and columns have types that stored bytes can abuse: decimals, custom fields, JSON, references."""

from decimal import Decimal
from typing import Any

from tortoise import fields

from aiomodelcache import CachedModel, InstanceCache, QuerysetCountCache, RelatedInstanceCache, ResultCache, ValueCache
from tests.support.models.field_models import Colour, Point, PointField


class NearPointField(PointField):
    """A custom field that reads more values than it writes."""

    def to_db_value(self, value: Any, instance: Any) -> Any:
        if isinstance(value, Point) and value.x > 1_000:
            raise ValueError("the point is too far away")
        return super().to_db_value(value, instance)


class Place(CachedModel):
    """A row whose primary key is a custom field's."""

    point: Any = NearPointField(primary_key=True)
    name = fields.CharField(max_length=20, unique=True)
    kind = fields.IntField(default=0)
    colour = fields.CharEnumField(Colour, default=Colour.RED)
    spot: Any = NearPointField(null=True)

    class Meta:
        ordering = ["spot", "name"]

    class CacheMeta:
        get_key_fields_list = [("name",)]
        filter_key_fields_list = [("kind",), ("colour",)]


class Tariff(CachedModel):
    """A row whose primary key is a decimal."""

    price = fields.DecimalField(max_digits=10, decimal_places=2, primary_key=True)
    name = fields.CharField(max_length=20, unique=True)
    kind = fields.IntField(default=0)
    rate = fields.DecimalField(max_digits=10, decimal_places=2, default=Decimal(1))
    document: Any = fields.JSONField(null=True)
    places: fields.ManyToManyRelation[Place] = fields.ManyToManyField("app.Place", related_name="tariffs")

    class CacheMeta:
        get_key_fields_list = [("name",), ("rate",)]
        filter_key_fields_list = [("kind",), ("rate", "kind")]
        cached_manytomany = ["places"]


class Ticket(CachedModel):
    id = fields.IntField(primary_key=True)
    code = fields.CharField(max_length=20, unique=True)
    tariff: fields.ForeignKeyRelation[Tariff] = fields.ForeignKeyField("app.Tariff", related_name="tickets")
    place: fields.ForeignKeyNullableRelation[Place] = fields.ForeignKeyField(
        "app.Place", related_name="tickets", null=True
    )

    class CacheMeta:
        get_key_fields_list = [("code",)]
        filter_key_fields_list = [("tariff",)]
        cached_foreignkeys = ["tariff", "place"]


class TicketWithAll(InstanceCache[Ticket]):
    model = Ticket
    key_fields = ("id",)
    select_related = ("tariff", "place")


class TariffOfTicket(RelatedInstanceCache[Tariff]):
    model = Ticket
    key_fields = ("code",)
    relation = "tariff"


class TicketCount(QuerysetCountCache):
    model = Ticket
    key_fields = ("tariff",)


class Cheapest(ResultCache[dict[str, Any]]):
    """A result with instances inside."""

    model = Tariff
    key_fields = ("kind",)

    async def get_result(self, kind: int) -> dict[str, Any]:
        tariffs = await Tariff.filter(kind=kind)
        return {"kind": kind, "tariffs": tariffs, "places": tuple(await Place.all()), "tickets": await Ticket.all()}


class NestedCodec:
    """A codec that stores how many lists are inside one another."""

    def encode(self, value: Any) -> bytes:
        depth = 0
        while value:
            [value] = value
            depth += 1
        return b"%d" % depth

    def decode(self, data: bytes) -> Any:
        value: list[Any] = []
        for _ in range(int(data)):
            value = [value]
        return value


class Nested(ValueCache[list[Any]]):
    codec = NestedCodec()

    async def get_value(self, depth: int) -> list[Any]:
        return NestedCodec().decode(b"%d" % depth)


class Greeting(ValueCache[list[str]]):
    async def get_value(self, name: str) -> list[str]:
        return ["hello", name]
