"""Dead code, as Vulture finds it: what nothing uses but tests, and no page tells users of."""

import re
from pathlib import Path

import pytest
from vulture import Vulture

ROOT = Path(__file__).parents[2]
CODE = ["aiomodelcache", "pytest_aiomodelcache.py", "soak", "benchmarks", "examples"]
KINDS = {"function", "method", "property", "class"}
"""Kinds of code that are looked for, besides constants. Ruff finds imports, and attributes may be read by name."""

CALLED_BY_OTHERS = {
    "__getattr__",  # by Python
    "connection_made",  # by the event loop
    "on_app_init",  # by Litestar
    "on_broken_pipe",  # by Rich
    "post_execute", "pre_execute", "set_broker",  # by Taskiq
    "pytest_addoption", "pytest_configure", "pytest_runtest_protocol",  # by pytest
    "PlainShipment", "Shipment",  # by Tortoise
}  # fmt: skip
FOR_TYPE_CHECKERS = {
    "SupportsEpochsSince", "SupportsNodes", "SupportsStartRead", "SupportsTracking",  # in casts
    "Partitioned", "ReadsTogether",  # for authors of stores
    "force_index", "use_index",  # for callers of querysets
}  # fmt: skip
FOR_TESTS = {"clear_attempts", "TINY"}
ALIVE = CALLED_BY_OTHERS | FOR_TYPE_CHECKERS | FOR_TESTS


def dead_code(*paths: Path) -> dict[str, str]:
    """Returns the names below these paths that nothing there uses, each with its place."""
    finder = Vulture()
    finder.scavenge(map(str, paths))
    unused = [each for each in finder.get_unused_code() if each.typ in KINDS or each.name.isupper()]
    return {each.name: f"{each.filename}:{each.first_lineno}" for each in unused}


@pytest.mark.slow(because="reads all code")
def test_nothing_is_dead() -> None:
    """All code is used, documented or listed above, and the lists name nothing else."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    words = {
        word for page in pages if page.name != "CHANGELOG.md" for word in re.findall(r"\w+", page.read_text("utf-8"))
    }
    dead = {name: at for name, at in dead_code(*[ROOT / each for each in CODE]).items() if name not in words}
    assert {name: at for name, at in dead.items() if name not in ALIVE} == {}
    assert dead.keys() == ALIVE


@pytest.mark.parametrize("dead", ["def dead() -> None: ...", "class dead: ..."])
def test_code_that_nothing_uses_is_found(tmp_path: Path, dead: str) -> None:
    module = tmp_path / "module.py"
    module.write_text(f"def used() -> None: ...\nused()\n{dead}\nLIMIT: Final = 1\n")
    assert dead_code(module) == {"dead": f"{module}:3", "LIMIT": f"{module}:4"}
