"""``aiomodelcache verify`` finds planted stale entries, and nothing else."""

from collections.abc import Awaitable, Callable

import pytest
from tortoise.connection import get_connection

from aiomodelcache import ModelCache
from aiomodelcache.cli.verify import Verified, compare, upper_bound
from aiomodelcache.inspection.keyspace import KeyMap
from aiomodelcache.inspection.store import connected
from aiomodelcache.inspection.survey import survey_keys
from tests.cli.conftest import read_rows
from tests.support.application import Application
from tests.support.models.shop_models import Listing


def behind(statement: str) -> Callable[[ModelCache], Awaitable[None]]:
    """Returns the work of a statement that the cache does not notice."""

    async def work(cache: ModelCache) -> None:
        await get_connection("default").execute_script(statement)

    return work


def test_entries_that_agree_are_status_0(filled: Application) -> None:
    data = filled.run("verify", "--json").data
    assert data["stale"] == []
    assert data["compared"] >= 5 + 6 + 2 + 1 + 2
    assert data["not_compared"] == {"computed results": 3}
    assert data["stale_at_most"] == pytest.approx(1 - 0.05 ** (1 / data["compared"]))
    text = (
        f"ok {data['compared']} entries agree with the database, so fewer than 17 % of all are stale (95 % confidence)"
    )
    assert text in filled.process("verify").out


def test_a_sample_is_chosen_among_all_entries(filled: Application) -> None:
    assert filled.run("verify", "--sample", "1000", "--json").data == filled.run("verify", "--json").data
    filled.do(behind("UPDATE listing SET title = 'behind' WHERE id = 2"))
    seen: set[int] = set()
    for _ in range(60):
        ran = filled.run("verify", "Listing", "--sample", "4", "--json", status=None)
        data = ran.data
        seen.add(len(data["stale"]))
        assert data["compared"] + sum(data["not_compared"].values()) <= 4
        assert ran.status == (1 if data["stale"] else 0)
    assert seen == {0, 1}


@pytest.mark.parametrize(
    ("found", "number", "bound"),
    [(0, 0, 1.0), (0, 59, 0.0495), (0, 3_000_000, 1e-6), (1, 100, 0.0466), (7, 7, 1.0), (0, 1, 0.95)],
)
def test_the_bound_is_that_of_clopper_and_pearson(found: int, number: int, bound: float) -> None:
    assert upper_bound(found, number) == pytest.approx(bound, rel=0.002)


@pytest.mark.parametrize(
    ("statement", "cache", "kind", "differs"),
    [
        ("UPDATE listing SET title = 'behind' WHERE id = 2", "Listing", "row", ["title"]),
        (
            "DELETE FROM listing_mark WHERE listing_id = 1",
            "Listing.marks",
            "many-to-many",
            ["the rows exist no longer"],
        ),
        ("UPDATE seller SET name = 'lee'", "Seller", "row", ["name"]),
        (
            "INSERT INTO listing (id, slug, title, public, seller_id) VALUES (9, 'secret-none', '', 1, 1)",
            "Listing (slug)",
            "index",
            ["the row exists"],
        ),
    ],
)
def test_a_planted_stale_entry_is_found(
    filled: Application, statement: str, cache: str, kind: str, differs: list[str]
) -> None:
    filled.do(behind(statement))
    ran = filled.run("verify", "--json", status=1)
    found = [(each["cache"], each["kind"], each["differs"]) for each in ran.data["stale"]]
    assert (cache, kind, differs) in found
    assert "secret" not in ran.out


def test_a_deleted_row_and_the_list_of_it_are_found(filled: Application) -> None:
    filled.do(behind("DELETE FROM listing_mark; DELETE FROM listing WHERE id = 5"))
    found = {(each["cache"], *each["differs"]) for each in filled.run("verify", "--json", status=1).data["stale"]}
    assert ("Listing", "the rows exist no longer") in found
    assert ("Listing (seller) by id", "the rows, or their order") in found


def test_after_clear_nothing_is_stale(filled: Application) -> None:
    filled.do(behind("UPDATE listing SET title = 'behind'"))
    filled.run("verify", status=1)
    filled.run("clear", "--all")
    assert filled.run("verify", "--json").data["stale"] == []


def test_only_the_entries_of_the_target_are_compared(filled: Application) -> None:
    filled.do(behind("UPDATE listing SET title = 'behind'"))
    assert filled.run("verify", "Seller", "--json").data["stale"] == []
    assert len(filled.run("verify", "Listing", "--json", status=1).data["stale"]) >= 5


def test_values_are_shown_only_if_asked_for(filled: Application) -> None:
    filled.do(behind("UPDATE listing SET title = 'behind' WHERE id = 2"))
    assert "listing:<int>" in filled.process("verify", status=1).out
    assert "shop:amc:r:default:listing:i2" in filled.run("verify", "--values", status=1).out
    assert "\x1b[31merror" in filled.terminal("verify", status=1)


def test_writes_through_the_cache_are_no_faults(filled: Application) -> None:
    async def write(cache: ModelCache) -> None:
        await Listing.filter(id=1).update(title="new")
        await read_rows(cache)

    filled.do(write)
    assert filled.run("verify", "--json").data["stale"] == []


def test_an_entry_that_is_written_while_it_is_compared_is_no_fault(filled: Application) -> None:
    async def work(cache: ModelCache) -> Verified:
        key_map, verified = KeyMap(cache.open_cache), Verified()
        async with connected(filled.redis.url) as store:
            chunks = [chunk async for chunk in survey_keys(cache.open_cache, store, key_map, "Listing")]
            await Listing.filter(id=1).update(title="new")
            await Listing.cache.get(id=1)
            for chunk in chunks:
                await compare(cache.open_cache, key_map, chunk, verified, values=False)
        return verified

    verified = filled.do(work)
    assert (verified.stale, verified.changed) == ([], 1)


def test_a_hint_that_leads_to_a_row_which_has_moved_is_no_fault(filled: Application) -> None:
    async def move(cache: ModelCache) -> None:
        await Listing.filter(id=1).update(slug="moved")
        await Listing.cache.get(id=1)

    filled.do(move)
    assert filled.run("explain", "Listing", "slug=secret-1", "--json").data["reason"] == "moved"
    data = filled.run("verify", "--json").data
    assert (data["stale"], data["changed_meanwhile"]) == ([], 1)
