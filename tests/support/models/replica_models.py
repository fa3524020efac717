"""Models of a program whose router reads from a replica."""

from typing import Any

from tortoise import fields

from aiomodelcache import CachedModel, QuerysetCountCache, ResultCache


class Account(CachedModel):
    id = fields.IntField(primary_key=True)
    number = fields.IntField(unique=True)
    branch = fields.IntField(default=0)
    balance = fields.IntField(default=0)

    class CacheMeta:
        get_key_fields_list = [("number",)]
        filter_key_fields_list = [("branch",)]


class Card(CachedModel):
    id = fields.IntField(primary_key=True)
    number = fields.IntField(unique=True, null=True)
    account: fields.ForeignKeyRelation[Account] = fields.ForeignKeyField(
        "app.Account", related_name="cards", db_constraint=False
    )

    class CacheMeta:
        cached_foreignkeys = ["account"]


class Total(ResultCache[int]):
    model = Account
    key_fields = ("branch",)

    async def get_result(self, branch: int) -> Any:
        return sum([account.balance for account in await Account.filter(branch=branch)])


class Accounts(QuerysetCountCache):
    model = Account
    key_fields = ("branch",)
