"""The examples in docstrings run, and print the output that they show."""

import ast
import asyncio
import contextlib
import doctest
import gc
import importlib
import inspect
import io
import pkgutil
import struct
from collections.abc import Iterator
from decimal import Decimal
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from tortoise.expressions import F
from tortoise.transactions import in_transaction

import aiomodelcache
from aiomodelcache import MemoryBackend, ModelCache, observe, testing
from aiomodelcache.backends.protocol import Fill, Lease
from aiomodelcache.engine.load_limit import LoadLimit
from tests.support.databases import DatabaseUrl, tortoise_on
from tests.support.models import docstring_models

REDIS = "redis://localhost:6379/0"
OWN_CACHE = {
    "aiomodelcache.testing.counting_backend.CountingBackend",
    "aiomodelcache.testing.isolation.isolated_cache",
    "aiomodelcache.testing.transactions.transaction_as_autocommit",
}
"""Examples that open their cache themselves."""
DECLARES = ("class ", "@")
"""Beginnings of the source that declares a class or a cached function."""
SAME = doctest.OutputChecker()


class Point(NamedTuple):
    x: float
    y: float


async def answer_of_a_service(*_: Any) -> Any:
    return SimpleNamespace(quota=1, final=True)


def examples() -> Iterator[doctest.DocTest]:
    found: dict[str, doctest.DocTest] = {}
    for module in pkgutil.walk_packages(aiomodelcache.__path__, "aiomodelcache."):
        for test in doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(module.name)):
            found[test.name] = test
    return (test for name, test in sorted(found.items()) if test.examples)


@pytest.fixture
def names(test: doctest.DocTest) -> Iterator[dict[str, Any]]:
    """The names that the example may use without an import."""
    names: dict[str, Any] = {"__name__": "example", "F": F, "Decimal": Decimal, "Point": Point, "struct": struct}
    for module in (aiomodelcache, testing, docstring_models):
        names.update({name: value for name, value in vars(module).items() if not name.startswith("_")})
    names |= {"asyncio": asyncio, "pks": [1, 2], "LoadLimit": LoadLimit}
    names |= {"Lease": Lease, "Fill": Fill, "in_transaction": in_transaction, "MyBackend": MemoryBackend}
    names |= {"Observer": observe.Observer, "Operation": observe.Operation, "Statement": observe.Statement}
    names |= {"Starlette": Starlette, "Middleware": Middleware, "routes": []}
    names |= {"app": Starlette(), "Request": Request}
    names |= dict.fromkeys(("ask_the_exchange", "ask_the_directory", "ask_billing"), answer_of_a_service)
    yield names
    names.clear()
    if any(example.source.startswith(DECLARES) for example in test.examples):
        gc.collect()  # what it declares must not be found by other examples


@pytest.mark.only_on("sqlite", because="examples are read, not run, on databases")
@pytest.mark.only_on("redis", because="examples are read, not run, on stores; one is about this one")
@pytest.mark.parametrize("test", list(examples()), ids=lambda test: test.name.removeprefix("aiomodelcache."))
async def test_the_example_runs(
    test: doctest.DocTest, names: dict[str, Any], db_url: DatabaseUrl, backend_url: str
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(tortoise_on(DatabaseUrl(db_url, "default"), docstring_models.__name__))
        await docstring_models.create_rows()
        names["user"] = await docstring_models.User.get(id=7)
        names["venue"] = await docstring_models.Venue.get(id=1)
        names["events"] = await docstring_models.Event.all()
        names["event"] = names["events"][0]
        for example in test.examples:  # classes must be declared before the cache opens
            if not example.source.startswith(DECLARES) and "cache" not in names and test.name not in OWN_CACHE:
                names["cache"] = await stack.enter_async_context(ModelCache(backend_url))
                await docstring_models.Event.cache.get(slug="pycon")
            printed = await run(example.source.replace(REDIS, backend_url), names)
            if example.want:
                assert SAME.check_output(example.want, printed, doctest.ELLIPSIS), printed


async def run(source: str, names: dict[str, Any]) -> str:
    """Runs the source behind one prompt, and returns the output that an interpreter would print."""
    tree = ast.parse(source)
    mode = "eval" if isinstance(tree.body[0], ast.Expr) else "exec"
    code = compile(source, "<example>", mode, flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    with contextlib.redirect_stdout(io.StringIO()) as output:
        result = eval(code, names)
        if inspect.iscoroutine(result):
            result = await result
    return output.getvalue() if result is None else f"{result!r}\n"
