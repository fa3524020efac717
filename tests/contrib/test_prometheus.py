"""``ModelCacheCollector``: one scrape of any worker has the counters of all, in the words of Prometheus' own parser."""

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache import ModelCache
from aiomodelcache.contrib.prometheus import ModelCacheCollector, metrics_app
from aiomodelcache.observe.stats import Counters, Stats
from aiomodelcache.relay.captured import captured_tables
from aiomodelcache.relay.triggers.installation import install
from aiomodelcache.testing import CountingBackend
from tests.support.in_process import client_of
from tests.support.models.models import User
from tests.support.pages import ROOT
from tests.support.servers import RedisServer
from tests.support.servers.http import HttpServer

pytestmark = pytest.mark.only_on("sqlite", because="counters depend on no database")

Samples = dict[tuple[str, ...], float]
"""Values by the name of a sample and the values of its labels in alphabetical order of the labels."""


def samples(text: str | bytes) -> Samples:
    text = text if isinstance(text, str) else text.decode()
    found: Samples = {}
    for family in parse(text):
        for sample in family.samples:
            key = (sample.name, *(value for _, value in sorted(sample.labels.items())))
            assert key not in found, "a series appears twice"
            found[key] = sample.value
    return found


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
async def collector(cache: ModelCache, registry: CollectorRegistry) -> ModelCacheCollector:
    await User.create(id=1, username="kim")
    made = ModelCacheCollector(cache)
    registry.register(made)  # type: ignore[arg-type]
    return made


async def test_a_scrape_has_the_counters(
    cache: ModelCache, collector: ModelCacheCollector, registry: CollectorRegistry
) -> None:
    for _ in range(3):
        await User.cache.get(id=1)
    await collector.refresh()
    own = cache.worker
    found = samples(generate_latest(registry))
    assert found["aiomodelcache_lookups_total", "User", "hit", own.name] == 2
    assert found["aiomodelcache_lookups_total", "User", "miss", own.name] == 1
    assert found["aiomodelcache_fills_total", "User", own.name] == 1
    assert found["aiomodelcache_statements_total", own.name] == 1
    assert found["aiomodelcache_backend_errors_total", own.name] == 0
    assert found["aiomodelcache_breaker_open", own.name] == 0
    assert found["aiomodelcache_undelivered_keys", own.name] == 0
    assert found["aiomodelcache_near_bytes", own.name] == 0
    assert found["aiomodelcache_worker_start_time_seconds", own.name] == pytest.approx(own.started)
    assert found[("aiomodelcache_fleet_complete",)] == 1
    assert 0 < found["aiomodelcache_round_trips_total", own.name] <= own.stats.round_trips


@pytest.mark.models("tests.support.models.relayed_models")
async def test_a_scrape_has_the_relay_of_a_worker(
    database: BaseDBAsyncClient, backend: CountingBackend, registry: CollectorRegistry
) -> None:
    async with ModelCache(backend) as cache:
        await install(database, captured_tables(cache.open_cache)["sqlite"])
    async with ModelCache(backend, relay=True) as cache:
        collector = ModelCacheCollector(cache)
        registry.register(collector)  # type: ignore[arg-type]
        await collector.refresh()
        found = samples(generate_latest(registry))
        assert cache.relay is not None
        [status] = cache.relay.statuses
        own = cache.worker.name
        assert found["aiomodelcache_relay_leading", "sqlite", own] == 1
        assert found["aiomodelcache_relay_lines_total", "sqlite", own] == 0
        assert 1 <= found["aiomodelcache_relay_claims_total", "sqlite", own] <= status.claims
        assert 0 <= found["aiomodelcache_relay_lag_seconds", "sqlite", own] < cache.config.relay_lag


async def test_both_formats_have_types_and_help(collector: ModelCacheCollector, registry: CollectorRegistry) -> None:
    await collector.refresh()
    families = list(parse(generate_latest(registry).decode()))
    assert all(family.documentation for family in families)
    assert {family.type for family in families} == {"counter", "gauge"}
    await collector.refresh()
    names = {family.name for family in parse_openmetrics(generate_openmetrics(registry).decode())}
    assert {family.name for family in families} == names


async def test_every_counter_is_exported(collector: ModelCacheCollector, cache: ModelCache) -> None:
    """A counter that is added to the library must be added here."""
    numbers = iter(range(1, 1000))
    expected: set[float] = set()
    stats = cache.stats
    for owner in (stats, stats.near, stats.decoded, stats.verified, stats.of("Planted")):
        for name in type(owner).__slots__:  # type: ignore[attr-defined]
            if isinstance(getattr(owner, name), int | float) and not (owner is stats.near and name == "refused"):
                number = next(numbers) * 1_000_000
                setattr(owner, name, number)
                expected.add(number)
    found = {
        sample.value
        for family in collector.collect()
        for sample in family.samples
        if "Planted" in sample.labels.values() or "cache" not in sample.labels
    }
    assert expected <= found
    assert len(expected) > len(Counters.__slots__)  # type: ignore[attr-defined]
    assert Stats.__slots__  # type: ignore[attr-defined]


async def test_a_second_collector_in_a_registry_is_refused(
    cache: ModelCache, collector: ModelCacheCollector, registry: CollectorRegistry
) -> None:
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        registry.register(ModelCacheCollector(cache))  # type: ignore[arg-type]


async def test_a_closed_cache_has_no_samples(
    cache: ModelCache, collector: ModelCacheCollector, registry: CollectorRegistry
) -> None:
    async with client_of(metrics_app(collector, registry)) as client:
        assert samples((await client.get("/")).text)
        await cache.close()
        response = await client.get("/")
        assert response.status_code == 200
        assert samples(response.text) == {}
        await cache.open()
        assert samples((await client.get("/")).text)[("aiomodelcache_fleet_complete",)] == 1


async def test_labels_are_escaped(cache: ModelCache, collector: ModelCacheCollector) -> None:
    cache.stats.of('a"b\\c\nd').hits = 5
    registry = CollectorRegistry()
    registry.register(collector)  # type: ignore[arg-type]
    await collector.refresh()
    assert samples(generate_latest(registry))["aiomodelcache_lookups_total", 'a"b\\c\nd', "hit", cache.worker.name] == 5


async def test_a_scrape_in_another_thread_needs_no_refresh(
    database: BaseDBAsyncClient, backend: CountingBackend, registry: CollectorRegistry
) -> None:
    async with ModelCache(backend) as cache, ModelCache(backend, publish_stats=True) as other:
        await other.fleet()
        registry.register(ModelCacheCollector(cache))  # type: ignore[arg-type]
        found = samples(await asyncio.to_thread(generate_latest, registry))
        assert found[("aiomodelcache_fleet_complete",)] == 1
        assert ("aiomodelcache_statements_total", other.worker.name) in found
        found = samples(generate_latest(registry))  # in the loop it cannot wait for the store
        assert found[("aiomodelcache_fleet_complete",)] == 0
        assert [key for key in found if other.worker.name in key] == []
        assert ("aiomodelcache_statements_total", cache.worker.name) in found


async def test_a_thread_does_not_wait_for_a_blocked_loop(
    collector: ModelCacheCollector, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiomodelcache.contrib.prometheus.MAX_SCRAPE_WAIT", 0.1)
    texts: list[bytes] = []
    thread = threading.Thread(target=lambda: texts.append(generate_latest(registry)))
    thread.start()
    thread.join(10)  # this blocks the loop
    assert samples(texts[0])[("aiomodelcache_fleet_complete",)] == 0


async def test_without_the_library_the_extra_is_named(cache: ModelCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client.core", None)
    with pytest.raises(ImportError, match=r"pip install 'aiomodelcache\[prometheus\]'"):
        ModelCacheCollector(cache)


# Real workers --------------------------------------------------------------------------------------------


class Metered(HttpServer):
    """A worker process that serves ``services/metered.py``."""

    name = "metered"
    probe = "/look-up/0"

    def __init__(self, store: str) -> None:
        super().__init__()
        self._store = store

    def _command(self) -> list[str | Path]:
        given = [f"PYTHONPATH={ROOT}", f"STORE={self._store}", "PYTHONDONTWRITEBYTECODE=1"]
        served = ["-m", "uvicorn", "tests.contrib.services.metered:app", "--port", str(self.port)]
        return ["/usr/bin/env", *given, sys.executable, *served]

    def look_up(self, times: int) -> str:
        """Has the worker look up, and returns its name."""
        answer: str = httpx.get(f"{self.url}/look-up/{times}", trust_env=False, verify=False, timeout=30).json()
        return answer

    def scrape(self) -> Samples:
        return samples(httpx.get(f"{self.url}/metrics/", trust_env=False, verify=False, timeout=30).text)


def hits(found: Samples, worker: str) -> float | None:
    return found.get(("aiomodelcache_lookups_total", "User", "hit", worker))


@pytest.fixture
def workers(own_redis: RedisServer) -> Iterator[tuple[Metered, Metered]]:
    with Metered(own_redis.url) as first, Metered(own_redis.url) as second:
        yield first, second


def scrape_until(worker: Metered, condition: Callable[[Samples], bool]) -> Samples:
    """Scrapes until the publications in the background have led to something."""
    deadline = time.monotonic() + 30
    while not condition(found := worker.scrape()):
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    return found


@pytest.mark.slow(because="it starts processes")
def test_any_worker_shows_all_of_them(workers: tuple[Metered, Metered], own_redis: RedisServer) -> None:
    first, second = workers
    names = [first.look_up(3), second.look_up(5)]
    found = scrape_until(first, lambda found: hits(found, names[1]) == 5)
    assert hits(found, names[0]) == 2, "of three lookups one missed; its entry answered the second worker"
    assert hits(scrape_until(second, lambda found: hits(found, names[0]) == 2), names[1]) == 5
    assert found[("aiomodelcache_fleet_complete",)] == 1

    os.killpg(second.pid, signal.SIGKILL)  # it cannot say that it ends
    scrape_until(first, lambda found: hits(found, names[1]) is None)
    with Metered(own_redis.url) as third:  # in its place
        name = third.look_up(1)
        assert name not in names
        scrape_until(first, lambda found: hits(found, name) == 1)
        os.kill(third.pid, signal.SIGTERM)  # it closes its cache
        scrape_until(first, lambda found: hits(found, name) is None)

    own_redis.kill()
    found = first.scrape()
    assert found[("aiomodelcache_fleet_complete",)] == 0
    assert hits(found, names[0]) == 2
    assert found["aiomodelcache_breaker_open", names[0]] == 1
