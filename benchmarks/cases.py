"""``CASES``: the operations that are measured. A case is the same for every contestant that can do it."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from aiomodelcache import local_cache
from benchmarks import data
from benchmarks.contestants import Contestant

HUNDRED: Final = list(range(101, 201))
"""Primary keys of a hundred products."""
SPREAD: Final = list(range(1, data.PRODUCTS, data.PRODUCTS // 50))
"""Primary keys of fifty products, of all owners."""
_ONE: Final = HUNDRED[0]


async def _nothing(contestant: Contestant) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Case:
    """One operation to measure, and the expected result."""

    name: str
    needs: str
    """Name of the contestant's method that does it."""
    count: int
    """Number of lookups, rows or writes in one ``run``. Figures are for one of them."""
    run: Callable[[Contestant], Awaitable[Any]]
    expected: Sequence[int]
    """Primary keys of the expected products, in order if ``ordered``. Empty if ``rehearsal`` checks the result."""
    prepare: Callable[[Contestant], Awaitable[None]] = _nothing
    prepares_each: bool = False
    """True to call ``prepare`` before every run, outside of the timed part."""
    ordered: bool = True
    rehearsal: Callable[[Contestant], Awaitable[Any]] | None = None
    """Replaces ``run`` in the check before the first round, if the result of ``run`` cannot be checked."""

    def fits(self, contestant: Contestant) -> bool:
        """Returns True if the contestant takes part."""
        return contestant.can(self.needs) and (not self.prepares_each or contestant.can("forget"))

    def check(self, contestant: Contestant, answer: Any) -> None:
        """Compares an answer with the catalogue. Raises ``AssertionError`` if they differ."""
        answers = answer if isinstance(answer, list) else [answer]
        rows = [contestant.columns(row) for row in answers]
        if not self.ordered:
            rows.sort(key=lambda row: row["id"])
        for row, pk in zip(rows, self.expected, strict=True):
            expected = data.product(pk)
            differing = {name for name in expected if row[name] != expected[name]}
            if differing:
                raise AssertionError(f"{contestant.name}, {self.name}: product {pk} differs in {differing}")


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


async def _two_levels(who: Contestant) -> Any:
    products = await who.together(SPREAD)
    names = await who.regions_behind(products)
    assert names == [data.region_name(who.columns(product)["owner_id"]) for product in products], names
    return products


async def _save(who: Contestant) -> None:
    await who.save(who.draft(_ONE))


async def _save_and_get(who: Contestant) -> Any:
    """Makes two writes and checks that the next lookup sees each."""
    draft = who.draft(_ONE)
    for change in (1, -1):
        draft.stock += change
        await who.save(draft)
        found = await who.get(_ONE)
        assert found.stock == draft.stock, f"{who.name} returned a row older than the write"
    return found


async def _one_page(who: Contestant) -> Any:
    return await who.page(1)


async def _all_pages(who: Contestant) -> Any:
    return await who.pages(PAGES)


async def _forget_page(who: Contestant) -> None:
    await who.forget_page(1)


async def _one_untracked_page(who: Contestant) -> Any:
    return await who.untracked_page(1)


def _checked_pages(get: Callable[[Contestant], Awaitable[Any]], count: int) -> Callable[[Contestant], Awaitable[Any]]:
    """Returns a function that compares pages with the catalogue, and has no further rows to check."""

    async def check(who: Contestant) -> list[Any]:
        answer = await get(who)
        pages = answer if count > 1 else [answer]
        assert [who.page_rows(page) for page in pages] == list(map(data.page, PAGES[:count])), who.name
        return []

    return check


SLUGS: Final = [data.slug(pk) for pk in HUNDRED]
SINGLE: Final = Case("hit by pk, one after the other", "get", 1, _one_hit, [_ONE])
SLUG: Final = Case("hit by slug, one after the other", "get_by_slug", 1, _one_slug, [_ONE])
GATHERS: Final = [_gather(list(range(101, 101 + count))) for count in (1, 10, 100, 1_000)]
GATHER_100: Final = GATHERS[2]
FUTURES: Final = Case(
    "gather of 100 hits, as futures", "gather_futures", 100, lambda who: who.gather_futures(HUNDRED), HUNDRED
)
SAME: Final = Case("the same key 100 times", "gather", 100, lambda who: who.gather([_ONE] * 100), [_ONE] * 100)
TOGETHER: Final = Case("100 hits together", "together", 100, lambda who: who.together(HUNDRED), HUNDRED, ordered=False)
MANY_BY_PK: Final = Case("100 hits, get_many", "get_many", 100, lambda who: who.get_many(HUNDRED), HUNDRED)
_LISTS: Final = [*data.products_of(1), *data.products_of(2)]
MIXED: Final = Case(
    "mixed kinds: 2 rows, 2 lists of 50", "mixed", 1, lambda who: who.mixed(_ONE), [_ONE, _ONE + 1, *_LISTS]
)
LIST: Final = Case("list of 50", "products_of", 1, lambda who: who.products_of(3), data.products_of(3))
QUERY: Final = Case("query of 50 rows", "queried", 1, lambda who: who.queried(3), data.products_of(3))
TWO_LEVELS: Final = Case("50 rows and two levels behind them", "regions_behind", 1, _two_levels, SPREAD, ordered=False)
SCOPE: Final = Case("hit in local_cache()", "again", 200, _in_scope, [_ONE])
NEAR: Final = Case("near hit", "nearby", 200, _near, [_ONE])
MISS: Final = Case("miss by pk", "get", 1, _one_hit, [_ONE], _forget([_ONE]), prepares_each=True)
MISSES_GATHERED: Final = Case(
    "100 misses by slug, gathered",
    "gather_by_slug",
    100,
    lambda who: who.gather_by_slug(SLUGS),
    HUNDRED,
    _forget(HUNDRED),
    prepares_each=True,
)
MISSES: Final = Case(
    "100 misses by slug, together",
    "together_by_slug",
    100,
    lambda who: who.together_by_slug(SLUGS),
    HUNDRED,
    _forget(HUNDRED),
    prepares_each=True,
    ordered=False,
)
PAGES: Final = list(range(1, 11))
PAGE: Final = Case("page of 20 rows", "page", 1, _one_page, [], rehearsal=_checked_pages(_one_page, 1))
PAGES_GATHERED: Final = Case(
    "gather of 10 pages", "pages", 10, lambda who: who.pages(PAGES), [], rehearsal=_checked_pages(_all_pages, 10)
)
PAGE_MISS: Final = Case(
    "miss of a page, its rows cached",
    "page",
    1,
    _one_page,
    [],
    _forget_page,
    prepares_each=True,
    rehearsal=_checked_pages(_one_page, 1),
)
PAGE_MISS_UNTRACKED: Final = Case(
    "the same, untracked",
    "untracked_page",
    1,
    _one_untracked_page,
    [],
    _forget_page,
    prepares_each=True,
    rehearsal=_checked_pages(_one_untracked_page, 1),
)
SAVE: Final = Case("save", "save", 1, _save, [_ONE], rehearsal=_save_and_get)

CASES: Final = [
    SINGLE,
    SLUG,
    *GATHERS,
    FUTURES,
    SAME,
    TOGETHER,
    MANY_BY_PK,
    MIXED,
    LIST,
    QUERY,
    TWO_LEVELS,
    SCOPE,
    NEAR,
    MISS,
    MISSES_GATHERED,
    MISSES,
    PAGE,
    PAGES_GATHERED,
    PAGE_MISS,
    PAGE_MISS_UNTRACKED,
    SAVE,
]
