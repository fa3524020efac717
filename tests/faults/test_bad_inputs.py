"""Bad inputs of every kind to the public API: the plain answer of Tortoise, or an error that names class and field.

Tortoise's own queryset is the oracle for values. Never a row that it does not find, never another exception, no hang.
"""

import asyncio
import datetime as dt
import enum
import gc
import re
import sys
from collections.abc import Awaitable, Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import fields
from functools import partial
from inspect import isawaitable, signature
from pathlib import Path
from typing import Any

import pytest
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import DoesNotExist, FieldError

from aiomodelcache import (
    BatchCacheQuery,
    CacheConfig,
    CacheConfigurationError,
    CacheNotRegistered,
    MemoryBackend,
    ModelCache,
    RedisBackend,
    cached,
    local_cache,
)
from aiomodelcache.contrib.http import ResponseSettings, cached_response
from aiomodelcache.declare.options import CLASS_ATTRIBUTES, META_ATTRIBUTES
from tests.support.bad_values import ALL, NAMES, URLS, Hostile, Liar
from tests.support.effort import share
from tests.support.models.bad_input_models import (
    FIELDS,
    ROWS,
    UNIQUE,
    Thing,
    ThingByName,
    ThingCount,
    ThingsByText,
    ThingsExist,
    ThingTexts,
)

pytestmark = pytest.mark.models("tests.support.models.bad_input_models")

HANG = 20
"""Seconds after which a call counts as hanging."""


@pytest.fixture
async def things(database: BaseDBAsyncClient) -> list[Thing]:
    rows = [dict(row) for row in ROWS]
    if database.capabilities.dialect == "sqlite":
        for row in rows:
            row.pop("clock", None)
    return [await Thing.create(**row) for row in rows]


async def plain(field: str, value: Any) -> set[int] | None:
    """The primary keys that Tortoise finds; None if it or the database refuses the value."""
    try:
        return {row.id for row in await Thing.filter(**{field: value})}
    except Exception:
        return None


async def pks(query: Any) -> Any:
    """Awaits a query. Returns the primary keys of its rows, or its number or truth value."""
    answer = await query
    if isinstance(answer, bool | int):
        return answer
    rows = [answer] if isinstance(answer, Thing) else answer.values() if isinstance(answer, dict) else answer or ()
    return {row.id for row in rows}


def first_lookup(field: str, value: Any) -> Any:
    """The lookup of one row, or of a list if the field is not unique."""
    return (Thing.cache.get_or_none if field in UNIQUE else Thing.cache.filter)(**{field: value})


async def in_batch(field: str, value: Any) -> Any:
    return (await BatchCacheQuery({"it": first_lookup(field, value)}))["it"]


async def in_scope(field: str, value: Any) -> Any:
    async with local_cache():
        await first_lookup(field, value)
        return await first_lookup(field, value)


LOOKUPS: dict[str, Callable[[str, Any], Awaitable[Any]]] = {
    "first": first_lookup,
    "batch": in_batch,
    "local_cache": in_scope,
    "exists": lambda field, value: Thing.cache.exists(**{field: value}),
    "count": lambda field, value: Thing.cache.count(**{field: value}),
    "again": first_lookup,
}
BULK_LOOKUPS: dict[str, Callable[[str, Any], Awaitable[Any]]] = {
    "get_many": lambda field, value: Thing.cache.get_many([value], key=field),
    "in_bulk": lambda field, value: Thing.cache.in_bulk([value], key=field),
}


def converted(field: str, value: Any) -> Any:
    """The value that a row holds which was created with ``value``."""
    column = Thing._meta.fields_map[field]
    if issubclass(type(value), str) and not isinstance(value, enum.Enum):
        value = str.__str__(value)  # whatever its methods say
    if field == "day" and isinstance(value, dt.datetime):
        value = value.date()
    return column.to_python_value(column.to_db_value(value, Thing))


async def allowed(field: str, value: Any) -> list[set[int]]:
    """The answers that Tortoise gives for a value, and for the value as a row would hold it."""
    answers = [await plain(field, value)]
    with suppress(Exception):
        answers.append(await plain(field, converted(field, value)))
    return [answer or set() for answer in answers]


def agrees(found: Any, answers: list[set[int]]) -> bool:
    if isinstance(found, set):
        return found in answers
    return found in [bool(rows) if isinstance(found, bool) else len(rows) for rows in answers]


@pytest.mark.exhaustive(because="looks up thousands of values")
@pytest.mark.filterwarnings("ignore")  # of the oracle
@pytest.mark.parametrize("field", FIELDS)
async def test_values_of_keys(cache: ModelCache, things: list[Thing], field: str) -> None:
    lookups = LOOKUPS | (BULK_LOOKUPS if field in UNIQUE else {})
    wrong: list[str] = []
    for at, value in enumerate(share(ALL)):
        answers = await allowed(field, value)
        for name, lookup in lookups.items():
            outcome = await call(lambda lookup, value: pks(lookup(field, value)), lookup, value)
            if isinstance(outcome, Exception):
                good = isinstance(outcome, ValueError | TypeError) and re.match(rf"Thing\.{field}(_id)? ", str(outcome))
            else:
                good = agrees(outcome, answers)
            if not good:
                wrong.append(f"{field} {name} {at} {type(value)}: {outcome!r:.200} and not {answers}")
    assert not wrong, "\n".join(wrong)
    for thing in things:  # the bad values have left nothing behind
        value = getattr(thing, "owner_id" if field == "owner" else field)
        answers = await allowed(field, value)
        for name, lookup in lookups.items():
            assert agrees(await pks(lookup(field, value)), answers), name


async def call(function: Callable[..., Any], *args: Any) -> Any:
    """Calls a function, and awaits its result. Returns what it returns or raises."""
    try:
        async with asyncio.timeout(HANG):
            answer = function(*args)
            return await answer if isawaitable(answer) or hasattr(answer, "__await__") else answer
    except Exception as error:
        return error


# Names and arguments -----------------------------------------------------------------------------------------


def calls_by_name(thing: Thing) -> dict[str, Callable[[str], Any]]:
    """Calls that take the name of a field."""
    cache = Thing.cache
    lookups = ("get", "get_or_none", "get_or_404", "filter", "exists", "count", "key", "explain", "refresh")
    return {
        **{name: lambda field, name=name: getattr(cache, name)(**{field: 1}) for name in (*lookups, "invalidate")},
        "get_many": lambda field: cache.get_many([1], key=field),
        "in_bulk": lambda field: cache.in_bulk([1], key=field),
        "get_many of two": lambda field: cache.get_many([(1, 2)], key=(field, "name")),
        "update": lambda field: cache.update(thing, **{field: 1}),
        "prefetch": lambda field: cache.prefetch([thing], field),
        "prefetch of two": lambda field: cache.prefetch([thing], f"owner__{field}"),
        "set_related": lambda field: cache.set_related(thing, field, None),
        "InstanceCache": lambda field: ThingByName(**{field: 1}),
        "InstanceCache with another": lambda field: ThingByName("a", **{field: 1}),
        "QuerysetCache": lambda field: ThingsByText(**{field: 1}),
    }


def calls_by_value(thing: Thing, opened: ModelCache) -> dict[str, Callable[[Any], Any]]:
    """Calls that take something else than the value of a key."""
    cache, good = Thing.cache, Thing.cache.get_or_none(id=1)
    return {
        "get_many": lambda value: cache.get_many(value),
        "in_bulk": lambda value: cache.in_bulk(value),
        "the key of get_many": lambda value: cache.get_many([1], key=value),
        "BatchCacheQuery": lambda value: BatchCacheQuery(value),
        "a query of a batch": lambda value: BatchCacheQuery({"good": good, "bad": value}),
        "BatchCacheQuery.push": lambda value: BatchCacheQuery(good=good).push(value),
        "a query by name": lambda value: BatchCacheQuery(good=good).push(bad=value),
        "prefetch": lambda value: cache.prefetch(value, "owner"),
        "an instance of prefetch": lambda value: cache.prefetch([value], "owner"),
        "a relation of prefetch": lambda value: cache.prefetch([thing], value),
        "invalidate": lambda value: cache.invalidate(value),
        "a row of invalidate": lambda value: cache.invalidate([value]),
        "update": lambda value: cache.update(value, name="a"),
        "set_related": lambda value: cache.set_related(value, "owner", None),
        "the relation of set_related": lambda value: cache.set_related(thing, value, None),
        "the row of set_related": lambda value: cache.set_related(thing, "owner", value),
        "key": lambda value: cache.key(value),
        "explain": lambda value: cache.explain(value),
        "refresh": lambda value: cache.refresh(value),
        "clear": lambda value: opened.clear(value),
        "manager": lambda value: opened.manager(value),
        "InstanceCache": lambda value: ThingByName(value),
        "InstanceCache of two": lambda value: ThingByName(value, value),
        "QuerysetCache": lambda value: ThingsByText(value),
        "QuerysetExistsCache": lambda value: ThingsExist(value),
        "QuerysetCountCache": lambda value: ThingCount(value),
    }


on_sqlite = pytest.mark.only_on("sqlite", because="arguments are judged before a database is asked")
NAMED = re.compile(
    r"Thing|Owner|BatchCacheQuery|\S+ is not bound to the open cache|.{,130} is not bound to the open cache"
)


@on_sqlite
async def test_names_of_fields(cache: ModelCache) -> None:
    thing = await Thing.create(**ROWS[0])
    for name, function in calls_by_name(thing).items():
        for field in NAMES:
            outcome = await call(function, field)
            assert isinstance(outcome, ValueError | TypeError | FieldError), (name, field, outcome)
            assert NAMED.match(str(outcome)), (name, field, outcome)


@on_sqlite
async def test_arguments_that_are_no_values_of_keys(cache: ModelCache) -> None:
    thing = await Thing.create(**ROWS[0])
    for name, function in calls_by_value(thing, cache).items():
        for at, value in enumerate(ALL):
            outcome = await call(function, value)
            if not isinstance(outcome, Exception) or isinstance(outcome, DoesNotExist | Hostile) or type(value) is Liar:
                continue  # the value is right for this call, raises while it is iterated, or passes for a string
            where = (name, at, type(value), outcome)
            assert isinstance(outcome, ValueError | TypeError | CacheNotRegistered), where
            assert NAMED.match(str(outcome)), where
    assert await Thing.cache.get(id=1) == thing


# Settings and declarations -----------------------------------------------------------------------------------


SETTINGS = {field.name: field.type for field in fields(CacheConfig) if field.type in (bool, int, float)} | {
    "on_write_error": str,
    "on_overload": str,
    "load_limit": int,
    "replica_lag": float,
    "not_found": type,
}
"""Settings of a cache, with their types."""


def is_right(name: str, value: Any) -> bool:
    """Returns True if a value is valid for a setting or attribute, judged by its name, independently of the library."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if (
        name in ("keep_unchanged", "near", "paged", "queries", "relay", "sliding", "write_through")
        or SETTINGS.get(name) is bool
    ):
        return isinstance(value, bool)
    if name == "verify":
        return number and 0 <= value <= 1
    if name in ("ttl_jitter", "refresh_ahead"):
        return number and 0 <= value < 1
    if name.endswith(("timeout", "ttl", "wait", "cooldown", "lag")) and isinstance(value, dt.timedelta):
        value, number = value.total_seconds(), True
    if name == "lease_wait":
        return number and 0 <= value < 10**10 and not 0 < value < 0.001
    if name in ("guess_size", "decoded_memory_limit", "wait_replicas"):
        return number and isinstance(value, int) and 0 <= value <= sys.maxsize
    if name == "load_limit" and value is None:
        return True
    if name in ("batch_size", "limit") or name.endswith("_limit"):
        return isinstance(value, int) and number and 0 < value <= sys.maxsize
    if name == "not_found":
        return value is len
    if name == "version":
        return isinstance(value, str | float | tuple) or (isinstance(value, int) and value < 10**100)
    if name in ("on_write_error", "on_overload", "invalidation", "allowtime", "model", "codec"):
        return False
    if name.endswith("_key_fields_list") and type(value) is list and [type(each) for each in value] == [list]:
        return not value[0]  # the key of no fields
    if name.endswith(("_list", "_foreignkeys", "_manytomany", "_by", "_ignore", "_related", "key_fields")):
        return isinstance(value, list | tuple) and not value
    return number and 0.001 <= value < 10**10


NULLABLE = {"replica_lag", "load_limit"}
"""Settings of ``CacheConfig`` that may be None, as each attribute of a declaration may."""


def judged(name: str, value: Any, outcome: Any, *prefixes: str) -> None:
    """Asserts that a right value is accepted, and that a wrong one is an error that begins with one of the prefixes."""
    where = (name, type(value), outcome)
    if isinstance(outcome, CacheConfigurationError):
        assert str(outcome).startswith(prefixes), where
        assert not is_right(name, value) or "has no effect" in str(outcome), where
    else:
        assert not isinstance(outcome, Exception), where
        assert value is None or is_right(name, value), where


def test_settings() -> None:
    for name in SETTINGS:
        for value in ALL:
            for make in (CacheConfig, partial(ModelCache, "memory://")):
                try:
                    outcome: Any = make(**{name: value})
                except Exception as error:
                    outcome = error
                assert value is not None or isinstance(outcome, Exception) or name in NULLABLE
                judged(name, value, outcome, f"CacheConfig.{name} is ")


def _is_empty(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str | type) and not list(value)


def _are_names(value: Any) -> bool:
    listed = isinstance(value, Collection) and not isinstance(value, str | bytes | bytearray | memoryview | type)
    return listed and all(isinstance(name, str) and name.isascii() for name in value)


def _are_tags(value: Any) -> bool:
    listed = [value] if isinstance(value, str) or callable(value) else value
    return isinstance(listed, Iterable) and all(callable(tag) or (isinstance(tag, str) and tag) for tag in listed)


RIGHT_FOR_FUNCTIONS: dict[str, Callable[[Any], bool]] = {
    "allowtime": partial(is_right, "timeout"),
    "cache_errors": lambda value: isinstance(value, dict) and not value,
    "codec": lambda value: False,
    "depends_on": _is_empty,
    "invalidation": lambda value: False,
    "key": callable,
    "max_size": lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 0,
    "near": lambda value: isinstance(value, bool),
    "session_cookies": _are_names,
    "sliding": lambda value: isinstance(value, bool),
    "stale_if_error": partial(is_right, "timeout"),
    "tags": _are_tags,
    "timeout": lambda value: callable(value) or is_right("timeout", value),
    "vary": _are_names,
}
"""Functions that judge a setting of a decorator. ``is_right`` judges the others."""
DECORATORS: dict[Any, list[str]] = {
    cached: [name for name in signature(cached).parameters if name != "function"],
    cached_response: sorted(ResponseSettings.__annotations__),
}
"""Decorators, with the names of their settings."""


def test_settings_of_functions() -> None:
    async def show(request: object) -> None: ...

    origin = f"{__name__}.{show.__qualname__}"
    for decorate, names in DECORATORS.items():
        for name in names:
            right = RIGHT_FOR_FUNCTIONS.get(name, partial(is_right, name))
            needed = {"stale_if_error": 5} if name == "soft_timeout" else {}
            for value in ALL:
                try:
                    outcome: Any = decorate(**{name: value}, **needed)(show)
                except Exception as error:
                    outcome = error
                where = (decorate, name, type(value), outcome)
                if isinstance(outcome, CacheConfigurationError):
                    assert re.match(rf"{re.escape(origin)}(\.|: ){name}\b", str(outcome)), where
                    assert type(value) is Liar or not right(value), where
                elif not isinstance(outcome, Hostile):  # raised while the value is iterated
                    assert not isinstance(outcome, Exception), where
                    assert value is None or type(value) is Liar or right(value), where


@pytest.mark.parametrize("decorate", [cached, cached_response])
@pytest.mark.parametrize(
    "value", [5, partial(asyncio.sleep), type("View", (), {}), object()], ids=["int", "partial", "class", "object"]
)
def test_what_is_no_function_cannot_be_decorated(decorate: Any, value: Any) -> None:
    with pytest.raises(CacheConfigurationError, match=f"{decorate.__name__} is for .*functions, and .* is not one"):
        decorate(value)


def without_store(test: Any) -> Any:
    return on_sqlite(pytest.mark.only_on("no store", because="the caches are opened by the test")(test))


DECLARATIONS: list[tuple[type, str, str]] = [
    *[(Thing.CacheMeta, "Thing.CacheMeta", name) for name in sorted(META_ATTRIBUTES)],
    *[(ThingsByText, "ThingsByText", name) for name in sorted(META_ATTRIBUTES & CLASS_ATTRIBUTES)],
    *[(ThingsByText, "ThingsByText", name) for name in ("model", "key_fields", "limit", "select_related", "codec")],
    *[(ThingTexts, "ThingTexts", name) for name in ("codec", "negative_timeout", "allowtime", "sliding")],
]
"""Declarations, with their names in errors, and their attributes."""


@without_store
@pytest.mark.exhaustive(because="opens thousands of caches")
async def test_attributes_of_declarations(database: BaseDBAsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    gc.collect()
    gc.freeze()  # opening a cache may collect garbage; unfreezing would undo what conftest.py froze
    for cls, origin, name in DECLARATIONS:
        for value in share(ALL):
            with monkeypatch.context() as patch:
                patch.setattr(cls, name, value, raising=False)
                cache = ModelCache(MemoryBackend())
                outcome = await call(cache.open)
                await cache.close()
            model = origin.partition(".")[0]
            judged(name, value, outcome, f"{origin}.{name} ", f"{model}: {name} ", f"{origin}: {name} ")


@without_store
async def test_urls(database: BaseDBAsyncClient) -> None:
    for url in URLS:
        outcome = await call(RedisBackend, url)  # which parses it and connects to nothing
        assert isinstance(outcome, CacheConfigurationError), (url, outcome)
        assert "URL" in str(outcome), outcome
        outcome = await call(ModelCache(url).open)
        assert isinstance(outcome, CacheConfigurationError), (url, outcome)
        assert "memory://" in str(outcome), outcome
    for value in ALL:
        outcome = await call(ModelCache(value).open)
        if type(value) is not Liar:  # which passes for a string
            assert isinstance(outcome, CacheConfigurationError | Hostile), (type(value), outcome)


def test_the_documented_counts() -> None:
    """The table in the documents counts what these tests try."""
    thing: Any = None
    counts = {
        "values of keys": len(FIELDS) * len(ALL),
        "names of fields": len(calls_by_name(Thing())) * len(NAMES),
        "arguments that are no values of keys": len(calls_by_value(thing, thing)) * len(ALL),
        "settings of a cache": len(SETTINGS) * len(ALL),
        "settings of functions": sum(map(len, DECORATORS.values())) * len(ALL),
        "attributes of declarations": len(DECLARATIONS) * len(ALL),
        "URLs": len(URLS) + len(ALL),
    }
    document = (Path(__file__).parents[2] / "docs/consistency.md").read_text("utf-8")
    section = document.partition("## Bad inputs tried")[2].partition("\n## ")[0]
    documented = dict(re.findall(r"^\| ([^|]+?) \| ([\d,]+)", section, re.MULTILINE))
    assert documented.keys() >= counts.keys()
    for kind, count in counts.items():  # settings and attributes become more
        assert 0.9 * count <= int(documented[kind].replace(",", "")) <= count, (kind, count)
