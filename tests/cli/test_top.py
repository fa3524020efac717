"""``aiomodelcache top`` against live processes that publish their counters."""

import asyncio
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import redis.asyncio

from aiomodelcache.cli import top
from aiomodelcache.inspection.rates import HotKeys, RateWindow
from aiomodelcache.inspection.store import MAX_WATCHED, connected
from aiomodelcache.observe.fleet import Worker
from aiomodelcache.observe.stats import Counters, Stats
from tests.support.application import LIMIT, Application
from tests.support.effort import share
from tests.support.servers import RedisServer

SERVICE = """
import asyncio
from tortoise.context import TortoiseContext
from aiomodelcache import ModelCache
from tests.support.models.shop_models import Listing, titles
from {settings} import TORTOISE_ORM

async def main():
    async with TortoiseContext() as context:
        await context.init(config=TORTOISE_ORM)
        async with ModelCache({url!r}, namespace="shop", publish_stats=True):
            print("ready", flush=True)
            number = 0
            while True:
                await Listing.cache.get(slug="secret-1")
                await Listing.cache.get_or_none(id=100_000 + number)
                await titles(1)
                number += 1
                await asyncio.sleep(0.005)

asyncio.run(main())
"""


@contextmanager
def serving(application: Application) -> Generator[None]:
    """Runs a process of the application that looks up the same listing again and again."""
    code = SERVICE.format(settings=application.settings_module, url=application.redis.patient_url)
    (application.folder / "service.py").write_text(code)
    with process(application, ["-u", "service.py"], stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"ready\n"
        yield


@pytest.fixture
def service(filled: Application) -> Iterator[Application]:
    """The application with a process that serves."""
    with serving(filled):
        yield filled


@contextmanager
def process(application: Application, arguments: list[str], **streams: Any) -> Generator["subprocess.Popen[bytes]"]:
    program = application.start()[0]
    path = f"{application.environment['PYTHONPATH']}{os.pathsep}{application.folder}"
    environment = application.environment | {"PYTHONPATH": path}
    started: Any = subprocess.Popen([program, *arguments], cwd=application.folder, env=environment, **streams)
    with started as running:
        try:
            yield running
        finally:
            running.kill()


def test_once_shows_the_rates_of_the_processes(service: Application) -> None:
    ran = service.process("top", "--once", "--json")
    data = ran.data
    assert (data["workers"], data["complete"]) == (1, True)
    assert data["window"] >= 5
    assert data["lookups"] > 1
    assert 0.2 < data["hit_ratio"] < 1
    assert data["statements"] > 0
    classes = {each["cache"]: each for each in data["classes"]}
    assert classes["Listing(slug)"]["hit_ratio"] == 1.0
    assert classes["Listing"]["miss_ms"] > 0
    assert data["classes"][0]["cache"] == "Listing"  # the only one that asks the database
    assert ("Listing (slug)", "shop:amc:i:default:listing:slug:<str>") in [
        (each["cache"], each["key"]) for each in data["keys"]
    ]
    assert "secret" not in ran.out


def test_it_refreshes_until_it_is_interrupted(service: Application) -> None:
    command = ["-m", "aiomodelcache", "top", "--json", "--interval", "0.2", "--values"]
    with process(service, command, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        lines = [json.loads(running.stdout.readline()) for _ in range(20)]
        running.send_signal(signal.SIGINT)
        assert running.wait(LIMIT) == 130
    assert lines[-1]["time"] > lines[0]["time"]
    assert lines[0]["hit_ratio"] is None
    assert lines[-1]["lookups"] > 0
    assert any(each["key"].endswith("secret-1") for each in lines[-1]["keys"])


def test_it_ends_quietly_if_nothing_reads_it(service: Application) -> None:
    command = ["-m", "aiomodelcache", "top", "--interval", "0.1"]
    with process(service, command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        assert b"processes 1" in running.stdout.readline()
        running.stdout.close()
        assert running.wait(LIMIT) == 0
        assert running.stderr.read() == b""


def test_a_closed_pipe_is_left_to_the_command_even_if_rich_meets_it() -> None:
    """Rich writes a long text at once."""
    program = """
import errno, os, sys
from aiomodelcache.cli.output import Output
output = Output(as_json=False)
try:
    output.line("x" * 1_000_000)
except BrokenPipeError as error:
    os._exit(7 if error.errno == errno.EPIPE else 1)
"""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ran = subprocess.run([sys.executable, "-c", program], stdout=writing, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(writing)
    assert (ran.returncode, ran.stderr) == (7, b"")


def test_a_terminal_is_redrawn_in_place(service: Application) -> None:
    own, theirs = pty.openpty()
    command = ["-m", "aiomodelcache", "top", "--interval", "0.2"]
    with process(service, command, stdin=theirs, stdout=theirs, stderr=theirs) as running:
        os.close(theirs)
        received = b""
        while received.count(b"hottest") < 3:
            received += os.read(own, 65536)
        running.send_signal(signal.SIGINT)
        with suppress(OSError):  # the end of a terminal whose process has ended
            until = time.monotonic() + LIMIT
            while os.read(own, 65536) and time.monotonic() < until:
                pass
        assert running.wait(LIMIT) == 130
    os.close(own)
    assert b"\x1b[1A" in received  # the cursor goes up again


def test_without_publishing_processes_it_says_so(filled: Application, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(top, "WINDOW", 0.1)
    ran = filled.run("top", "--once")
    assert "publish_stats=True" in ran.out
    assert filled.run("top", "--once", "--json").data["workers"] == 0


def test_a_store_that_stops_answering_is_shown(own_redis: RedisServer, filled: Application) -> None:
    filled.redis = own_redis
    filled.configure()
    with process(filled, ["-m", "aiomodelcache", "top", "--interval", "0.1"], stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert b"publish_stats" in running.stdout.readline()
        own_redis.stop()
        while b"does not answer" not in running.stdout.readline():
            assert running.poll() is None


@pytest.mark.parametrize("policy", ["noeviction", "allkeys-lfu"])
def test_the_key_that_is_read_most_is_the_hottest(own_redis: RedisServer, policy: str) -> None:
    """The server counts how often a key is read only with a policy of LFU. Else it tells when it was read last."""

    async def work() -> list[float | None]:
        connect: Any = redis.asyncio.Redis.from_url  # pyright: ignore
        async with connect(own_redis.url) as client:
            await client.config_set("maxmemory-policy", policy)
            await client.mset({"hot": "V", "cold": "V"})
            await asyncio.sleep(2.1 if policy == "noeviction" else 0)
            for _ in range(500):
                await client.get("hot")
        async with connected(own_redis.url) as store:
            return await store.heat([b"hot", b"cold", b"missing"])

    hot, cold, missing = asyncio.run(work())
    assert hot is not None
    assert cold is not None
    assert 0 <= cold < hot <= 1
    assert missing is None


@pytest.mark.long(because="watches a service")
@pytest.mark.parametrize("policy", share(["allkeys-lru", "noeviction"]))
def test_watched_reads_are_counted_without_lfu(service: Application, policy: str) -> None:
    """The service reads one slug as often as a row that never exists again, and the slug's row as often as both."""
    with service.redis.client() as client:
        before = client.config_get("maxmemory-policy")["maxmemory-policy"]
        client.config_set("maxmemory-policy", policy)
    try:
        data = service.process("top", "--once", "--watch", "0.5", "--json", "--values").data
        shown = service.run("top", "--once", "--watch", "0.2").out
    finally:
        with service.redis.client() as client:
            client.config_set("maxmemory-policy", before)
    reads = {each["key"]: each["reads"] for each in data["keys"]}
    assert reads["shop:amc:i:default:listing:slug:ssecret-1"] > 1
    assert reads["shop:amc:r:default:listing:i1"] > 1
    never = [rate for key, rate in reads.items() if ":listing:i1000" in key]
    assert all(rate < reads["shop:amc:i:default:listing:slug:ssecret-1"] for rate in never)
    assert re.search(r"^hottest +reads/s +key$", shown, re.MULTILINE)
    with service.redis.client() as client:
        assert not [each for each in client.client_list() if each["cmd"] == "monitor"]


def test_without_permission_to_watch_the_server_is_asked(filled: Application, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(top, "WINDOW", 0.1)
    with filled.redis.client() as client:
        rules = {"enabled": True, "passwords": ["+word"], "keys": ["*"], "commands": ["+@all", "-monitor"]}
        client.acl_setuser("unwatched", **rules, reset=True)
    filled.keys = {"url": f'"{filled.redis.url.replace("redis://", "redis://unwatched:word@")}"'}
    filled.configure()
    assert {*filled.run("top", "--once", "--watch", "0.1", "--json").data["keys"][0]} == {"key", "cache", "heat"}


def test_watched_keys_are_read_as_they_were_sent(own_redis: RedisServer) -> None:
    odd = [b"a b", b'quoted "key"', b"back\\slash", b"\x00\xff\n\r\t", b"x41", b"[0 lua]", b'"', "ü".encode()]

    async def work() -> dict[bytes, int]:
        connect: Any = redis.asyncio.Redis.from_url  # pyright: ignore
        async with connect(own_redis.patient_url) as client, connected(own_redis.patient_url) as store:
            watching = asyncio.create_task(store.watch_reads(60))
            while not [each for each in await client.client_list() if each["cmd"] == "monitor"]:
                pass
            await client.mget([*odd, b"other"])
            for key in odd:
                await client.get(key)
                await client.set(key, b"GET")
            await client.eval("return redis.call('GET', KEYS[1])", 1, b"other")
            for _ in range(MAX_WATCHED // 100 + 1):
                await asyncio.gather(*[client.ping() for _ in range(100)])
            reads = await watching
            assert reads is not None
            assert reads.commands == MAX_WATCHED
            return dict(reads.keys)

    assert asyncio.run(work()) == {**dict.fromkeys(odd, 2), b"other": 1}


def worker(name: str, **counts: int) -> Worker:
    counters = Counters(hits=counts.get("hits", 0), misses=counts.get("misses", 0))
    stats = Stats(statements=counts.get("statements", 0), by_cache={"Event": counters})
    return Worker(name=name, host="here", pid=1, started=0.0, stats=stats)


class TestWindow:
    def test_rates_are_those_of_the_window(self) -> None:
        window = RateWindow()
        assert window.add(100.0, [worker("a", hits=1000)]).data()["lookups"] == 0.0
        measured = [
            window.add(100.0 + second, [worker("a", hits=1000 + 10 * second, misses=10 * second)])
            for second in range(1, 20)
        ]
        data = measured[-1].data()
        assert (data["lookups"], data["hit_ratio"], data["window"]) == (20.0, 0.5, 5.0)

    def test_a_process_that_comes_or_goes_is_no_jump(self) -> None:
        window = RateWindow()
        window.add(100.0, [worker("a", hits=1000)])
        assert window.add(101.0, [worker("a", hits=1001), worker("b", hits=70_000)]).data()["lookups"] == 1.0
        assert window.add(102.0, [worker("b", hits=70_003)]).data()["lookups"] == 1.5


class TestHotKeys:
    def test_keys_that_are_read_more_come_first(self) -> None:
        hot = HotKeys()
        for _ in range(10):
            hot.add([(b"cold", 0.02), (b"hot", 1.0), (b"warm", 0.3)])
        assert [key for key, _ in hot.hottest(2)] == [b"hot", b"warm"]
        hot.add([(b"hot", None)])
        assert hot.candidates([b"new"]) == [b"warm", b"cold", b"new"]

    def test_candidates_are_bounded(self) -> None:
        hot = HotKeys()
        hot.add([(b"%d" % number, 0.5 + number / 10_000) for number in range(1_000)])
        assert len(hot.candidates([])) == 200
        assert hot.hottest(1)[0][0] == b"999"
