"""Models with different invalidation policies. Their keys are integers, which no collation affects."""

from typing import ClassVar

from tortoise import fields
from tortoise.models import Model

from aiomodelcache import (
    CachedModel,
    InvalidationType,
    ModelCacheManager,
    QuerysetCache,
    QuerysetCountCache,
    RelatedQuerysetCache,
    ResultCache,
)


class Ticket(CachedModel):
    """A model whose stale rows and lists may be returned for a minute."""

    id = fields.IntField(primary_key=True)
    number = fields.IntField(unique=True)
    queue = fields.IntField(default=1)
    votes = fields.IntField(default=0)

    class CacheMeta:
        get_key_fields_list = [("number",)]
        filter_key_fields_list = [("queue",)]
        invalidation = InvalidationType.DYNAMIC
        allowtime = 60


class Memo(Model):
    """A model of Tortoise's own whose stale rows may be returned."""

    id = fields.IntField(primary_key=True)
    ticket: fields.ForeignKeyRelation[Ticket] = fields.ForeignKeyField("app.Ticket", related_name="memos")
    text = fields.CharField(max_length=16, default="")
    page = fields.IntField(default=0)


class MemoCaches(ModelCacheManager[Memo]):
    model = Memo
    filter_key_fields_list = [("ticket",)]
    cached_foreignkeys = ["ticket"]
    invalidation = InvalidationType.DYNAMIC
    allowtime = 60


class TicketOf(ResultCache[Ticket]):
    """A result that contains an instance."""

    model = Ticket
    key_fields = ("id",)
    invalidation = InvalidationType.OFF

    async def get_result(self, id: int) -> Ticket:
        return await Ticket.get(id=id)


class MemosOf(RelatedQuerysetCache[Memo]):
    model = Ticket
    key_fields = ("id",)
    relation = "memos"


class Plan(CachedModel):
    """A model whose entries writes do not invalidate."""

    id = fields.IntField(primary_key=True)
    number = fields.IntField(unique=True)
    level = fields.IntField(default=1)

    class CacheMeta:
        get_key_fields_list = [("number",)]
        filter_key_fields_list = [("level",)]
        invalidation = InvalidationType.OFF


class PlanCount(QuerysetCountCache):
    model = Plan
    key_fields = ("level",)
    invalidation = InvalidationType.OFF


class Tariff(CachedModel):
    """A model whose entries writes do not invalidate, except for the lists of one cache class."""

    id = fields.IntField(primary_key=True)
    level = fields.IntField(default=1)
    price = fields.IntField(default=0)

    class CacheMeta:
        invalidation = InvalidationType.OFF


class TariffsOfLevel(QuerysetCache[Tariff]):
    model = Tariff
    key_fields = ("level",)
    order_by: ClassVar = ["id"]


class Score(CachedModel):
    """A model whose entries are filled again after each write."""

    id = fields.IntField(primary_key=True)
    number = fields.IntField(unique=True)
    team = fields.IntField(default=1)
    points = fields.IntField(default=0)

    class CacheMeta:
        get_key_fields_list = [("number",)]
        filter_key_fields_list = [("team",)]
        invalidation = InvalidationType.RESET


class Vote(CachedModel):
    """A model whose entries are never stale, except for the lists of one cache class."""

    id = fields.IntField(primary_key=True)
    ticket = fields.IntField()
    weight = fields.IntField(default=1)

    class CacheMeta:
        filter_key_fields_list = [("ticket",)]


class HeaviestVotes(QuerysetCache[Vote]):
    model = Vote
    key_fields = ("ticket",)
    order_by: ClassVar = ["-weight", "id"]
    limit = 2
    invalidation = InvalidationType.DYNAMIC
    allowtime = 60


class TicketVotes(ResultCache[int]):
    model = Vote
    key_fields = ("ticket",)
    invalidation = InvalidationType.DYNAMIC
    allowtime = 60

    async def get_result(self, ticket: int) -> int:
        return sum([vote.weight for vote in await Vote.filter(ticket=ticket)])


class HeaviestVote(ResultCache[int]):
    model = Vote
    key_fields = ("ticket",)
    invalidation = InvalidationType.RESET

    async def get_result(self, ticket: int) -> int:
        return max([vote.weight for vote in await Vote.filter(ticket=ticket)])
