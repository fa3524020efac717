"""Models with results that are encoded by their return annotation."""

import dataclasses
import enum
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

import pydantic
from tortoise import fields

from aiomodelcache import CachedModel, InstanceCache, QuerysetCache, ResultCache


class Status(enum.Enum):
    OPEN = "open"
    CLOSED = "closed"


@dataclasses.dataclass
class Line:
    """A mutable value with values of many types."""

    label: str
    amounts: list[Decimal]
    status: Status = Status.OPEN
    at: datetime | None = None


class Bounds(NamedTuple):
    low: int
    high: int


class Answer(pydantic.BaseModel):
    lines: list[Line]
    total: Decimal = Decimal(0)


class Sale(CachedModel):
    id = fields.IntField(primary_key=True)
    team = fields.IntField(default=0)
    points = fields.IntField(default=0)
    name = fields.CharField(max_length=32, default="")


class Summary(ResultCache[Line]):
    model = Sale
    key_fields = ("team",)

    async def get_result(self, team: int) -> Line:
        return Line("points", [Decimal(sum(await Sale.filter(team=team).values_list("points", flat=True)))])


class Ranges(QuerysetCache[Any]):
    model = Sale
    key_fields = ("team",)

    async def get_result(self, team: int) -> list[Bounds]:
        return [Bounds(await Sale.filter(team=team).count(), team)]


class AnyInstance(InstanceCache[Any]):
    model = Sale
    key_fields = ("team",)

    async def get_instance(self, team: int) -> Answer | None:
        return Answer(lines=[Line("sales", [Decimal(await Sale.filter(team=team).count())])])
