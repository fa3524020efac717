"""The architecture of the package: its import order, its public names, and imports without side effects."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import aiomodelcache
from aiomodelcache import testing

PACKAGE = Path(aiomodelcache.__file__).parent

ORDER = [
    "__main__", "cli", "testing", "contrib", "inspection", "aiomodelcache", "client", "views", "verifier", "binding",
    "declare", "relay", "write", "query", "open_cache", "engine", "plans", "entries", "orm", "backends", "encoding",
    "scopes", "config", "requirements", "observe", "durations", "garbage", "exceptions",
]  # fmt: skip
"""Packages and modules, top to bottom. Each imports only from those below it.

The order inside a package is that in which its docstring names its modules and packages.
"""

MAX_FLOORS = 13
"""Maximum number of floors. A change that needs another one has a type or a function at the wrong place."""

USES_META = {"orm.meta"}
"""Modules that may use Tortoise's private ``_meta``. A new version of Tortoise affects only these."""

MAX_LINES = 350
"""Maximum number of lines of a module. A longer module usually has two concepts, so it fails a test."""
MAX_LINES_EXCEPT = {"testing.conformance"}
"""Modules that may be longer: a conformance suite is one list of tests."""


def module_paths() -> dict[str, Path]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


MODULES = module_paths()


def import_module(name: str) -> ModuleType:
    return importlib.import_module(f"aiomodelcache.{name}".rstrip("."))


WITH_CODE = {"", "observe", "relay", "testing", "contrib.dashboard"}
"""Packages whose ``__init__`` defines public names."""
PACKAGES = {name for name, path in MODULES.items() if path.name == "__init__.py"} - WITH_CODE
"""Packages whose ``__init__`` is a floor plan without code."""


def floor_plan(package: str) -> list[str]:
    """Returns the modules and the packages of a package, top to bottom, as its docstring names them."""
    own = {name.rpartition(".")[2] for name in MODULES if name.rpartition(".")[0] == package}
    text = ast.get_docstring(ast.parse(MODULES[package].read_text("utf-8"))) or ""
    return [name for name in re.findall(r"``(\w+)``", text.partition("Top to bottom:")[2]) if name in own]


PLANS = {package: floor_plan(package) for package in (PACKAGES | WITH_CODE) - {""}}
"""The floor plans of all packages but the outermost one, whose plan is ``ORDER``."""


def places_in(name: str) -> list[str]:
    """Returns a module, or the modules of a package, top to bottom: first its ``__init__`` if that has code."""
    inner = [place for each in PLANS.get(name, []) for place in places_in(f"{name}.{each}")]
    return inner if name in PACKAGES else [name, *inner]


PLACES = [place for name in ORDER for place in places_in("" if name == "aiomodelcache" else name)]
"""All modules that have code, top to bottom."""


def imported(name: str, source: str) -> set[str]:
    """Returns the modules of this package that the source of module ``name`` imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name or '__init__'}: a relative import"
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    own = {each.partition(".")[2] for each in names if each.partition(".")[0] == "aiomodelcache"}
    return {each for each in own if each in MODULES and each not in PACKAGES}


def test_every_module_is_in_the_import_order() -> None:
    assert sorted(PLACES) == sorted(set(MODULES) - PACKAGES)


def test_a_module_imports_only_from_modules_below_it() -> None:
    below = set(PLACES)
    climbing: dict[str, set[str]] = {}
    for name in PLACES:
        below.remove(name)
        # `from aiomodelcache import config` names the package as well as the module.
        climbing[name] = imported(name, MODULES[name].read_text("utf-8")) - below - {""}
    assert {name: sorted(found) for name, found in climbing.items() if found} == {}


def floors() -> dict[str, int]:
    """Returns the floor of each package, one above the highest package that it imports from. The lowest are on 1."""
    found: dict[str, int] = {}
    for package in reversed([each for each in ORDER if each != "aiomodelcache"]):
        modules = [name for name in PLACES if name.partition(".")[0] == package]
        names = {each for name in modules for each in imported(name, MODULES[name].read_text("utf-8"))}
        below = {name.partition(".")[0] for name in names} - {package, ""}
        found[package] = 1 + max((found[each] for each in below), default=0)
    return found


def test_the_documented_number_of_floors_is_that_of_the_imports() -> None:
    documented = re.search(
        r"packages stand on (\d+) floors", (PACKAGE.parent / "docs/architecture.md").read_text("utf-8")
    )
    assert documented is not None
    assert int(documented[1]) == max(floors().values()), floors()
    assert int(documented[1]) <= MAX_FLOORS


def test_imports_in_functions_and_for_type_checkers_count() -> None:
    source = """
from typing import TYPE_CHECKING
from aiomodelcache import config
if TYPE_CHECKING:
    from aiomodelcache.client import ModelCache
if not TYPE_CHECKING:
    from aiomodelcache.scopes.request import local_cache
def late() -> None:
    import aiomodelcache.write.saves
"""
    assert imported("", source) == {"", "client", "config", "scopes.request", "write.saves"}


@pytest.mark.parametrize("name", sorted(PACKAGES))
def test_the_init_of_a_floor_plan_has_no_code(name: str) -> None:
    assert [type(node) for node in ast.parse(MODULES[name].read_text("utf-8")).body] == [ast.Expr]


def test_a_module_has_at_most_the_maximum_number_of_lines() -> None:
    lines = {name: len(MODULES[name].read_text("utf-8").splitlines()) for name in PLACES}
    assert {name for name, count in lines.items() if count > MAX_LINES} <= MAX_LINES_EXCEPT


def test_only_one_module_uses_the_private_meta_of_models() -> None:
    users = {
        name
        for name, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if (isinstance(node, ast.Attribute) and node.attr == "_meta")
        or (isinstance(node, ast.Constant) and node.value == "_meta")
    }
    assert users == USES_META


def test_all_public_names_are_exported_and_sorted() -> None:
    names = aiomodelcache.__all__
    constants, classes, functions = (
        [name for name in names if name.isupper()],
        [name for name in names if name[0].isupper() and not name.isupper()],
        [name for name in names if name.islower()],
    )
    assert names == [*constants, *classes, *functions]  # as ruff sorts
    assert classes == sorted(classes)
    assert functions == sorted(functions)
    assert len(set(names)) == len(names)
    assert [name for name in names if not hasattr(aiomodelcache, name)] == []
    known = {name for name, value in vars(aiomodelcache).items() if not isinstance(value, ModuleType)}
    assert {name for name in known if not name.startswith("_")} == set(names)


def documentation(value: object) -> str | None:
    """Returns the docstring, maybe inherited, or None if ``dataclass`` has generated it."""
    text = inspect.getdoc(value)
    if text and inspect.isclass(value) and text.startswith(f"{value.__name__}("):
        return None
    return text


def undocumented(name: str) -> list[str]:
    """Returns the names of a module, its own too, that have no docstring."""
    module = import_module(name)
    own = {each: value for each, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__}
    found = [
        each
        for each, value in own.items()
        if not each.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and not documentation(value)
    ]
    return found if module.__doc__ else ["the module", *found]


def test_every_module_class_and_function_has_a_docstring() -> None:
    found = {name: undocumented(name) for name in MODULES}
    assert {name: names for name, names in found.items() if names} == {}


@pytest.mark.parametrize("name", [name for name in aiomodelcache.__all__ if not name.isupper()] + testing.__all__)
def test_every_public_method_has_a_docstring(name: str) -> None:
    cls = getattr(aiomodelcache, name, None) or getattr(testing, name)
    own = getattr(cls, "__dict__", {})  # the union of types ``Duration`` has none
    methods = [each for each, value in own.items() if inspect.isfunction(value) or isinstance(value, property)]
    missing = {each for each in methods if not each.startswith("_") and not documentation(getattr(cls, each))}
    # The methods of backends are documented once, in the protocol.
    assert missing <= (vars(aiomodelcache.Backend).keys() if name.endswith("Backend") else set())


TORTOISE = """
import importlib, pkgutil, sys, tortoise

for package in "tortoise.backends.base", "tortoise.backends.sqlite", "tortoise.fields":
    for found in pkgutil.iter_modules(importlib.import_module(package).__path__, f"{package}."):
        importlib.import_module(found.name)

def state():
    return {
        f"{module.__name__}.{name}": dict(vars(value)) if isinstance(value, type) else value
        for module in list(sys.modules.values())
        if module.__name__.split(".")[0] == "tortoise"
        for name, value in vars(module).items()
        if callable(value)
    }

def assert_unchanged(before):
    after = state()
    changed = [name for name, value in before.items() if after[name] != value]
    assert "tortoise.models.Model" in before and not changed, changed
"""

IMPORT = f"""{TORTOISE}
import asyncio, msgspec, redis.asyncio.cluster, redis.asyncio.sentinel  # their side effects do not count

def refuse(event, args):
    writes = event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+")
    assert not writes and event.split(".")[0] not in ("socket", "subprocess", "sqlite3"), (event, args)

before = state()
threads = len(sys._current_frames())
sys.addaudithook(refuse)
import aiomodelcache
assert len(sys._current_frames()) == threads
assert_unchanged(before)
"""

USE = f"""{TORTOISE}
import asyncio
from tortoise import fields
from tortoise.context import TortoiseContext
from tortoise.transactions import in_transaction
from aiomodelcache import CachedModel, ModelCache

class User(CachedModel):
    name = fields.CharField(max_length=10)

class Event(CachedModel):
    owner = fields.ForeignKeyField("app.User")

    class CacheMeta:
        cached_foreignkeys = ["owner"]

async def main():
    async with TortoiseContext() as context:
        await context.init(db_url="sqlite://:memory:", modules={{"app": ["__main__"]}})
        await context.generate_schemas()
        before = state()
        async with ModelCache("memory://"):
            user = await User.create(name="kim")
            async with in_transaction():
                event = await Event.create(owner=user)
            assert await (await Event.cache.get(id=event.id)).owner == user
            assert_unchanged(before)

asyncio.run(main())
"""


@pytest.mark.slow(because="runs programs in processes of their own")
@pytest.mark.parametrize("program", [IMPORT, USE], ids=["importing", "using"])
def test_nothing_in_tortoise_is_patched_and_importing_does_no_io(program: str) -> None:
    run = subprocess.run([sys.executable, "-B", "-c", program], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
