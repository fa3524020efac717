"""``aiomodelcache keys`` and ``aiomodelcache stats``."""

from aiomodelcache.encoding.layout import VALUE, new_token, pack_entry
from aiomodelcache.observe.fleet import Worker, encode_worker
from aiomodelcache.observe.stats import Stats
from tests.cli.conftest import create_rows
from tests.support.application import Application
from tests.support.servers import RedisServer


def test_keys_are_counted_by_cache_and_state_without_values(filled: Application) -> None:
    ran = filled.run("keys", "Listing", "--json")
    assert "secret" not in ran.out
    assert ":i1" not in ran.out
    totals = {total["cache"]: total for total in ran.data["totals"]}
    assert (totals["Listing"]["keys"], totals["Listing"]["states"]) == (5, {"hit": 5})
    assert totals["Listing (slug)"]["states"] == {"hit": 5, "negative": 1}
    assert totals["Listing.marks"]["kind"] == "many-to-many"
    assert totals["ListingCount (seller_id) of Listing"]["keys"] == 1
    assert totals["epoch of Listing"]["states"] == {"version": 1}
    assert "Seller" not in totals
    assert 0 < totals["Listing"]["oldest"] < 300


def test_keys_with_values_are_listed_up_to_the_limit(filled: Application) -> None:
    keys = filled.run("keys", "Listing", "--values", "--json").data["keys"]
    assert "shop:amc:i:default:listing:slug:ssecret-1" in [key["key"] for key in keys]
    [row] = [key for key in keys if key["key"] == "shop:amc:r:default:listing:i3"]
    assert row["state"] == "hit"
    assert 3000 < row["expires_in"] < 4000
    out = filled.run("keys", "Listing", "--values", "--limit", "2").out
    assert f"{len(keys) - 2} more keys: raise --limit to list them." in out


def test_keys_of_cached_functions_and_empty_stores(filled: Application, redis_server: RedisServer) -> None:
    totals = {total["cache"]: total["keys"] for total in filled.run("keys", "titles", "--json").data["totals"]}
    assert totals["titles"] == 1
    assert "have no keys" not in filled.run("keys", "Listing").out
    redis_server.flush()
    assert filled.run("keys", "Listing").out == "No keys.\n"


def test_a_cache_class_is_counted_with_its_model(filled: Application) -> None:
    assert "name its model" in filled.run("keys", "Latest", status=2).err


def test_stats_count_everything_and_show_the_server(filled: Application, redis_server: RedisServer) -> None:
    with redis_server.client() as client:
        client.set("shop:amc:r:default:forgotten:i1", b"V")
        client.set("elsewhere", b"x")
        number = client.dbsize()
    data = filled.run("stats", "--json").data
    assert data["keys"] == number - 1
    assert data["size"] == sum(total["size"] for total in data["totals"])
    assert data["server"]["role"] == "master"
    [unknown] = [total for total in data["totals"] if total["kind"] == "unknown"]
    assert unknown["keys"] == 1
    out = filled.process("stats").out
    assert "memory limit" in out
    assert "(not declared here)" in out
    assert "\x1b" not in out


def test_stats_work_where_info_is_not_permitted(filled: Application, redis_server: RedisServer) -> None:
    with redis_server.client() as client:
        client.acl_setuser(
            "limited", enabled=True, passwords=["+word"], keys=["*"], commands=["+@all", "-info"], reset=True
        )
    url = redis_server.url.replace("redis://", "redis://limited:word@")
    ran = filled.run("stats", "--url", url)
    assert "the server does not permit INFO to this user" in ran.out
    assert "Listing (slug)" in ran.out
    assert "word" not in ran.out


def test_other_namespaces_are_not_counted(filled: Application) -> None:
    assert filled.run("stats", "--json", "--namespace", "other").data["keys"] == 0


CONFIG = """
from aiomodelcache import CacheConfig

CACHE = CacheConfig(tenant=lambda: None)
"""


def test_the_keys_of_tenants_are_counted_and_not_named(application: Application) -> None:
    application.do(create_rows, tenant=lambda: "secret-tenant")
    (application.folder / f"cache_{application.folder.name}.py").write_text(CONFIG)
    ran = application.run("keys", "Listing", "--config", f"cache_{application.folder.name}.CACHE", "--json")
    totals = {total["cache"]: total["states"] for total in ran.data["totals"]}
    assert totals["Listing"] == {"hit": 5}
    assert "secret" not in ran.out
    ran = application.run("explain", "Listing", "id=1", "--config", f"cache_{application.folder.name}.CACHE", status=2)
    assert "has no tenant" in ran.err


SIGNED = """
from aiomodelcache import CacheConfig

CACHE = CacheConfig(secret=b"a secret of the application")
"""


def test_signed_entries_are_read_with_the_secret_of_the_application(application: Application) -> None:
    application.do(create_rows, secret=b"a secret of the application")
    name = f"signed_{application.folder.name}"
    (application.folder / f"{name}.py").write_text(SIGNED)
    application.keys = {"config": f'"{name}.CACHE"'}
    application.configure()
    totals = {total["cache"]: total["states"] for total in application.run("keys", "Listing", "--json").data["totals"]}
    assert totals["Listing"] == {"hit": 5}
    assert application.run("verify", "--json").data["compared"] > 10


def test_stats_show_the_workers_that_publish_their_counters(filled: Application, redis_server: RedisServer) -> None:
    assert filled.run("stats", "--json").data["workers"] == []
    worker = Worker.here()
    stats = Stats(statements=4, round_trips=6)
    stats.of("Listing").hits, stats.of("Listing").misses = 3, 1
    entry = pack_entry(
        VALUE, new_token(), bytes(24), 0, encode_worker(worker.at(stats, breaker_open=False, undelivered_keys=0))
    )
    with redis_server.client() as client:
        client.set("shop:amc:f:7", entry)
    data = filled.run("stats", "--json").data
    [shown] = data["workers"]
    assert shown["worker"] == worker.name
    assert (shown["hits"], shown["misses"], shown["statements"], shown["breaker_open"]) == (3, 1, 4, False)
    assert shown["by_cache"] == {"Listing": [3, 1]}
    [total] = [total for total in data["totals"] if total["kind"] == "counters"]
    assert total["states"] == {"published": 1}
    out = filled.process("stats").out
    assert f"{worker.host} {worker.pid}" in out
    assert "75.0 %" in out
