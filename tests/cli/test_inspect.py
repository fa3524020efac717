"""``aiomodelcache inspect``."""

import asyncio

from aiomodelcache import ModelCache
from aiomodelcache.backends.protocol import Lease
from aiomodelcache.encoding.layout import new_token
from tests.support.application import Application
from tests.support.models.shop_models import Listing

ROW = "shop:amc:r:default:listing:i1"


def test_a_row_is_decoded_without_its_values(filled: Application) -> None:
    data = filled.run("inspect", "Listing", "id=1", "--json").data
    assert (data["cache"], data["kind"], data["state"]) == ("Listing", "row", "hit")
    assert len(bytes.fromhex(data["token"])) == 16
    assert 0 <= data["age"] < 300
    assert 3000 < data["expires_in"] < 4000
    assert data["epoch"].endswith("(current)")
    assert data["content"] == {
        "id": "<int>", "slug": "<str>", "title": "<str>", "public": "<bool>", "seller_id": "<int>", "other_id": "None",
    }  # fmt: skip
    assert data["intents"] == []


def test_values_are_shown_only_if_asked_for(filled: Application) -> None:
    assert "hidden" not in filled.run("inspect", ROW).out
    shown = filled.run("inspect", ROW, "--values").out
    assert "'hidden-1'" in shown
    assert ROW in shown


def test_a_key_is_found_as_well_as_a_lookup(filled: Application) -> None:
    by_key = filled.run("inspect", ROW, "--json").data
    by_lookup = filled.run("inspect", "Listing", "id=1", "--json").data
    assert by_key["token"] == by_lookup["token"]


def test_lists_results_absences_and_derived_values_are_decoded(filled: Application) -> None:
    assert filled.run("inspect", "Listing", "seller=1", "--json").data["content"] == {"rows": 5}
    shown = filled.run("inspect", "Listing", "seller=1", "--json", "--values").data["content"]
    assert shown == {"rows": 5, "primary keys": ["1", "2", "3", "4", "5"]}
    assert filled.run("inspect", "Listing.marks", "1", "--json").data["content"] == {"rows": 1}
    assert filled.run("inspect", "Listing", "slug=secret-none", "--json").data["content"] == "no such row"
    index = filled.run("inspect", "Listing", "slug=secret-1", "--json").data
    assert (index["content"], index["epoch"]) == ({"rows": 1}, "any")
    assert filled.run("inspect", "ListingCount", "1", "--json", "--values").data["content"] == "5"
    derived = filled.run("inspect", "titles", "1", "--json").data
    assert derived["content"] == "<list> of 5"
    assert {each["state"] for each in derived["dependencies"]} == {"unchanged"}


def test_intents_and_leases_name_the_process_that_made_them(filled: Application) -> None:
    async def inspected(cache: ModelCache) -> tuple[list[str | None], str]:
        await cache.fleet()  # publishes this process
        key, leased = ROW.encode(), ROW.replace("i1", "i77")
        await cache.backend.mark([key], new_token(), 20_000)
        await cache.backend.mark([key], b"of a process that has ended"[:16], 20_000)
        await cache.backend.lease([Lease(leased.encode())], new_token(), 20_000)
        shown = [await asyncio.to_thread(filled.process, "inspect", each, "--json") for each in (ROW, leased)]
        owners = [each["owner"] for each in shown[0].data["intents"]] + [shown[1].data["owner"]]
        return owners, cache.worker.name

    owners, name = filled.do(inspected, publish_stats=True)
    assert owners == [name, None, name]


def test_the_intents_of_writers_are_listed_with_their_age(filled: Application) -> None:
    async def mark(cache: ModelCache) -> None:
        for _ in range(2):
            await cache.backend.mark([ROW.encode()], new_token(), 20_000)

    filled.do(mark)
    data = filled.run("inspect", ROW, "--json").data
    assert (data["state"], data["content"], data["token"]) == ("written", None, None)
    assert len(data["intents"]) == 2
    for intent in data["intents"]:  # with 20 of 30 seconds left when it was made
        assert 10 <= intent["age"] < 30
        assert intent["live"]
    assert "intent" in filled.run("inspect", ROW).out


def test_the_lease_of_a_reader_is_named(filled: Application) -> None:
    key = b"shop:amc:r:default:listing:i99"

    async def lease(cache: ModelCache) -> None:
        await cache.backend.lease([Lease(key)], new_token(), 5_000)

    filled.do(lease)
    data = filled.run("inspect", key.decode(), "--json").data
    assert (data["state"], data["content"]) == ("leased", None)
    assert data["expires_in"] <= 5


def test_a_row_from_before_a_clear_is_named(filled: Application) -> None:
    async def clear(cache: ModelCache) -> None:
        await Listing.cache.clear()

    filled.do(clear)
    data = filled.run("inspect", ROW, "--json").data
    assert data["state"] == "cleared"
    assert data["content"] is None


def test_versions_and_missing_keys_are_told_apart(filled: Application) -> None:
    data = filled.run("inspect", "shop:amc:e:default:listing", "--json").data
    assert (data["cache"], data["kind"], data["state"]) == ("epoch of Listing", "epoch", "version")
    assert filled.run("inspect", "Listing", "id=77", "--json").data["state"] == "missing"


def test_a_key_of_no_declaration_is_an_error_without_the_key(filled: Application) -> None:
    ran = filled.run("inspect", "shop:amc:r:default:other:ssecret", status=2)
    assert "No declaration has this key. The keys of this application begin with shop:amc" in ran.err
    assert "secret" not in ran.err


def test_it_runs_as_a_process_on_a_terminal_and_piped(filled: Application) -> None:
    assert "\x1b[32mhit" in filled.terminal("inspect", "Listing", "id=1")
    out = filled.process("inspect", "Listing", "id=1").out
    assert "\x1b" not in out
    assert "title      <str>\n" in out
