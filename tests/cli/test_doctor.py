"""``aiomodelcache doctor`` finds each planted fault."""

import asyncio
import re
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from tortoise.connection import get_connection
from tortoise.context import TortoiseContext

from aiomodelcache import ModelCache
from aiomodelcache.cli import usage
from aiomodelcache.inspection import diagnosis
from aiomodelcache.observe.fleet import Worker
from aiomodelcache.observe.stats import Counters, Stats
from tests.cli.conftest import read_rows
from tests.cli.middlemen import Rewrite, middleman, unchanged
from tests.support.application import MODULE, Application
from tests.support.databases import SQLiteDatabases
from tests.support.models.shop_models import Listing, Seller
from tests.support.servers import MariaDBServer, PostgresServer, RedisServer


@pytest.fixture
def healthy(filled: Application, own_redis: RedisServer) -> Application:
    """The application with a server of its own that has no fault."""
    with own_redis.client() as client:
        client.config_set("maxmemory", "64mb")
        client.config_set("maxmemory-policy", "allkeys-lru")
    filled.redis = own_redis
    filled.configure()
    return filled


@pytest.fixture
def server(healthy: Application) -> Iterator[Any]:
    """A client of the healthy application's server, to plant faults with."""
    with healthy.redis.client() as client:
        yield client


def findings(application: Application, *, status: int = 0) -> dict[str, tuple[str, str, str]]:
    """Returns what doctor reports of each subject: the level, the text, and the remedy with what to paste."""
    data = application.run("doctor", "--json", status=status).data
    assert data["ok"] is (status == 0)
    return {
        each["subject"]: (each["level"], each["text"], "\n".join([each["remedy"], *each["paste"]]))
        for each in data["findings"]
    }


def faults(application: Application, subject: str, *options: str, status: int = 0) -> list[dict[str, Any]]:
    """Returns the findings of one subject that are not in order."""
    data = application.run("doctor", "--json", *options, status=status).data
    return [each for each in data["findings"] if each["subject"] == subject and each["level"] != "ok"]


def test_a_healthy_application_has_no_findings(healthy: Application) -> None:
    found = findings(healthy)
    assert {subject: text for subject, (level, text, _) in found.items() if level != "ok"} == {}
    assert {"declarations", "database", "store", "version", "role", "eviction", "persistence", "clocks"} <= {*found}
    assert {"namespaces", "memory", "proxy", "tables", "signals", "methods", "managers", "source"} <= {*found}
    assert {"collations", "unused", "costs"} <= {*found}
    assert "\x1b[32mok" in healthy.terminal("doctor")
    assert "\x1b" not in healthy.process("doctor").out


def test_an_eviction_policy_that_takes_marks_first_is_an_error(healthy: Application, server: Any) -> None:
    server.config_set("maxmemory-policy", "volatile-ttl")
    level, text, remedy = findings(healthy, status=1)["eviction"]
    prose, _, command = remedy.partition("\n")
    assert (level, command) == ("error", "redis-cli CONFIG SET maxmemory-policy allkeys-lru")
    assert "volatile-ttl" in text
    out = healthy.process("doctor", status=1).out
    assert f"error eviction: {text}\n    {prose}\n        {command}\n" in out


@pytest.mark.parametrize("policy", ["allkeys-lfu", "volatile-lfu", "allkeys-random", "volatile-random"])
def test_a_policy_that_may_take_marks_is_a_warning(healthy: Application, server: Any, policy: str) -> None:
    server.config_set("maxmemory-policy", policy)
    level, text, remedy = findings(healthy)["eviction"]
    assert (level, remedy.splitlines()[1]) == ("warning", "redis-cli CONFIG SET maxmemory-policy allkeys-lru")
    assert text.startswith(policy)


def test_noeviction_is_a_warning(healthy: Application, server: Any) -> None:
    server.config_set("maxmemory-policy", "noeviction")
    level, text, remedy = findings(healthy)["eviction"]
    assert (level, remedy.splitlines()[1]) == ("warning", "redis-cli CONFIG SET maxmemory-policy allkeys-lru")
    assert "noeviction" in text


def test_memory_without_a_limit_is_a_warning(healthy: Application, server: Any) -> None:
    server.config_set("maxmemory", 0)
    level, text, remedy = findings(healthy)["eviction"]
    assert level == "warning"
    assert "no limit" in text
    assert "redis-cli CONFIG SET maxmemory 256mb" in remedy


def test_memory_that_is_nearly_full_is_a_warning(healthy: Application, server: Any) -> None:
    for number in range(200):  # not in one request, whose buffer would count and vanish
        server.set(f"filler:{number}", bytes(100_000))
    server.config_set("maxmemory", int(server.info("memory")["used_memory"] * 1.05))
    level, text, remedy = findings(healthy)["memory"]
    assert (level, text.partition("%")[2]) == ("warning", " of maxmemory is used")
    assert 90 <= int(text.partition("%")[0]) <= 100
    assert remedy.endswith("redis-cli CONFIG SET maxmemory 256mb")


@pytest.mark.parametrize(("setting", "value"), [("save", "3600 1"), ("appendonly", "yes")])
def test_persistence_is_a_warning(healthy: Application, server: Any, setting: str, value: str) -> None:
    server.config_set(setting, value)
    level, text, remedy = findings(healthy)["persistence"]
    assert level == "warning"
    assert remedy.splitlines()[1:] == ['redis-cli CONFIG SET save ""', "redis-cli CONFIG SET appendonly no"]
    assert text.startswith(setting)


def test_a_replica_is_an_error_that_names_the_primary(
    healthy: Application, server: Any, redis_server: RedisServer
) -> None:
    server.replicaof("127.0.0.1", redis_server.port)
    try:
        level, text, remedy = findings(healthy, status=1)["role"]
    finally:
        server.replicaof("NO", "ONE")
    assert (level, text) == ("error", "the URL leads to a replica")
    assert remedy == f"Use the URL of the primary, 127.0.0.1:{redis_server.port}."


def test_a_user_without_info_is_an_error(healthy: Application, server: Any) -> None:
    server.acl_setuser("some", enabled=True, passwords=["+word"], keys=["*"], commands=["+@all", "-info"], reset=True)
    healthy.keys = {"url": f'"{healthy.redis.url.replace("redis://", "redis://some:word@")}"'}
    healthy.configure()
    found = findings(healthy, status=1)
    level, text, remedy = found["INFO"]
    assert (level, remedy) == ("error", "Permit it:\nACL SETUSER <name> +info")
    assert "word" not in str(found)


def test_a_user_without_scripts_is_an_error(healthy: Application, server: Any) -> None:
    server.acl_setuser("some", enabled=True, passwords=["+word"], keys=["*"], commands=["+@all", "-script"], reset=True)
    healthy.keys = {"url": f'"{healthy.redis.url.replace("redis://", "redis://some:word@")}"'}
    healthy.configure()
    level, text, remedy = findings(healthy, status=1)["store"]
    assert (level, remedy) == ("error", "Correct the URL, or the permissions of its user.")


def test_a_second_namespace_for_one_table_is_found(healthy: Application, server: Any) -> None:
    server.set("shoop:amc:r:default:listing:i1", b"V")
    server.set("shoop:amc:r:default:unrelated:i1", b"V")
    level, text, remedy = findings(healthy)["namespaces"]
    assert (level, text) == ("warning", "rows of listing are also cached under namespace 'shoop'")
    assert "use one namespace" in remedy
    assert remedy.endswith('ModelCache(url, namespace="shop")')


def test_a_second_name_of_the_connection_is_found(healthy: Application, server: Any) -> None:
    server.set("shop:amc:i:models:listing:slug:sx", b"V")
    level, text, _ = findings(healthy)["namespaces"]
    assert (level, text) == ("warning", "rows of listing are also cached under the connection 'models'")


def test_evictions_are_a_warning(healthy: Application, server: Any) -> None:
    for number in range(200):
        server.set(f"filler:{number}", bytes(10_000))
    server.config_set("maxmemory", 1_500_000)
    server.set("one", bytes(10_000))
    server.config_set("maxmemory", "64mb")
    level, text, _ = findings(healthy)["evictions"]
    assert level == "warning"
    assert "the server has evicted" in text


def test_a_server_that_does_not_answer_is_an_error(healthy: Application) -> None:
    healthy.redis.kill()
    level, text, _ = findings(healthy, status=1)["store"]
    assert level == "error"
    assert "cannot be reached" in text


def test_a_missing_table_is_an_error(healthy: Application) -> None:
    healthy.database = "sqlite://:memory:"
    healthy.configure()
    found = findings(healthy, status=1)
    assert found["table"][0] == "error"
    assert found["table"][2] == "Run the migrations:\naerich upgrade"


def test_a_database_that_does_not_answer_is_an_error(healthy: Application) -> None:
    healthy.database = healthy.database.replace("shop.sqlite3", "no/such/folder/shop.sqlite3")
    healthy.configure()
    level, text, _ = findings(healthy, status=1)["database"]
    assert level == "error"
    assert text.startswith("default does not answer")


def test_the_thread_of_a_database_that_does_not_answer_ends_before_the_event_loop(
    healthy: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread would raise an exception that it cannot report, which fails the test."""

    class Slow(SimpleQueue[Any]):
        def get(self, block: bool = True, timeout: float | None = None) -> Any:
            found = super().get(block, timeout)
            if "close_and_stop" in repr(found):
                time.sleep(0.3)
            return found

    monkeypatch.setattr("aiosqlite.core.SimpleQueue", Slow)
    before = set(threading.enumerate())
    test_a_database_that_does_not_answer_is_an_error(healthy)
    for thread in set(threading.enumerate()) - before:
        thread.join(5)


def through(application: Application, kind: Any = "of its own", rewrite: Rewrite = unchanged) -> Any:
    """Returns what doctor reports of an application whose URL leads through a proxy."""
    with middleman(application.redis.port, kind, rewrite) as url:
        application.keys = {"url": f'"{url}"'}
        application.configure()
        return application.run("doctor", "--json").data if kind == "of its own" else findings(application, status=1)


def test_a_proxy_with_connections_for_each_client_is_a_warning(healthy: Application) -> None:
    [found] = [each for each in through(healthy)["findings"] if each["subject"] == "proxy"]
    assert found["level"] == "warning"
    assert "the server sees 127.0.0.1:" in found["text"]
    assert "must not repeat requests" in found["remedy"]


@pytest.mark.parametrize(("kind", "text"), [("shared", "two connections arrive as one"), ("pooled", "has a pool")])
def test_a_proxy_that_shares_its_connections_is_an_error(healthy: Application, kind: str, text: str) -> None:
    level, found, remedy = through(healthy, kind)["proxy"]
    assert level == "error"
    assert text in found
    assert "Use the URL of the server itself" in remedy


def test_a_proxy_that_does_not_know_a_command_is_a_warning(healthy: Application) -> None:
    def refuse(command: tuple[bytes, ...], reply: bytes) -> bytes:
        return b"-ERR unsupported command\r\n" if command[:2] == (b"CLIENT", b"ID") else reply

    [found] = [each for each in through(healthy, rewrite=refuse)["findings"] if each["subject"] == "proxy"]
    assert (found["level"], found["text"]) == ("warning", "CLIENT ID is refused (unsupported command), as a proxy does")


def test_a_user_without_client_id_is_no_proxy(healthy: Application, server: Any) -> None:
    server.acl_setuser(
        "some", enabled=True, passwords=["+word"], keys=["*"], commands=["+@all", "-client|id"], reset=True
    )
    healthy.keys = {"url": f'"{healthy.redis.url.replace("redis://", "redis://some:word@")}"'}
    healthy.configure()
    assert findings(healthy)["proxy"][:2] == ("ok", "not known, because CLIENT ID is not permitted")


def test_an_old_version_is_an_error(healthy: Application) -> None:
    """The server is of this machine's version, and a proxy lets it say that it is of another."""

    def old(command: tuple[bytes, ...], reply: bytes) -> bytes:
        if command != (b"INFO",):
            return reply
        body = re.sub(
            rb"redis_version:[^\r]*", b"redis_version:4.0.9", reply.partition(b"\r\n")[2].removesuffix(b"\r\n")
        )
        return b"$%d\r\n%b\r\n" % (len(body), body)

    with middleman(healthy.redis.port, rewrite=old) as url:
        healthy.keys = {"url": f'"{url}"'}
        healthy.configure()
        level, text, remedy = findings(healthy, status=1)["version"]
    assert (level, text, remedy) == ("error", "Redis 4.0.9 is too old", "Use Redis 5 or newer.")


def test_a_clock_that_differs_is_a_warning(healthy: Application) -> None:
    """A proxy lets the server say that it is an hour earlier."""

    def earlier(command: tuple[bytes, ...], reply: bytes) -> bytes:
        if command != (b"TIME",):
            return reply
        seconds = b"%d" % (int(reply.split(b"\r\n")[2]) - 3_600)
        return b"*2\r\n$%d\r\n%b\r\n$1\r\n0\r\n" % (len(seconds), seconds)

    [found] = [each for each in through(healthy, rewrite=earlier)["findings"] if each["subject"] == "clocks"]
    assert (found["level"], found["paste"]) == ("warning", ["sudo timedatectl set-ntp true"])
    assert re.fullmatch(r"this machine's clock and the server's differ by 3[56]\d\d s", found["text"])


INFO: Mapping[str, str] = {
    "redis_version": "7.2.4", "role": "master", "maxmemory": "1000000", "maxmemory_policy": "allkeys-lru",
    "aof_enabled": "0", "evicted_keys": "0",
}  # fmt: skip
"""The INFO of a healthy server. The tests edit it, because they cannot start a server of another version."""


@pytest.mark.parametrize(
    ("version", "near", "level"),
    [("4.0.9", False, "error"), ("5.0.1", False, "ok"), ("5.0.1", True, "warning"), ("6.0.0", True, "ok")],
)
def test_versions_are_judged(version: str, near: bool, level: str) -> None:
    found = diagnosis.of_server({**INFO, "redis_version": version}, "", near=near)
    assert [each.level for each in found if each.subject == "version"] == [level]
    assert all(each.level == "ok" for each in found if each.subject != "version")


def test_clocks_that_differ_are_a_warning() -> None:
    assert diagnosis.of_clocks(1_000.0, 1_004.0).level == "ok"
    finding = diagnosis.of_clocks(1_000.0, 1_060.0)
    assert (finding.level, finding.text) == ("warning", "this machine's clock and the server's differ by 60 s")


# Declarations and source --------------------------------------------------------------------------------------

FAULTY = "tests.support.models.faulty_models"
CARD = "tests.support.models.faulty_card"


@pytest.fixture
def faulty(healthy: Application, sqlite_databases: SQLiteDatabases, tmp_path: Path) -> Application:
    """The application with models that have faults."""
    healthy.modules = (MODULE, FAULTY, CARD)
    healthy.database = sqlite_databases.create(tmp_path / "faulty.sqlite3", MODULE, FAULTY)
    healthy.configure()
    return healthy


def test_models_of_one_table_with_other_columns_are_found(faulty: Application) -> None:
    [found] = faults(faulty, "tables", status=1)
    assert found["level"] == "warning"
    assert found["text"].startswith("Stall, StallCard cache rows of stall with other columns")
    assert found["paste"] == ["class StallCard(Model):"]


def test_overridden_methods_that_write_on_their_own_are_found(faulty: Application) -> None:
    [found] = faults(faulty, "methods", status=1)
    assert found["text"] == "Around.save does not call super().save(), so its writes may leave old entries"
    assert found["paste"] == ["return await super().save(*args, **kwargs)"]


def test_overridden_signals_are_found(faulty: Application) -> None:
    [found] = faults(faulty, "signals", status=1)
    assert found["text"].startswith("Silent._post_save does not call super()._post_save()")


def test_listeners_that_were_removed_are_an_error(healthy: Application) -> None:
    """The application's module replaces Tortoise's listeners when it is imported, which is before the cache opens.

    A ``CachedModel`` needs none, so the model is a plain one with a manager.
    """
    (healthy.folder / "lost.py").write_text(LOST)
    healthy.keys = {"imports": f'["{MODULE}", "lost"]'}
    healthy.configure()
    ran = healthy.process("doctor", status=1)
    assert "error signals: pre_save of Order does not reach the cache, so its writes leave old entries" in ran.out
    assert "        @pre_save(Order)\n" in ran.out


LOST = """
from aiomodelcache import ModelCacheManager
from tests.support.models.shop_models import Order


class Orders(ModelCacheManager[Order]):
    model = Order


Order.register_listener = classmethod(lambda cls, signal, listener: None)
"""


def test_managers_whose_writes_are_not_noticed_are_found(faulty: Application) -> None:
    fixed, raw = sorted(faults(faulty, "managers", status=1), key=lambda each: each["level"])
    assert (fixed["level"], fixed["text"]) == (
        "error",
        "Fixed of Managed returns querysets whose writes are not noticed",
    )
    assert fixed["paste"] == ["def get_queryset(self):", "    return super().get_queryset()"]
    assert raw["text"].startswith("RawUpdates.update (of Managed) does not call super().update()")


def test_keys_that_compare_loosely_are_found(faulty: Application) -> None:
    script = (
        "DROP TABLE named; CREATE TABLE named (id INTEGER PRIMARY KEY, name VARCHAR(40) COLLATE NOCASE, number INT)"
    )

    async def loosen(cache: ModelCache) -> None:
        await get_connection("default").execute_script(script)

    assert faults(faulty, "collations", status=1) == []
    faulty.do(loosen)
    found = faults(faulty, "collations", status=1)
    assert [each["text"] for each in found] == [
        f"{name} is not cached, because named compares name loosely, or not as declared"
        for name in ("Named (name)", "NamedCount")
    ]
    assert 'ADD COLUMN "new_name" VARCHAR(40)' in found[0]["paste"][0]


def test_the_statement_for_postgres_lets_a_column_compare_exactly(
    healthy: Application, postgres_server: PostgresServer
) -> None:
    async def execute(url: str, *statements: str) -> None:
        async with TortoiseContext() as context:
            await context.init(db_url=url, modules={"app": [MODULE, FAULTY]})
            for statement in statements:
                await context.connections.get("default").execute_script(statement)

    loosen = (
        "CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
        'ALTER TABLE named ALTER COLUMN name TYPE VARCHAR(40) COLLATE "loose"',
    )
    healthy.modules = (MODULE, FAULTY)
    with postgres_server.database(MODULE, FAULTY) as url:
        healthy.database = url
        healthy.configure()
        assert faults(healthy, "collations", status=1) == []
        asyncio.run(execute(url, *loosen))
        found = faults(healthy, "collations", status=1)
        assert len(found) == 2
        asyncio.run(execute(url, *found[0]["paste"]))
        assert faults(healthy, "collations", status=1) == []


def test_texts_of_mariadb_have_no_statement_to_paste(healthy: Application, mariadb_server: MariaDBServer) -> None:
    """No collation of it is surely exact, so the remedy is another key."""
    healthy.modules = (MODULE, FAULTY)
    with mariadb_server.database(MODULE, FAULTY) as url:
        healthy.database = url
        healthy.configure()
        found = faults(healthy, "collations", status=1)
    assert {each["text"].partition(" is not cached")[0] for each in found} == {"Named (name)", "NamedCount"}
    assert {(each["remedy"], *each["paste"]) for each in found} == {
        ("Look the rows up by a number, a UUID or a foreign key, and remove the key.",)
    }


SOURCE = '''
"""UPDATE listing SET title = a docstring writes nothing."""
from tests.support.models.shop_models import Listing, Seller

STATEMENT = "UPDATE listing SET title = 'x'"

async def rename(connection, title):
    """DELETE FROM listing"""
    await connection.execute_query(
        'INSERT INTO "shop"."listing" (id) '
        "VALUES (?)", [1])
    await connection.execute_script(f"""
        WITH old AS (SELECT 1) DELETE FROM {Listing._meta.db_table} WHERE title = {title}
    """)
    await connection.copy_records_to_table("seller", records=[])
    await QuerySet(Seller).update(name="x")
    await connection.execute_query("TRUNCATE TABLE " + "listing_mark")

async def harmless(connection, table):
    await connection.execute_query("SELECT * FROM listing")
    await connection.execute_query("UPDATE unrelated SET listing = 1")
    await connection.execute_query(f"UPDATE {table} SET title = 1")
    raise ValueError("Update listing 7 by hand.")

async def careful(connection):
    await connection.execute_query("UPDATE listing SET title = 'x'")
    await Listing.cache.clear()
'''


def test_sql_that_writes_tables_of_cached_models_is_found_in_the_source(healthy: Application) -> None:
    below = healthy.folder / "shop"
    for name in ("shop/views.py", "migrations/one.py", "tests/test_one.py", ".venv/x.py", "odd/lib.py", "broken.py"):
        (healthy.folder / name).parent.mkdir(exist_ok=True)
        (healthy.folder / name).write_text(SOURCE)
    (healthy.folder / "odd" / "pyvenv.cfg").touch()
    (healthy.folder / "broken.py").write_text("def (")
    found = faults(healthy, "source")
    assert [each["text"].partition(", ")[0] for each in found] == [
        "shop/views.py:5 writes listing by SQL",
        "shop/views.py:10 writes listing by SQL",
        "shop/views.py:12 writes listing by SQL",
        "shop/views.py:15 writes seller by copy_records_to_table()",
        "shop/views.py:16 has QuerySet(Seller)",
        "shop/views.py:17 writes listing_mark by SQL",
    ]
    assert found[0]["paste"] == ["await Listing.cache.invalidate(...)  # or", "await Listing.cache.clear()"]
    assert found[4]["paste"] == ["Seller.all()"]
    assert len(faults(healthy, "source", "--code", str(below))) == 6
    assert faults(healthy, "source", "--code", str(healthy.folder / "migrations")) != []


# Counters -----------------------------------------------------------------------------------------------------


def counted(application: Application, subject: str, work: Callable[[ModelCache], Awaitable[None]]) -> list[Any]:
    """Returns the faults of one subject while a process runs that has done some work and publishes its counters."""

    async def main(cache: ModelCache) -> list[Any]:
        await work(cache)
        cache.publish_stats()
        await cache.fleet()
        return await asyncio.to_thread(faults_of_process, application, subject)

    found: list[Any] = application.do(main)
    return found


def faults_of_process(application: Application, subject: str) -> list[Any]:
    data = application.process("doctor", "--json").data
    return [each for each in data["findings"] if each["subject"] == subject and each["level"] != "ok"]


async def use_everything(cache: ModelCache) -> None:
    """Uses all caches, some of them a thousand times."""
    await read_rows(cache)
    for _ in range(usage.MIN_LOOKUPS):
        await Listing.cache.get(slug="secret-1")
    await Listing.cache.filter(public=True)
    await Listing.cache.filter(other=1)
    await Seller.cache.get(name="kim")
    seller = (await Listing.cache.get(id=1)).seller
    await seller


def test_keys_that_were_never_asked_for_are_found(healthy: Application) -> None:
    healthy.do(create_again)
    assert counted(healthy, "unused", use_everything) == []

    async def use_one(cache: ModelCache) -> None:
        for _ in range(usage.MIN_LOOKUPS):
            await Listing.cache.get(slug="secret-1")

    found = counted(healthy, "unused", use_one)
    texts = [each["text"] for each in found]
    assert any(text.startswith("(public) in filter_key_fields_list of Listing was never asked for") for text in texts)
    assert any(text.startswith("ListingCount was never asked for, in 2") for text in texts)
    assert found[0]["paste"] == ['get_key_fields_list = [("slug",)]', "filter_key_fields_list = []"]


async def create_again(cache: ModelCache) -> None:
    """Lets the new server's entries be read, of rows that the database has."""
    await read_rows(cache)


def test_caches_that_cost_more_than_they_save_are_found(healthy: Application) -> None:
    assert counted(healthy, "costs", use_everything) == []

    async def use_for_nothing(cache: ModelCache) -> None:
        for number in range(usage.MIN_LOOKUPS):
            await Listing.cache.get_or_none(slug=f"none-{number}")

    found = counted(healthy, "costs", use_for_nothing)
    assert [each["text"].partition(":")[0] for each in found] == ["Listing(slug)"]


def published(**by_cache: Counters) -> list[Worker]:
    """Returns a worker with counters of classes and one round trip for each lookup."""
    trips = sum(each.hits + each.misses for each in by_cache.values())
    stats = Stats(round_trips=trips, by_cache=dict(by_cache))
    return [Worker(name="a", host="here", pid=1, started=0.0, stats=stats)]


@pytest.mark.parametrize(
    ("hits", "misses", "seconds", "costly"),
    [(9_000, 1_000, 1.0, False), (100, 9_900, 9.9, True), (900, 10, 0.0001, False), (9_000, 1_000, 0.0001, True)],
)
def test_costs_are_judged_by_the_time_that_hits_save(
    healthy: Application, hits: int, misses: int, seconds: float, costly: bool
) -> None:
    """The round trip takes 0.2 ms. The third case has too few lookups to be judged."""
    workers = published(Rate=Counters(hits=hits, misses=misses, seconds=seconds), titles=Counters(hits=5_000))

    async def judge(cache: ModelCache) -> list[str]:
        return [each.level for each in usage.of_usage(cache.open_cache, workers, 0.0002) if each.subject == "costs"]

    assert healthy.do(judge) == (["warning"] if costly else ["ok"])


@pytest.mark.parametrize(("limit", "named"), [(1, True), (40, False)])
def test_lookups_that_waited_too_long_for_the_database_are_an_error(
    healthy: Application, limit: int, named: bool
) -> None:
    workers = published(Rate=Counters(hits=5_000), titles=Counters(hits=5_000))
    workers[0].stats.overloaded_loads, workers[0].stats.load_limits = 7, {"default": limit}

    async def judge(cache: ModelCache) -> list[str]:
        found = usage.of_usage(cache.open_cache, workers, 0.0002)
        return [f"{each.level} {each.text}" for each in found if each.subject == "overload"]

    text = "error 7 lookups of 1 process have waited for a statement for longer than load_wait"
    assert healthy.do(judge) == [text + ("; default is given fewer than 4 at once" if named else "")]
