"""Models whose every column holds a secret: keys, custom fields, JSON, links, arguments of computed values."""

from typing import Any

from tortoise import fields
from tortoise.validators import RegexValidator

from aiomodelcache import (
    CachedModel,
    InstanceCache,
    QuerysetCountCache,
    RelatedInstanceCache,
    ResultCache,
    ValueCache,
    cached,
)

SECRET = "m4rk3r"
"""The text that all columns hold, and no message may."""
NUMBER = 77_665_544
"""The same as a number."""


class SealedField(fields.CharField):
    """A field that is encrypted in the database, and whose errors quote the plain text."""

    def to_db_value(self, value: Any, instance: Any) -> Any:
        if value is not None and not isinstance(value, str):
            raise ValueError(f"{value!r} cannot be sealed")
        return value and f"sealed {value[::-1]}"

    def to_python_value(self, value: Any) -> Any:
        if value is None or not value.startswith("sealed "):
            return value
        opened = value.removeprefix("sealed ")[::-1]
        if "?" in opened:
            raise ValueError(f"{opened!r} cannot be opened")
        return opened


class HashedField(fields.CharField):
    """A field that does not come back as it was set, so that its rows are not stored."""

    def to_db_value(self, value: Any, instance: Any) -> Any:
        return value and f"hash of {value}"


class Person(CachedModel):
    code = fields.CharField(max_length=40, primary_key=True, validators=[RegexValidator("^[^!]*$", 0)])
    slug = SealedField(max_length=40, unique=True)
    number = fields.IntField(default=NUMBER)
    rate: Any = fields.DecimalField(max_digits=20, decimal_places=2, default=NUMBER)
    born: Any = fields.DateField(null=True)
    token = fields.UUIDField(null=True)
    sealed: Any = SealedField(max_length=40, null=True)
    hashed: Any = HashedField(max_length=60, null=True)
    document: Any = fields.JSONField(null=True)
    mentor: fields.ForeignKeyNullableRelation["Person"] = fields.ForeignKeyField(
        "app.Person", null=True, related_name="pupils"
    )
    groups: fields.ManyToManyRelation["Group"] = fields.ManyToManyField("app.Group", related_name="people")

    class CacheMeta:
        get_key_fields_list = [("slug",), ("token",), ("number", "code")]
        filter_key_fields_list = [("number",), ("sealed",), ("rate",), ("born",), ("mentor",)]
        cached_manytomany = ["groups"]


class Group(CachedModel):
    name = fields.CharField(max_length=40, primary_key=True)

    class CacheMeta:
        get_key_fields_list = [("name",)]


class PersonBySlug(InstanceCache[Person]):
    model = Person
    key_fields = ("slug",)


class Pupils(QuerysetCountCache):
    model = Person
    key_fields = ("mentor",)


class MentorOf(RelatedInstanceCache[Person]):
    model = Person
    key_fields = ("slug",)
    relation = "mentor"


class Unstorable:
    """A value that cannot be stored."""

    def __repr__(self) -> str:
        return f"<{SECRET}>"


class Profile(ResultCache[Any]):
    model = Person
    key_fields = ("slug",)

    async def get_result(self, slug: str) -> Any:
        return {SECRET: Unstorable()}


class LoudCodec:
    """A codec whose errors quote values."""

    def encode(self, value: Any) -> bytes:
        if value == NUMBER:
            raise ValueError(f"no {value} please")
        return str(value).encode()

    def decode(self, data: bytes) -> Any:
        raise ValueError(f"{SECRET} in {data!r}")


class Greeting(ValueCache[Any]):
    codec = LoudCodec()

    async def get_value(self, value: Any) -> Any:
        return value


@cached(timeout=60)
async def greet(name: Any, other: Any = None) -> Any:
    return Unstorable() if other else name
