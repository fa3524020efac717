"""The shape of the package: who may import whom, what is public, and that importing it does nothing."""

import ast
import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TypeGuard

import pytest

import aiomodelcache
from aiomodelcache import testing

PACKAGE = Path(aiomodelcache.__file__).parent

LAYERS = {
    "exceptions": "what can go wrong; needs nothing",
    "config": "settings, refused by an exception",
    "encoding.keys": "values to key bytes; pure",
    "encoding.layout": "the bytes of an entry; pure",
    "encoding.codec": "values to payload bytes; pure",
    "entries.policy": "how long entries live and what writes do to them; settings and bytes",
    "backends.near": "entries kept in this process; bytes, no server",
    "backends.protocol": "what the cache needs of a store",
    "backends.memory": "a store in this process",
    "backends.redis.incarnation": "whether Redis has lost something since a connection was made",
    "backends.redis.connection": "bytes to and from one Redis server; knows no command",
    "backends.redis.clients": "connections to Redis, by whatever address",
    "backends.redis.backend": "a store in Redis, over such connections",
    "observe.stats": "counters, for everything below to count in",
    "engine.tasks": "ticks and tasks; knows no cache",
    "engine.batching": "batches that wait for each other; knows no cache",
    "scopes.request": "the request's scope; knows keys and instances only",
    "scopes.bypass": "whether a cache is used here; knows none",
    "orm.fields": "what a single field's values become, in an entry and in a row",
    "orm.schema": "what a Tortoise model looks like: columns, values, connection",
    "orm.hydrate": "rows of a schema's table, made into instances",
    "entries.rows": "row and index entries: schema, keys and entries together",
    "entries.many_to_many": "many-to-many lists: indexes whose values are in another table",
    "orm.select": "what writers need to know of models, cached or not",
    "plans.requests": "what look-ups ask for on their way, and what they are answered; without I/O",
    "plans.steps": "what look-ups of every kind do: lease, wait, load, store",
    "plans.refresh": "entries filled again in the background",
    "plans.rows": "how rows are found by primary key",
    "plans.indexes": "how rows are found by the values of an index, over rows",
    "plans.results": "computed entries: their keys and bytes, and how a look-up of them proceeds",
    "backends.breaker": "the way to a backend, with its breaker",
    "engine.batch_read": "what is read in one tick, over the link",
    "engine.loader": "rows from the database, as plans ask for them",
    "engine.reader": "runs plans over link and loads",
    "engine.writer": "sends what writers announce, over the link",
    "entries.model": "one model in one open cache: its rows and indexes by the names of fields",
    "write.affected": "the keys that a written row touches, for an intent",
    "write.cascades": "the rows that the database deletes along, touched too",
    "plans.paths": "how a look-up proceeds along relations, over plans and bound models",
    "open_cache": "one open cache: the reader and the writer over its bound models",
    "query.lookups": "look-ups as objects, made of plans, answered by a session",
    "query.bulk": "queries by many values of one key",
    "query.batch": "queries that are made together",
    "query.many_to_many": "queries of many-to-many lists",
    "query.explain": "where a query would be answered from",
    "write.transactions": "intents gathered until a COMMIT, for a session",
    "write.manual": "rows named by hand, turned into intents",
    "declare.options": "the settings of a declaration, checked for form",
    "declare.classes": "what users declare: cache classes are queries",
    "declare.values": "what users declare of values that depend on no model",
    "declare.related": "what users declare of rows at the end of relations",
    "binding.class_options": "what cache classes of each kind may set",
    "binding.paths": "the relations that declarations name, resolved into the ways of walks",
    "binding.factory": "rows, indexes and results, made of declarations",
    "binding.binder": "declarations resolved against schemas",
    "orm.statements": "SQL that says which rows it wrote, or locks those that will be written",
    "write.querysets": "bulk writes, turned into intents",
    "write.saves": "saves and deletes, turned into intents",
    "write.many_to_many": "links of many-to-many relations, turned into intents",
    "write.update": "some columns of one row, by a save that is captured",
    "query.foreign_keys": "relations answered by queries",
    "query.prefetch": "relations of many instances, filled by queries",
    "declare.manager": "Event.cache: makes queries; the model class whose writes are watched",
    "client": "puts everything together",
    "": "the public surface",
    "contrib.asgi": "a request's scope in ASGI applications; knows no framework",
    "testing.transactions": "transactions of tests that look like autocommit mode; knows connections, not caches",
    "testing.counting": "what is sent, counted, for tests of applications",
    "testing.isolation": "a cache for one test",
    "testing": "the public surface of tests",
    "testing.conformance": "what every backend must do; needs pytest",
}
"""Every module of the package, with what it is to the others: each may import only those above it."""

USES_META = {"orm.schema"}
"""Modules that may touch Tortoise's private ``_meta``, so that a new Tortoise is checked in one place."""

EMPTY = {
    "backends",
    "backends.redis",
    "binding",
    "contrib",
    "declare",
    "encoding",
    "engine",
    "entries",
    "observe",
    "orm",
    "plans",
    "query",
    "scopes",
    "write",
}
"""Packages without code of their own."""


def module_paths() -> dict[str, Path]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


MODULES = module_paths()


def import_module(name: str) -> ModuleType:
    return importlib.import_module(f"aiomodelcache.{name}".rstrip("."))


def is_for_type_checkers(node: ast.AST) -> TypeGuard[ast.If]:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def running_code(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes, imports inside functions included, but not what only type checkers see."""
    yield node
    children = node.orelse if is_for_type_checkers(node) else ast.iter_child_nodes(node)
    for child in children:
        yield from running_code(child)


def imported(name: str, source: str) -> set[str]:
    """The package's own modules that the source of module ``name`` imports."""
    names: set[str] = set()
    for node in running_code(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name or '__init__'}: a relative import"
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    own = {each.partition(".")[2] for each in names if each.partition(".")[0] == "aiomodelcache"}
    return {each for each in own if each in MODULES and each not in EMPTY}


def test_every_module_has_its_place_in_the_list() -> None:
    assert set(MODULES) - EMPTY == set(LAYERS)


@pytest.mark.parametrize("name", [pytest.param(name, id=name or "__init__") for name in LAYERS])
def test_a_module_imports_only_those_above_it(name: str) -> None:
    above = list(LAYERS)[: list(LAYERS).index(name)]
    # `from aiomodelcache import keys` names the package as well as the module.
    below = imported(name, MODULES[name].read_text("utf-8")) - set(above) - {""}
    assert not below, f"{name} imports {sorted(below)}"


def test_an_import_inside_a_function_counts_and_one_for_type_checkers_does_not() -> None:
    source = """
from typing import TYPE_CHECKING
from aiomodelcache import config
if TYPE_CHECKING:
    from aiomodelcache.client import ModelCache
else:
    from aiomodelcache.scopes.request import local_cache
def late() -> None:
    import aiomodelcache.write.saves
"""
    assert imported("", source) == {"", "config", "scopes.request", "write.saves"}


def test_packages_are_only_folders() -> None:
    for name in EMPTY:
        tree = ast.parse(MODULES[name].read_text("utf-8"))
        assert [type(node) for node in tree.body] == [ast.Expr], name


def test_only_schema_touches_the_meta_of_models() -> None:
    users = {
        name
        for name, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if (isinstance(node, ast.Attribute) and node.attr == "_meta")
        or (isinstance(node, ast.Constant) and node.value == "_meta")
    }
    assert users == USES_META


def test_the_public_names_are_sorted_and_there() -> None:
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
    """The docstring; a method that overrides another one inherits its. What ``dataclass`` writes does not count."""
    text = inspect.getdoc(value)
    if text and inspect.isclass(value) and text.startswith(f"{value.__name__}("):
        return None
    return text


@pytest.mark.parametrize("name", [pytest.param(name, id=name or "__init__") for name in MODULES])
def test_every_module_class_and_function_has_a_docstring(name: str) -> None:
    module = import_module(name)
    own = {each: value for each, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__}
    undocumented = [
        each
        for each, value in own.items()
        if not each.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and not documentation(value)
    ]
    assert module.__doc__
    assert undocumented == []


@pytest.mark.parametrize("name", [name for name in aiomodelcache.__all__ if not name.isupper()] + testing.__all__)
def test_every_public_method_has_a_docstring(name: str) -> None:
    cls = getattr(aiomodelcache, name, None) or getattr(testing, name)
    methods = [each for each, value in vars(cls).items() if inspect.isfunction(value) or isinstance(value, property)]
    undocumented = [each for each in methods if not each.startswith("_") and not documentation(getattr(cls, each))]
    if name.endswith("Backend"):
        assert set(undocumented) <= vars(aiomodelcache.Backend).keys()  # what backends do is said once, there
    else:
        assert undocumented == []


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
import asyncio, msgspec, redis.asyncio.cluster, redis.asyncio.sentinel  # what they do is their own affair

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
def test_nothing_is_patched_in_tortoise_and_importing_does_no_io(program: str) -> None:
    run = subprocess.run([sys.executable, "-B", "-c", program], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
