"""Durations: seconds, a ``timedelta`` or text, wherever the library takes a time."""

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from aiomodelcache import (
    CacheConfig,
    CacheConfigurationError,
    ModelCache,
    RedisBackend,
    ValueCache,
    cached,
    writes_without_cache,
)
from aiomodelcache.backends.protocol import Fill
from aiomodelcache.testing import CountingBackend
from tests.support.models.duration_models import Depot, DepotCaches, Parcel, ParcelCount

REMEDY = "write seconds, a timedelta, or text like 30s, 5m, 2h, 1d"
SETTINGS = sorted(
    {field.name for field in fields(CacheConfig) if field.type is float} - {"ttl_jitter", "refresh_ahead", "verify"}
)
WRITTEN = [
    (7, 7.0),
    (0.25, 0.25),
    (timedelta(minutes=2, milliseconds=500), 120.5),
    ("500ms", 0.5),
    ("30s", 30.0),
    ("5m", 300.0),
    ("1.5h", 5_400.0),
    ("1d", 86_400.0),
]
"""Durations as users write them, and their seconds."""
WRONG: list[Any] = [
    "60", "", "s", "5 m", " 5m", "5m\n", "-5m", "+5m", "5M", "5min", "1h30m", "1e3s", ".5s", "5.s", "1,5h", "٣s",
    "infs", "nan", "5w", b"5m", [5], 1j, True, float("nan"), object,
]  # fmt: skip
OUT_OF_RANGE: list[tuple[Any, str]] = [
    ("0s", "it must be above zero"),
    (timedelta(0), "it must be above zero"),
    (timedelta(seconds=-1), "it must be above zero"),
    ("0.5ms", "it must be at least a millisecond, 0.001"),
    (timedelta(microseconds=999), "it must be at least a millisecond, 0.001"),
    ("36501d", "it must be at most a hundred years"),
    ("9" * 400 + "d", "it must be at most a hundred years"),
    (timedelta.max, "it must be at most a hundred years"),
]


@pytest.mark.parametrize("name", [*SETTINGS, "replica_lag"])
@pytest.mark.parametrize(("written", "seconds"), WRITTEN)
def test_a_setting_is_the_seconds_of_a_duration(name: str, written: Any, seconds: float) -> None:
    settings: dict[str, Any] = {name: written}
    for config in (
        CacheConfig(**settings),
        ModelCache("memory://", **settings).config,
        replace(CacheConfig(), **settings),
    ):
        found = getattr(config, name)
        assert (type(found), found) == (float, seconds)


def test_a_wait_may_be_zero_in_every_form() -> None:
    for zero in (0, 0.0, timedelta(0), "0s", "0ms"):
        assert CacheConfig(lease_wait=zero).lease_wait == 0
    with pytest.raises(CacheConfigurationError, match=r"CacheConfig\.lease_wait is '0\.5ms': it must be at least"):
        CacheConfig(lease_wait="0.5ms")


@pytest.mark.parametrize("value", WRONG, ids=repr)
def test_anything_else_is_an_error_with_its_remedy(value: Any) -> None:
    with pytest.raises(CacheConfigurationError) as caught:
        CacheConfig(timeout=value)
    assert str(caught.value) == f"CacheConfig.timeout is {value!r}: {REMEDY}."


@pytest.mark.parametrize(("value", "requirement"), OUT_OF_RANGE, ids=lambda value: repr(value)[:20])
def test_a_duration_out_of_range_is_an_error(value: Any, requirement: str) -> None:
    with pytest.raises(CacheConfigurationError) as caught:
        CacheConfig(timeout=value)
    assert str(caught.value) == f"CacheConfig.timeout is {repr(value)[:120]}: {requirement}."


def test_settings_are_passed_by_name_and_known() -> None:
    config: Any = CacheConfig
    with pytest.raises(TypeError, match="CacheConfig has no setting 'timout'"):
        config(timout=5)
    with pytest.raises(TypeError):
        config(5)
    assert CacheConfig(timeout="5m") == CacheConfig(timeout=300)
    assert repr(CacheConfig(timeout="5m")).startswith("CacheConfig(enabled=True, ")
    assert "timeout=300.0" in repr(CacheConfig(timeout="5m"))


def test_a_backend_takes_a_duration() -> None:
    for written in (0.2, "200ms", timedelta(seconds=0.2)):
        assert RedisBackend("redis://localhost", socket_timeout=written).connect.keywords["socket_timeout"] == 0.2
    with pytest.raises(CacheConfigurationError, match=rf"RedisBackend\.socket_timeout is '1': {REMEDY}"):
        RedisBackend("redis://localhost", socket_timeout="1")


# Declarations --------------------------------------------------------------------------------------------------


class Recording(CountingBackend):
    """A store that records the lifetimes of new entries, in milliseconds."""

    def __init__(self, backend: CountingBackend) -> None:
        super().__init__(backend)
        self.ttls: list[int] = []

    async def fill(self, fills: Sequence[Fill]) -> list[bool]:
        self.ttls += [fill.ttl_ms for fill in fills]
        return await super().fill(fills)


class Answer(ValueCache[int | None]):
    async def get_value(self, value: int | None) -> int | None:
        return value


PLACES: list[tuple[type, str, str]] = [
    (Parcel, "Parcel.CacheMeta.timeout", "CacheMeta"),
    (DepotCaches, "DepotCaches.timeout", "timeout"),
    (ParcelCount, "ParcelCount.timeout", "timeout"),
    (Answer, "Answer: timeout", "timeout"),
]
"""Classes that declare durations, with the name of the attribute in errors, and the attribute to set."""


def declare(monkeypatch: pytest.MonkeyPatch, cls: Any, attribute: str, value: Any) -> None:
    if cls is Answer:
        declaration = msgspec.structs.replace(Answer._declared, timeout=value)
        monkeypatch.setattr(Answer, "_declared", declaration)
    else:
        meta = type("CacheMeta", (), {"timeout": value})
        monkeypatch.setattr(cls, attribute, meta if attribute == "CacheMeta" else value, raising=False)


async def ask(cls: type) -> None:
    if cls is Parcel:
        await Parcel.cache.get(id=1)
    elif cls is DepotCaches:
        await DepotCaches(Depot).get(id=1)
    else:
        await (ParcelCount(weight=0) if cls is ParcelCount else Answer(1))


on_tables: Callable[[Any], Any] = pytest.mark.models("tests.support.models.duration_models")
one_store = pytest.mark.only_on("memory", because="the lifetimes are recorded before they are sent")
one_database = pytest.mark.only_on("sqlite", because="durations depend on no database")


@on_tables
@one_store
@one_database
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place[1])
@pytest.mark.parametrize(("written", "seconds"), WRITTEN)
async def test_an_entry_lives_for_the_declared_duration(
    place: tuple[type, str, str],
    written: Any,
    seconds: float,
    database: object,
    backend: CountingBackend,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cls, _, attribute = place
    with writes_without_cache():
        await Depot.create(id=1)
        await Parcel.create(id=1)
    declare(monkeypatch, cls, attribute, written)
    store = Recording(backend)
    async with ModelCache(store, ttl_jitter=0):
        await ask(cls)
    assert store.ttls == [round(seconds * 1_000)]


@on_tables
@one_store
@one_database
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place[1])
async def test_a_wrong_duration_is_an_error_when_the_cache_opens(
    place: tuple[type, str, str], database: object, backend: CountingBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    cls, name, attribute = place
    declare(monkeypatch, cls, attribute, "5 minutes")
    with pytest.raises(CacheConfigurationError) as caught:
        await ModelCache(backend).open()
    assert str(caught.value) == f"{name} is '5 minutes': {REMEDY}."


@on_tables
@one_store
@one_database
async def test_a_function_takes_durations_for_values_for_none_and_for_stale_copies(
    database: object, backend: CountingBackend
) -> None:
    @cached(timeout="2h", negative_timeout=timedelta(seconds=9), allowtime="1.5s")
    async def echo(value: int | None) -> int | None:
        return value

    store = Recording(backend)
    async with ModelCache(store, ttl_jitter=0) as cache:
        await echo(1)
        await echo(None)
        assert store.ttls == [7_200_000, 9_000]
        [(_, entries)] = cache.open_cache.values.values()
        assert entries.policy.allow_ms == 1_500
    with pytest.raises(CacheConfigurationError, match=rf"echo: allowtime is 'soon': {REMEDY}"):
        cached(allowtime="soon")(echo._function)


@on_tables
@one_store
@one_database
async def test_a_class_takes_durations_for_stale_copies(
    database: object, backend: CountingBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ParcelCount, "allowtime", timedelta(seconds=30))
    async with ModelCache(backend) as cache:
        entries: Any = cache.open_cache.classes[ParcelCount]
        assert entries.policy.allow_ms == 30_000
