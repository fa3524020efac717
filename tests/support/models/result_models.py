"""Models with caches of computed results."""

from typing import Any

from tortoise import fields

from aiomodelcache import (
    CachedModel,
    DontCache,
    InstanceCache,
    QuerysetCache,
    QuerysetCountCache,
    QuerysetExistsCache,
    ResultCache,
)


class Club(CachedModel):
    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=32, default="")


class Member(CachedModel):
    id = fields.IntField(primary_key=True)
    team = fields.IntField(default=0)
    points = fields.IntField(default=0)
    number = fields.IntField(unique=True)
    name = fields.CharField(max_length=32, default="")
    club: fields.ForeignKeyNullableRelation[Club] = fields.ForeignKeyField(
        "app.Club", related_name="members", null=True, on_delete=fields.SET_NULL
    )


class MemberCount(QuerysetCountCache):
    model = Member
    key_fields = ("team",)


class HasMembers(QuerysetExistsCache):
    model = Member
    key_fields = ("team",)


class ClubSize(QuerysetCountCache):
    model = Member
    key_fields = ("club",)


class Best(InstanceCache[Member | None]):
    """The member of a team with the most points."""

    model = Member
    key_fields = ("team",)

    async def get_instance(self, team: int) -> Member | None:
        return await Member.filter(team=team).order_by("-points", "id").first()


class Points(ResultCache[dict[str, Any]]):
    """A result with points by number, and with the members themselves."""

    model = Member
    key_fields = ("team",)

    async def get_result(self, team: int) -> dict[str, Any] | DontCache[dict[str, Any]]:
        members = await Member.filter(team=team).order_by("number")
        result = {"points": {member.number: member.points for member in members}, "members": tuple(members)}
        return DontCache(result) if team < 0 else result


class Numbers(QuerysetCache[Any]):
    model = Member
    key_fields = ("team",)

    async def get_result(self, team: int) -> Any:
        return await Member.filter(team=team).order_by("number").values_list("number", flat=True)
