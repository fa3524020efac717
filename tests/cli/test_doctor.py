"""``aiomodelcache doctor`` finds each planted fault."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from aiomodelcache.inspection import diagnosis
from tests.support.application import Application
from tests.support.servers import RedisServer


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
    """Returns what doctor reports of each subject."""
    data = application.run("doctor", "--json", status=status).data
    assert data["ok"] is (status == 0)
    return {each["subject"]: (each["level"], each["text"], each["remedy"]) for each in data["findings"]}


def test_a_healthy_application_has_no_findings(healthy: Application) -> None:
    found = findings(healthy)
    assert {subject: text for subject, (level, text, _) in found.items() if level != "ok"} == {}
    assert {"declarations", "database", "store", "version", "role", "eviction", "persistence", "clocks"} <= {*found}
    assert {"namespaces"} <= {*found}
    assert "\x1b[32mok" in healthy.terminal("doctor")
    assert "\x1b" not in healthy.process("doctor").out


def test_an_eviction_policy_that_takes_marks_first_is_an_error(healthy: Application, server: Any) -> None:
    server.config_set("maxmemory-policy", "volatile-ttl")
    level, text, remedy = findings(healthy, status=1)["eviction"]
    assert (level, remedy) == ("error", "Set maxmemory-policy to allkeys-lru.")
    assert "volatile-ttl" in text
    out = healthy.process("doctor", status=1).out
    assert f"error eviction: {text}\n    {remedy}\n" in out


def test_noeviction_is_a_warning(healthy: Application, server: Any) -> None:
    server.config_set("maxmemory-policy", "noeviction")
    level, text, remedy = findings(healthy)["eviction"]
    assert (level, remedy) == ("warning", "Set maxmemory-policy to allkeys-lru.")
    assert "noeviction" in text


def test_memory_without_a_limit_is_a_warning(healthy: Application, server: Any) -> None:
    server.config_set("maxmemory", 0)
    level, text, remedy = findings(healthy)["eviction"]
    assert level == "warning"
    assert "no limit" in text
    assert "Set maxmemory" in remedy


@pytest.mark.parametrize(("setting", "value"), [("save", "3600 1"), ("appendonly", "yes")])
def test_persistence_is_a_warning(healthy: Application, server: Any, setting: str, value: str) -> None:
    server.config_set(setting, value)
    level, text, remedy = findings(healthy)["persistence"]
    assert (level, remedy) == ("warning", 'Set save "" and appendonly no.')
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
    assert (level, remedy) == ("error", "Permit it: ACL SETUSER <name> +info.")
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
    assert found["table"][2] == "Run the migrations."


def test_a_database_that_does_not_answer_is_an_error(healthy: Application) -> None:
    healthy.database = healthy.database.replace("shop.sqlite3", "no/such/folder/shop.sqlite3")
    healthy.configure()
    level, text, _ = findings(healthy, status=1)["database"]
    assert level == "error"
    assert text.startswith("default does not answer")


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
