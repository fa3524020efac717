"""Managers and query classes of users: all their writes are captured, also the writes to rows that they hide."""

import pytest
from tortoise.queryset import QuerySet

from aiomodelcache import ModelCache
from aiomodelcache.testing import CountingBackend
from tests.support.models.bulk_models import Book, Film, Page, Pages, Slip
from tests.support.oracle import Oracle

pytestmark = pytest.mark.models("tests.support.models.bulk_models")


async def pages(cache: ModelCache, count: int = 4) -> tuple[list[Page], Oracle]:
    """Creates pages, of which the last is hidden, and fills the cache with them."""
    created = [await Page.create(number=n, shelf=1, deleted=n == count - 1) for n in range(count)]
    oracle = Oracle(cache, Page)
    await oracle.warm(shelf=[2])
    return created, oracle


async def test_queries_that_hide_or_show_rows_invalidate_their_lookups(cache: ModelCache) -> None:
    (first, second, third, hidden), oracle = await pages(cache)
    assert [page.number for page in await Page.cache.filter(shelf=1)] == [0, 1, 2]
    assert await Page.cache.get_or_none(number=3) is None
    hide_and_show = [
        (lambda: Page.filter(number=0).update(deleted=True), {1, 2}),
        (lambda: Page.filter(number=1).delete(), {2}),  # the query class's own `delete`, which only hides
        (lambda: Page.everything.filter(number=0).restore(), {0, 2}),
        (lambda: Page.everything.all().update(deleted=False, text="back"), {0, 1, 2, 3}),
        (lambda: Page.all().filter(number__gt=1).delete(), {0, 1}),
        (lambda: Page.everything.filter(number=3).update(deleted=False), {0, 1, 3}),
        (lambda: Page.all().shelve(2), set[int]()),
        (lambda: Page.everything.filter(number__lt=2).shelve(1), {0, 1}),
    ]
    for write, shown in hide_and_show:
        await oracle.warm()
        await write()
        assert {page.number for page in await Page.cache.filter(shelf=1)} == shown
        await oracle.check()


async def test_saves_that_hide_or_show_rows_invalidate_their_lookups(cache: ModelCache) -> None:
    (first, second, third, hidden), oracle = await pages(cache)
    for page, fields in ((hidden, ["deleted"]), (first, ["deleted"]), (hidden, None), (first, None)):
        page.deleted = not page.deleted
        await page.save(update_fields=fields)
        await oracle.check()
        await oracle.warm()
    outdated = await Page.get(number=1)
    await Page.filter(number=1).update(shelf=2)
    await Page.filter(number=1).update(deleted=True)
    await oracle.warm()
    outdated.deleted = False
    await outdated.save(update_fields=["deleted"])  # the instance has another shelf than the row
    assert [page.number for page in await Page.cache.filter(shelf=2)] == [1]
    await oracle.check()


async def test_a_users_own_delete_method_invalidates_visible_and_hidden_rows(cache: ModelCache) -> None:
    (first, second, third, hidden), oracle = await pages(cache)
    purging = Page.filter(number=0)
    assert isinstance(purging, Pages)
    assert await purging.purge() == 1
    assert await oracle.invalidated(Page) == {first.id}
    assert await Page.everything.filter(deleted=True).purge() == 1
    assert await QuerySet(Page).count() == 2
    await oracle.check()


async def test_bulk_writes_through_a_manager_do_not_write_hidden_rows(
    cache: ModelCache, backend: CountingBackend
) -> None:
    (first, second, third, hidden), oracle = await pages(cache)
    for page in (first, hidden):
        page.text = "changed"
    await Page.bulk_update([first, hidden], fields=["text"])
    assert {page.text for page in await QuerySet(Page).filter(number__in=[1, 2, 3])} == {""}
    assert await oracle.invalidated(Page) == {first.id}
    await oracle.check()
    await Page.everything.all().bulk_update([first, hidden], fields=["text"])
    await oracle.check()
    await Page.bulk_create([Page(number=7, shelf=1), Page(number=8, shelf=1, deleted=True)])
    assert sorted([page.number for page in await Page.cache.filter(shelf=1)]) == [0, 1, 2, 7]
    await oracle.check()


async def test_bulk_writes_to_children_of_an_abstract_model_and_to_plain_models_are_captured(
    cache: ModelCache, backend: CountingBackend
) -> None:
    for model in (Book, Film, Slip):
        await model.bulk_create([model(number=n, shelf=n % 2) for n in range(4)])
    oracle = Oracle(cache, Book, Film, Slip)
    for model in (Book, Film, Slip):
        await oracle.warm(shelf=[7, 8], number=[50])
        assert await model.filter(number__lt=2).update(shelf=7) == 2
        rows = await model.all().order_by("id")
        assert await oracle.invalidated(model) == {row.pk for row in rows[:2]}
        rows[0].shelf, rows[3].shelf = 8, 8
        assert await model.bulk_update([rows[0], rows[3]], fields=["shelf"]) == 2
        assert await model.filter(shelf=1).delete() == 0
        assert await model.filter(shelf=8, number=0).delete() == 1
        await model.bulk_create([model(number=50, shelf=7)])
        await oracle.check()
    await oracle.warm()
    already = await oracle.invalidated(Film)
    await Book.all().update(shelf=1)
    assert await oracle.invalidated(Film) == already, (
        "a write to one child of an abstract model must not invalidate another"
    )
