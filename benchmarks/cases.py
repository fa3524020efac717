"""What is measured: each case a thing that users do, the same for every contestant that can do it."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from aiomodelcache import local_cache
from benchmarks import data
from benchmarks.contestants import Contestant

SOME: Final = list(range(101, 201))
"""A hundred products of no special kind."""
SPREAD: Final = list(range(1, data.PRODUCTS, data.PRODUCTS // 50))
"""Fifty products of all owners."""
_ONE: Final = SOME[0]


async def _nothing(contestant: Contestant) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to do, and how often it is done by one ``run``."""

    name: str
    needs: str
    """The method of a contestant that does it."""
    count: int
    """How many lookups, rows or writes one run is counted as."""
    run: Callable[[Contestant], Awaitable[Any]]
    expected: Sequence[int]
    """Primary keys of the products that are to be found, in order if ``ordered``."""
    prepare: Callable[[Contestant], Awaitable[None]] = _nothing
    prepares_each: bool = False
    """Whether to prepare before each single run, not timed."""
    ordered: bool = True
    rehearsal: Callable[[Contestant], Awaitable[Any]] | None = None
    """What to do before the first round instead of ``run``, where that alone would prove nothing."""

    def fits(self, contestant: Contestant) -> bool:
        """Whether the contestant takes part."""
        return contestant.can(self.needs) and (not self.prepares_each or contestant.can("forget"))

    def check(self, contestant: Contestant, answer: Any) -> None:
        """Raises ``AssertionError`` if these are not the rows of the catalogue."""
        rows = answer if isinstance(answer, list) else [answer]
        found = [contestant.columns(row) for row in rows]
        if not self.ordered:
            found.sort(key=lambda row: row["id"])
        for row, pk in zip(found, self.expected, strict=True):
            expected = data.product(pk)
            differing = {name for name in expected if row[name] != expected[name]}
            if differing:
                raise AssertionError(f"{contestant.name}, {self.name}: product {pk} has another {differing}")


def _forget(pks: Sequence[int]) -> Callable[[Contestant], Awaitable[None]]:
    return lambda contestant: contestant.forget(pks)


def _gather(pks: list[int]) -> Case:
    return Case(f"gather of {len(pks)} hits", "gather", len(pks), lambda who: who.gather(pks), pks)


async def _one_hit(who: Contestant) -> Any:
    return await who.get(_ONE)


async def _one_slug(who: Contestant) -> Any:
    return await who.get_by_slug(data.slug(_ONE))


async def _in_scope(who: Contestant) -> Any:
    async with local_cache():
        for _ in range(200):
            found = await who.again(_ONE)
    return found


async def _near(who: Contestant) -> Any:
    for _ in range(200):
        found = await who.nearby(_ONE)
    return found


async def _walk(who: Contestant) -> Any:
    products = await who.together(SPREAD)
    names = await who.regions_behind(products)
    assert names == [data.region_name(who.columns(product)["owner_id"]) for product in products], names
    return products


async def _save(who: Contestant) -> None:
    await who.save(who.draft(_ONE))


async def _save_and_look(who: Contestant) -> Any:
    """Two writes, each of which must be seen by the next lookup."""
    draft = who.draft(_ONE)
    for change in (1, -1):
        draft.stock += change
        await who.save(draft)
        found = await who.get(_ONE)
        assert found.stock == draft.stock, f"{who.name} returned what is older than the write"
    return found


SLUGS: Final = [data.slug(pk) for pk in SOME]
SINGLE: Final = Case("hit by pk, one after the other", "get", 1, _one_hit, [_ONE])
SLUG: Final = Case("hit by slug, one after the other", "get_by_slug", 1, _one_slug, [_ONE])
GATHERS: Final = [_gather(list(range(101, 101 + count))) for count in (1, 10, 100, 1_000)]
GATHER_100: Final = GATHERS[2]
SAME: Final = Case("the same key 100 times", "gather", 100, lambda who: who.gather([_ONE] * 100), [_ONE] * 100)
TOGETHER: Final = Case("100 hits together", "together", 100, lambda who: who.together(SOME), SOME, ordered=False)
MANY_BY_PK: Final = Case("100 hits, get_many", "get_many", 100, lambda who: who.get_many(SOME), SOME)
_LISTS: Final = [*data.products_of(1), *data.products_of(2)]
MIXED: Final = Case(
    "mixed kinds: 2 rows, 2 lists of 50", "mixed", 1, lambda who: who.mixed(_ONE), [_ONE, _ONE + 1, *_LISTS]
)
LIST: Final = Case("list of 50", "products_of", 1, lambda who: who.products_of(3), data.products_of(3))
WALK: Final = Case("50 rows and two levels behind them", "regions_behind", 1, _walk, SPREAD, ordered=False)
SCOPE: Final = Case("hit in local_cache()", "again", 200, _in_scope, [_ONE])
NEAR: Final = Case("near hit", "nearby", 200, _near, [_ONE])
MISS: Final = Case("miss by pk", "get", 1, _one_hit, [_ONE], _forget([_ONE]), prepares_each=True)
MISSES_GATHERED: Final = Case(
    "100 misses by slug, gathered",
    "gather_by_slug",
    100,
    lambda who: who.gather_by_slug(SLUGS),
    SOME,
    _forget(SOME),
    prepares_each=True,
)
MISSES: Final = Case(
    "100 misses by slug, together",
    "together_by_slug",
    100,
    lambda who: who.together_by_slug(SLUGS),
    SOME,
    _forget(SOME),
    prepares_each=True,
    ordered=False,
)
SAVE: Final = Case("save", "save", 1, _save, [_ONE], rehearsal=_save_and_look)

CASES: Final = [
    SINGLE,
    SLUG,
    *GATHERS,
    SAME,
    TOGETHER,
    MANY_BY_PK,
    MIXED,
    LIST,
    WALK,
    SCOPE,
    NEAR,
    MISS,
    MISSES_GATHERED,
    MISSES,
    SAVE,
]
