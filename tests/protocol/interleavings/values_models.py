"""Values, which no write invalidates, and computed results, which follow the writes of a model."""

from aiomodelcache import (
    InvalidationType,
    QuerysetCountCache,
    QuerysetExistsCache,
    ResultCache,
    ValueCache,
    cached,
)
from tests.protocol.interleavings.models import ALLOWTIME, Artist, RankedArtist


async def followers(pk: int) -> int:
    """Reads the number as if from another service."""
    [found] = await Artist.filter(id=pk).values_list("followers", flat=True)
    return int(str(found))


class FollowersOf(ValueCache[int]):
    invalidation = InvalidationType.OFF

    async def get_value(self, pk: int) -> int:
        return await followers(pk)


class FollowersOfLate(ValueCache[int]):
    """The same value, which may be returned from a stale copy."""

    allowtime = ALLOWTIME
    invalidation = InvalidationType.OFF

    async def get_value(self, pk: int) -> int:
        return await followers(pk)


class FollowersSliding(ValueCache[int]):
    """The same value, whose life a hit near its end extends."""

    sliding = True
    invalidation = InvalidationType.OFF

    async def get_value(self, pk: int) -> int:
        return await followers(pk)


class FollowersKept(ValueCache[int]):
    """The same value, with a copy beside its entry."""

    stale_if_error = "5m"
    invalidation = InvalidationType.OFF

    async def get_value(self, pk: int) -> int:
        return await followers(pk)


@cached(invalidation=InvalidationType.OFF)
async def followers_of(pk: int) -> int:
    return await followers(pk)


class RankSize(QuerysetCountCache):
    model = RankedArtist
    key_fields = ("rank",)


class RankIsTaken(QuerysetExistsCache):
    model = RankedArtist
    key_fields = ("rank",)


class RankMembers(ResultCache[list[RankedArtist]]):
    """A result with instances, which the entry stores as references."""

    model = RankedArtist
    key_fields = ("rank",)

    async def get_result(self, rank: int) -> list[RankedArtist]:
        return await RankedArtist.filter(rank=rank).order_by("id")


class RankFans(ResultCache[int]):
    """A result that is computed again after each write."""

    model = RankedArtist
    key_fields = ("rank",)
    invalidation = InvalidationType.RESET

    async def get_result(self, rank: int) -> int:
        found = await RankedArtist.filter(rank=rank).values_list("followers", flat=True)
        return sum(int(str(each)) for each in found)
