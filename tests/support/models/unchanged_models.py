"""Models whose unchanged saves keep their entries."""

from enum import Enum, IntEnum
from typing import Any

from tortoise import fields
from tortoise.models import Model

from aiomodelcache import CachedModel, ModelCacheManager, ResultCache


class Rank(IntEnum):
    LOW = 1
    HIGH = 2


class Suit(str, Enum):  # noqa: UP042 - a StrEnum's str() would be the value
    HEARTS = "hearts"
    SPADES = "spades"


class Card(CachedModel):
    """A row with all types of columns that can be compared exactly."""

    id = fields.IntField(primary_key=True)
    number = fields.IntField(unique=True)
    owner = fields.BigIntField(default=1)
    title = fields.CharField(max_length=40, default="form")
    notes = fields.TextField(null=True)
    done = fields.BooleanField(default=False)
    price = fields.DecimalField(max_digits=20, decimal_places=2, default=1)
    due = fields.DatetimeField(null=True)
    day = fields.DateField(null=True)
    length = fields.TimeDeltaField(null=True)
    code = fields.UUIDField(null=True)
    data = fields.BinaryField(null=True)
    rank = fields.IntEnumField(Rank, default=Rank.LOW)
    suit = fields.CharEnumField(Suit, default=Suit.HEARTS)
    made = fields.DatetimeField(auto_now_add=True)

    class CacheMeta:
        get_key_fields_list = [("number",)]
        filter_key_fields_list = [("owner",), ("title",)]
        keep_unchanged = True


class Deck(CachedModel):
    """A row that results are computed from."""

    id = fields.IntField(primary_key=True)
    owner = fields.IntField(default=1)
    size = fields.IntField(default=0)

    class CacheMeta:
        keep_unchanged = True


class DeckSizes(ResultCache[int]):
    model = Deck
    key_fields = ("owner",)

    async def get_result(self, owner: int) -> int:
        return sum(await Deck.filter(owner=owner).values_list("size", flat=True))  # type: ignore[arg-type]


class Memo(Model):
    """A plain model with a separate manager, whose own ``save`` may insert a row once more, or save it twice."""

    id = fields.IntField(primary_key=True)
    owner = fields.IntField(default=1)

    async def save(self, *args: Any, as_new: bool = False, owner: int = 0, again: Any = None, **kwargs: Any) -> None:
        if as_new:
            self.pk = None
        await super().save(*args, **kwargs)
        if owner:
            self.owner = owner
            await super().save(*args, **kwargs if again is None else {**kwargs, "using_db": again})


class MemoCaches(ModelCacheManager[Memo]):
    model = Memo
    filter_key_fields_list = [("owner",)]
    keep_unchanged = True
