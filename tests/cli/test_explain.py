"""``aiomodelcache explain``, and the values that all commands take."""

import pytest

from aiomodelcache import ModelCache
from tests.support.application import MODULE, Application
from tests.support.models.shop_models import Seller


@pytest.mark.parametrize(
    ("arguments", "reason", "kinds"),
    [
        (("Listing", "slug=secret-1"), "hit", ["index", "row"]),
        (("Listing", "id=1"), "hit", ["row"]),
        (("app.Listing", "pk=1"), "hit", ["row"]),
        (("Listing", "id:=1"), "hit", ["row"]),
        (("Listing", "slug=secret-none"), "negative", ["index"]),
        (("Listing", "id=77"), "missing", ["row"]),
        (("Listing", "seller=1"), "hit", ["list", *["row"] * 5]),
        (("Listing", "public=true"), "missing", ["list"]),
        (("Listing", "other:=null"), "missing", ["list"]),
        (("Listing.marks", "1"), "hit", ["many-to-many", "row"]),
        (("Listing.marks", "id=1"), "hit", ["many-to-many", "row"]),
        (("Latest", "1"), "hit", ["list", "row", "row", "row"]),
        (("Latest", "seller=1"), "hit", ["list", "row", "row", "row"]),
        (("ListingCount", "seller=1"), "hit", ["result"]),
        (("Rate", "secret-rate"), "hit", ["value"]),
        (("Rate", "base=secret-rate", "times=2"), "missing", ["value"]),
        (("titles", "1"), "hit", ["value"]),
        (("tests.support.models.shop_models.titles", "seller=1"), "hit", ["value"]),
    ],
)
def test_every_kind_of_lookup_is_explained(
    filled: Application, arguments: tuple[str, ...], reason: str, kinds: list[str]
) -> None:
    data = filled.run("explain", *arguments, "--json").data
    assert data["reason"] == reason
    assert data["source"] == ("cache" if reason in ("hit", "negative") else "database")
    assert [entry["kind"] for entry in data["entries"]] == kinds
    assert "secret" not in str(data)


WALK = """
from tests.support.models.shop_models import Listing, Seller
from aiomodelcache import RelatedInstanceCache

class SellerOf(RelatedInstanceCache[Seller]):
    model = Listing
    key_fields = ("slug",)
    relation = "seller"
"""


def test_a_walk_over_a_relation_is_explained_entry_by_entry(filled: Application) -> None:
    (filled.folder / "walk.py").write_text(WALK)
    filled.keys = {"imports": f'["{MODULE}", "walk"]'}
    filled.configure()
    filled.run("invalidate", "Seller", "id=1")
    data = filled.process("explain", "SellerOf", "secret-1", "--json").data
    assert (data["reason"], data["source"]) == ("missing", "database")
    assert [(each["cache"], each["state"]) for each in data["entries"]] == [
        ("Listing (slug)", "hit"),
        ("Listing", "hit"),
        ("Seller", "missing"),
    ]
    filled.do(read_seller)
    data = filled.process("explain", "SellerOf", "secret-1", "--json").data
    assert (data["reason"], data["source"]) == ("hit", "cache")
    assert [each["kind"] for each in data["entries"]] == ["index", "row", "row"]


async def read_seller(cache: ModelCache) -> None:
    await Seller.cache.get(id=1)


async def rename_seller(cache: ModelCache) -> None:
    await Seller.filter(id=1).update(name="lee")


def test_the_dependencies_of_a_cached_function_are_listed_and_the_changed_one_is_named(filled: Application) -> None:
    data = filled.run("explain", "titles", "1", "--json").data
    states = {each["cache"]: each["state"] for each in data["dependencies"]}
    assert states["Seller"] == states["table version of listing"] == "unchanged"
    filled.do(rename_seller)
    data = filled.run("explain", "titles", "1", "--json").data
    assert (data["source"], data["reason"]) == ("database", "changed")
    states = {each["cache"]: each["state"] for each in data["dependencies"]}
    assert states["Seller"] == "missing"
    assert states["table version of listing"] == "unchanged"
    filled.do(read_seller)
    data = filled.run("explain", "titles", "1", "--json").data
    states = {each["cache"]: each["state"] for each in data["dependencies"]}
    assert states["Seller"] == "changed"
    assert states["table version of listing"] == "unchanged"


def test_explain_stores_nothing(filled: Application) -> None:
    with filled.redis.client() as client:
        before = sorted(client.keys())
        filled.run("explain", "Listing", "id=77")
        filled.run("explain", "Rate", "other")
        assert sorted(client.keys()) == before


def test_values_are_shown_only_if_asked_for(filled: Application) -> None:
    arguments = ("explain", "Listing", "slug=secret-1")
    assert "slug:<str>" in filled.run(*arguments).out
    assert "secret" not in filled.run(*arguments).out
    shown = filled.run(*arguments, "--values").out
    assert "shop:amc:i:default:listing:slug:ssecret-1" in shown
    assert "shop:amc:r:default:listing:i1" in shown


def test_explain_has_colours_only_on_a_terminal(filled: Application) -> None:
    piped = filled.process("explain", "Listing", "slug=secret-1").out
    assert "\x1b" not in piped
    assert "reason  hit\n" in piped
    assert "\x1b[32mhit\x1b[0m" in filled.terminal("explain", "Listing", "slug=secret-1")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("Nothing",), "Nothing cached is called Nothing. There are: "),
        (("Listin",), "There are: Listing"),
        (("Listing.sellers", "1"), "name sellers in cached_manytomany of Listing"),
        (("Listing", "1"), "Listing takes the values of a key by name, like slug=pycon."),
        (("Listing", "id=1", "id=2"), "id is given twice."),
        (("Listing", "id=secret"), "Listing.id cannot have this value, which no IntField accepts."),
        (("Listing", "public=maybe"), "Listing.public cannot have this value"),
        (("Listing", "other=x"), "NULL is written as other:=null."),
        (("Listing", "id:=x"), "Listing.id: the text after := is not JSON."),
        (("Listing", "colour=red"), "Listing has no field colour. Its fields: id, marks, other"),
        (("Listing", "title=x"), "Listing has no cache by (title). Keys that exist: get (id), (slug)"),
        (("Listing.marks", "slug=x"), "Listing.marks takes the primary key of one Listing, like id=7."),
        (("Latest", "1", "2"), "Latest takes its key (seller)"),
        (("Latest",), "Latest takes its key (seller)"),
        (("titles",), "missing a required argument: 'seller'"),
        (("titles", "secret"), "titles: an argument must be of the type int."),
        (("titles", "buyer=1"), "titles has no argument buyer. Its arguments: seller."),
    ],
)
def test_a_wrong_target_or_value_is_an_error_with_the_remedy(
    filled: Application, arguments: tuple[str, ...], expected: str
) -> None:
    ran = filled.run("explain", *arguments, status=2)
    assert expected in ran.err
    assert "secret" not in ran.err
    assert ran.out == ""
