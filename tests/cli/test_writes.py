"""``aiomodelcache clear``, ``invalidate`` and ``refresh``."""

import pytest
from tortoise.connection import get_connection

from aiomodelcache import ModelCache
from tests.support.application import Application
from tests.support.models.shop_models import Listing


def reason(application: Application, *target: str) -> str:
    return str(application.run("explain", *target, "--json").data["reason"])


async def write_behind(cache: ModelCache) -> None:
    """Changes a row without Tortoise, so that its entry is stale."""
    await get_connection("default").execute_script("UPDATE listing SET title = 'behind' WHERE id = 1")


async def title(cache: ModelCache) -> str:
    return (await Listing.cache.get(id=1)).title


def test_invalidate_takes_a_row_written_behind_the_cache_out_of_it(filled: Application) -> None:
    filled.do(write_behind)
    assert filled.do(title) == "hidden-1"
    ran = filled.run("invalidate", "Listing", "slug=secret-1")
    assert ran.out == "ok invalidated the entries of 1 row\n"
    assert reason(filled, "Listing", "id=1") == "missing"
    assert filled.do(title) == "behind"


def test_invalidate_of_a_missing_row_counts_none(filled: Application) -> None:
    assert filled.run("invalidate", "Listing", "id=77", "--json").data == {"target": "Listing", "rows": 0}


@pytest.mark.parametrize("target", [("Latest", "1"), ("ListingCount", "1"), ("Rate", "secret-rate"), ("titles", "1")])
def test_invalidate_of_other_declarations(filled: Application, target: tuple[str, ...]) -> None:
    assert reason(filled, *target) == "hit"
    assert filled.run("invalidate", *target).out == "ok invalidated\n"
    assert reason(filled, *target) == "missing"


def test_invalidate_of_a_relation(filled: Application) -> None:
    filled.run("invalidate", "Listing.marks", "1")
    assert reason(filled, "Listing.marks", "1") == "missing"


def test_invalidate_without_values_names_clear(filled: Application) -> None:
    assert "`clear Listing` is for all of them" in filled.run("invalidate", "Listing", status=2).err
    assert reason(filled, "Listing", "id=1") == "hit"


def test_refresh_reads_the_database_and_stores(filled: Application) -> None:
    filled.do(write_behind)
    ran = filled.run("refresh", "Listing", "id=1")
    assert ran.out == "ok read 1 row, and stored the answer\n"
    assert filled.do(title) == "behind"
    assert filled.run("refresh", "Listing", "seller=1", "--json").data == {
        "target": "Listing",
        "rows": 5,
        "stored": True,
        "reason": "hit",
    }
    missing = filled.run("refresh", "Listing", "id=77", "--json").data
    assert (missing["rows"], missing["stored"], missing["reason"]) == (0, True, "negative")


@pytest.mark.parametrize("target", [("Latest", "1"), ("ListingCount", "1"), ("Rate", "new"), ("titles", "1")])
def test_refresh_of_other_declarations(filled: Application, target: tuple[str, ...]) -> None:
    assert filled.run("refresh", *target, "--json").data["stored"] is True
    assert reason(filled, *target) == "hit"


def test_refresh_says_if_the_answer_is_not_stored(filled: Application) -> None:
    out = filled.run("refresh", "Listing", "other:=null", "--list").out
    assert out.startswith(("ok read", "warning read"))


def test_clear_invalidates_models_and_functions(filled: Application) -> None:
    assert filled.process("clear", "Listing", "titles").out == "ok cleared Listing, titles\n"
    assert reason(filled, "Listing", "id=1") == "cleared"
    assert reason(filled, "titles", "1") in ("cleared", "changed")
    assert reason(filled, "Seller", "id=1") == "hit"
    assert reason(filled, "Rate", "secret-rate") == "hit"


def test_clear_all_clears_everything(filled: Application) -> None:
    cleared = filled.run("clear", "--all", "--json").data["cleared"]
    assert {"Listing", "Seller", "Mark", "titles", "Rate"} <= {*cleared}
    assert reason(filled, "Seller", "id=1") == "cleared"
    assert reason(filled, "Rate", "secret-rate") == "cleared"


def test_clear_needs_a_target(filled: Application) -> None:
    assert "or --all" in filled.run("clear", status=2).err
    assert "or --all" in filled.run("clear", "Listing", "--all", status=2).err
    assert "clear its model" in filled.run("clear", "Latest", status=2).err


def test_a_write_without_the_store_is_an_error(filled: Application) -> None:
    for name in ("clear", "invalidate", "refresh"):
        arguments = ("Listing",) if name == "clear" else ("Listing", "id=1")
        ran = filled.run(name, *arguments, "--url", "redis://127.0.0.1:1", status=3)
        assert "cannot be reached" in ran.err
