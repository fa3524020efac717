"""``aiomodelcache check``."""

import json
import sys
from typing import Any, cast

import pytest

from tests.support.application import Application

BROKEN = """
from tests.support.models.shop_models import Listing
from aiomodelcache import QuerysetCache

class Broken(QuerysetCache[Listing]):
    model = Listing
    key_fields = ("colour",)
"""

UNCACHED = """
from tests.support.models.shop_models import Order
from aiomodelcache import cached

@cached(depends_on=Order)
async def orders() -> int:
    return 0
"""


def test_check_lists_every_declaration_without_a_server(application: Application) -> None:
    data = application.run("check", "--json", "--url", "redis://127.0.0.1:1").data
    assert (data["ok"], data["error"]) == (True, None)
    kinds = {row["name"]: row["kind"] for row in data["caches"]}
    assert (
        kinds.items()
        >= {
            "Listing": "model",
            "Listing.marks": "many-to-many",
            "Latest": "QuerysetCache",
            "ListingCount": "QuerysetCountCache",
            "Rate": "ValueCache",
            "titles": "@cached",
        }.items()
    )
    [listing] = [row for row in data["caches"] if row["name"] == "Listing"]
    assert listing["keys"] == "get (id), (slug); filter (seller), (public), (other)"


def test_check_names_a_wrong_declaration_and_ends_with_status_1(application: Application) -> None:
    (application.folder / "broken.py").write_text(BROKEN)
    application.keys = {"imports": '["tests.support.models.shop_models", "broken"]'}
    application.configure()
    ran = application.process("check", status=1)
    assert ran.out.startswith("error Broken: key_fields names 'colour'")
    assert ran.err == ""
    data = json.loads(application.process("check", "--json", status=1).out)
    assert data["ok"] is False
    assert data["error"].startswith("Broken: key_fields names 'colour'")


def test_check_names_a_model_without_a_cache_that_a_function_depends_on(application: Application) -> None:
    (application.folder / "uncached.py").write_text(UNCACHED)
    application.keys = {"imports": '["tests.support.models.shop_models", "uncached"]'}
    application.configure()
    assert "Order is not bound to the open cache" in application.process("check", status=2).err


def test_check_has_colours_and_lines_only_on_a_terminal(application: Application) -> None:
    piped = application.process("check").out
    assert piped.splitlines()[0].split() == ["name", "kind", "keys", "timeout", "invalidation"]
    assert "\x1b" not in piped
    assert "declarations, no fault found" in piped
    shown = application.terminal("check")
    assert "\x1b[" in shown
    assert "─" in shown


def test_objects_that_are_no_modules_do_no_harm(application: Application, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "odd_object", cast("Any", object()))
    monkeypatch.setitem(sys.modules, "odd_none", cast("Any", None))
    assert application.run("check", "--json").data["ok"] is True
