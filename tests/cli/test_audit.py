"""``aiomodelcache audit`` finds planted stale entries of other caches, and nothing else."""

import asyncio
import datetime
import json
import pickle
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from tortoise.connection import get_connection

from aiomodelcache import ModelCache
from aiomodelcache.cli import audit
from tests.support.application import Application
from tests.support.models.shop_models import Order, Seller

KEYS = ("Order", "--key", "order:{pk}", "--codec", "pickle")
OWN = "tests.cli.test_audit:{}"
NUMBER = 40
FUNCTIONS: dict[str, Callable[[int], Awaitable[Any]]] = {}
"""The functions of the test that runs, by name."""


class Kept:
    """A cache with ``get``, as cashews and aiocache have it. Its instances may be called, as that of cashews."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    async def get(self, key: str) -> Any:
        return self.values.get(key)

    def __call__(self) -> None:
        raise AssertionError("only get is to be called")


kept = Kept()


async def held(pk: int) -> Any:
    """Returns what the function of the test that runs returns."""
    return await FUNCTIONS["held"](pk)


def plain(pk: int) -> None:
    """Is not async."""


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    yield
    FUNCTIONS.clear()
    kept.values.clear()


@pytest.fixture
def orders(application: Application) -> Application:
    """The application with rows, and with pickles of them in Redis, as a cache made by hand has them."""

    async def create(cache: ModelCache) -> None:
        await Seller.create(id=1, name="kim")
        await Order.bulk_create(
            [Order(id=n, title=f"secret-{n}", price="7.50", seller_id=1) for n in range(1, NUMBER + 1)]
        )
        with application.redis.client() as redis:
            for order in await Order.all():
                redis.set(f"order:{order.pk}", pickle.dumps(order))

    application.do(create)
    return application


def behind(application: Application, *statements: str) -> None:
    """Runs statements that the cache does not notice."""

    async def work(cache: ModelCache) -> None:
        for statement in statements:
            await get_connection("default").execute_script(statement)

    application.do(work)


def test_entries_that_agree_are_status_0(orders: Application) -> None:
    data = orders.run("audit", *KEYS, "--json").data
    assert (data["sampled"], data["compared"], data["agree"], data["stale"]) == (NUMBER, NUMBER, NUMBER, 0)
    assert (data["model"], data["complete"], data["columns_not_held"], data["late_at_least"]) == (
        "app.Order",
        True,
        [],
        None,
    )
    assert data["stale_at_most"] == pytest.approx(1 - 0.05 ** (1 / NUMBER))
    out = orders.process("audit", *KEYS).out
    assert out == "ok 40 entries agree with the database, so fewer than 7.3 % of all are stale (95 % confidence)\n"


def test_planted_faults_are_found_and_no_others(orders: Application) -> None:
    """Two rows were written, one entry was evicted, one cannot be decoded, and one row was deleted and is not taken."""
    old = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=2)
    behind(
        orders,
        f"UPDATE shop_order SET title = 'behind', updated = '{old.isoformat(' ')}' WHERE id = 3",
        "UPDATE shop_order SET price = '8.00', title = 'behind' WHERE id = 4",
        "DELETE FROM shop_order WHERE id = 5",
    )
    with orders.redis.client() as redis:
        redis.delete("order:6")
        redis.set("order:7", b"no pickle")
        before = {key: redis.get(key) for key in redis.scan_iter("order:*")}
    data = orders.run("audit", *KEYS, "--json", status=1).data
    assert (data["sampled"], data["not_cached"], data["compared"], data["stale"]) == (39, 1, 37, 2)
    assert data["differs"] == {"title": 2, "price": 1, "updated": 1}
    assert data["not_compared"] == {"pickle cannot decode them (UnpicklingError)": 1}
    ran = orders.run("audit", *KEYS, "--updated", "updated", "--ignore", "updated", status=1)
    lines = ran.out.splitlines()
    assert lines[0].split() == ["differs", "in", "entries"]
    assert [line.split() for line in lines[1:3]] == [["title", "2"], ["price", "1"]]
    assert "error 2 of 37 entries are stale, so at most 17 % of all (95 % confidence)" in lines
    assert any(line.startswith("half of them are stale for ") and "one for 2h 0m or longer" in line for line in lines)
    assert "1 of 39 rows are not cached" in lines
    assert "1 not compared: pickle cannot decode them (UnpicklingError)" in lines
    assert "secret" not in ran.out
    assert "behind" not in ran.out
    with orders.redis.client() as redis:
        assert {key: redis.get(key) for key in redis.scan_iter("order:*")} == before, "audit writes nothing"


def test_the_accepted_share_decides_the_status(orders: Application) -> None:
    behind(orders, "UPDATE shop_order SET title = 'behind' WHERE id <= 2")
    assert "error 2 of 40" in orders.run("audit", *KEYS, "--max-stale", "0.04", status=1).out
    assert "warning 2 of 40" in orders.run("audit", *KEYS, "--max-stale", "0.05").out
    data = orders.run("audit", *KEYS, "--sample", "10", "--json", status=None).data
    assert data["sampled"] == data["compared"] == 10


def test_values_are_shown_only_if_asked_for(orders: Application) -> None:
    behind(orders, "UPDATE shop_order SET title = 'behind' WHERE id = 9")
    ran = orders.run("audit", *KEYS, "--values", status=1)
    assert ran.out.splitlines()[1].split() == ["9", "title", "'secret-9'", "'behind'"]
    [entry] = orders.run("audit", *KEYS, "--json", status=1).data["entries"]
    assert entry == {"differs": ["title"], "late_at_least": None}
    [entry] = orders.run("audit", *KEYS, "--values", "--json", status=1).data["entries"]
    assert (entry["pk"], entry["cached"]["title"], entry["stored"]["title"]) == (9, "secret-9", "behind")


def test_rows_and_entries_that_change_meanwhile_are_no_fault(orders: Application) -> None:
    """A row is written after its entry was read, an entry is replaced after its row was read, and one has moved on."""
    reads: dict[int, int] = {}

    async def change(pk: int) -> Any:
        reads[pk] = reads.get(pk, 0) + 1
        if pk == 1:  # an old row in the cache, and the next write between the two reads of the database
            await Order.filter(id=1).update(title=f"written-{reads[pk]}")
            return {"title": "old"}
        if pk == 2:  # invalidated after the first read
            return {"title": "old"} if reads[pk] == 1 else None
        if pk == 3:  # replaced after the first read
            return {"title": f"old-{reads[pk]}"}
        if pk == 4:
            return {"title": "old"}
        return None

    FUNCTIONS["held"] = change
    data = orders.run("audit", "Order", OWN.format("held"), "--json", status=1).data
    assert (data["changed_meanwhile"], data["stale"], data["not_cached"]) == (3, 1, NUMBER - 4)
    assert set(reads.values()) == {1, 2}


def test_deleted_rows_and_entries_of_their_absence_are_stale(orders: Application) -> None:
    async def absent(pk: int) -> Any:
        if pk == 1:
            await Order.filter(id=1).delete()
            return {"title": "secret-1"}
        return b"null" if pk == 2 else {"title": f"secret-{pk}"}

    FUNCTIONS["held"] = absent
    data = orders.run("audit", "Order", OWN.format("held"), "--codec", "json", "--json", status=1).data
    assert data["differs"] == {"the row exists no longer": 1, "the row exists": 1}
    assert data["agree"] == NUMBER - 2


@pytest.mark.parametrize("codec", ["json", "msgpack"])
def test_dicts_of_columns_in_other_forms_agree(orders: Application, codec: str) -> None:
    encode: Any = json.dumps if codec == "json" else msgspec.msgpack.encode

    async def fill(cache: ModelCache) -> None:
        with orders.redis.client() as redis:
            for order in await Order.all():
                value = {"pk": order.pk, "price": 7.5, "seller": 1, "updated": order.updated.isoformat(), "other": []}
                redis.set(f"order:{order.pk}", encode(value))

    orders.do(fill)
    ran = orders.run("audit", "Order", "--key", "order:{pk}", "--codec", codec)
    assert "ok 40 entries agree" in ran.out
    assert "not compared: title, which no entry holds" in ran.out


def test_a_column_that_differs_everywhere_is_taken_for_another_form(orders: Application) -> None:
    async def shortened(pk: int) -> Any:
        return {"title": f"secret-{pk}", "seller": {"id": 1}, "price": "7 EUR"}

    FUNCTIONS["held"] = shortened
    source = OWN.format("held")
    hint = "warning price differs in all entries: if they hold it in another form, pass --ignore price"
    assert hint in orders.run("audit", "Order", source, status=1).out
    ran = orders.run("audit", "Order", source, "--ignore", "price")
    assert "not compared: seller_id, updated, which no entry holds" in ran.out


def test_the_rows_changed_last_are_taken(orders: Application) -> None:
    behind(orders, "UPDATE shop_order SET title = 'behind', updated = '2100-01-01 00:00:00+00:00' WHERE id = 17")
    ran = orders.run("audit", *KEYS, "--sample", "1", "--recent", "--updated", "updated", status=1)
    assert "error 1 of 1 entries are stale\n" in ran.out, "no bound on all entries"
    assert "half of them are stale for 0.0s or longer" in ran.out


def test_keys_that_redis_holds_may_be_taken_in_place_of_rows(orders: Application) -> None:
    """Keys of deleted rows are found, and keys of something else are not taken."""
    behind(orders, "DELETE FROM shop_order WHERE id IN (5, 6)")
    with orders.redis.client() as redis:
        redis.delete("order:7")
        for other in ("order:8:tags", "order:new", "order:008", "order:", "orders:9"):
            redis.set(other, b"not of an order")
    assert orders.run("audit", *KEYS, "--json").data["stale"] == 0
    data = orders.run("audit", *KEYS, "--stored", "--json", status=1).data
    assert (data["sampled"], data["compared"], data["stale"]) == (NUMBER - 1, NUMBER - 1, 2)
    assert data["differs"] == {"the row exists no longer": 2}
    seen = {orders.run("audit", *KEYS, "--stored", "--sample", "11", status=None).status for _ in range(30)}
    assert seen == {0, 1}


def test_time_ends_an_audit_with_the_rows_so_far(orders: Application, monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[asyncio.Timeout] = []

    def timeout(seconds: float) -> asyncio.Timeout:
        limits.append(asyncio.timeout(seconds))
        return limits[-1]

    monkeypatch.setattr(audit, "asyncio", SimpleNamespace(timeout=timeout))
    monkeypatch.setattr(audit, "ROWS_AT_ONCE", 10)
    calls, last = iter(range(NUMBER)), 25

    async def stops(pk: int) -> Any:
        if next(calls) == last:
            limits[-1].reschedule(asyncio.get_running_loop().time())
            await asyncio.Event().wait()
        return {"title": f"secret-{pk}"}

    FUNCTIONS["held"] = stops
    ran = orders.run("audit", "Order", OWN.format("held"))
    assert "ok 20 entries agree" in ran.out
    assert "warning ended after 60 s with 20 rows: to compare more, raise --seconds" in ran.out
    calls, last = iter(range(NUMBER)), 0
    ran = orders.run("audit", "Order", OWN.format("held"), status=2)
    assert ran.err == "error: No rows were compared within 60 s: raise --seconds.\n"


def test_the_get_of_another_cache_is_asked_for_keys(orders: Application) -> None:
    kept.values.update({f"order:{n}": {"title": f"secret-{n}"} for n in range(1, 11)})
    ran = orders.run("audit", "Order", OWN.format("kept"), "--key", "order:{pk}")
    assert "ok 10 entries agree" in ran.out
    assert "30 of 40 rows are not cached" in ran.out


MODULES = {
    "cashews": """
from cashews import cache
cache.setup({url!r})
""",
    "aiocache": """
from aiocache import Cache
from aiocache.serializers import PickleSerializer
from urllib.parse import urlsplit
url = urlsplit({url!r})
cache = Cache(Cache.REDIS, endpoint=url.hostname, port=url.port, serializer=PickleSerializer())
""",
}
"""Modules of applications with caches of other libraries."""
FILL = """
async def fill():
    for n in range(1, 21):
        await cache.set(f'of:{n}', {'title': f'secret-{n}' if n > 1 else 'old'})
    await cache.close()
"""


@pytest.mark.slow(because="runs processes, because these libraries leave warnings and connections behind")
@pytest.mark.parametrize("library", MODULES)
def test_the_caches_of_other_libraries_are_asked_for_keys(orders: Application, library: str) -> None:
    module = f"caches_{orders.folder.name}"
    (orders.folder / f"{module}.py").write_text(MODULES[library].format(url=orders.redis.url) + FILL)
    fill = f"import asyncio, {module}; asyncio.run({module}.fill())"
    subprocess.run([sys.executable, "-c", fill], cwd=orders.folder, env=orders.environment, check=True)
    with orders.redis.client() as redis:
        assert len([*redis.scan_iter("of:*")]) == 20
    arguments = ("audit", "Order", f"{module}:cache", "--key", "of:{pk}", "--json")
    data = json.loads(orders.process(*arguments, status=1).out)
    assert (data["compared"], data["stale"], data["differs"]) == (20, 1, {"title": 1})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("Ordr", "x:y"), "No model is called Ordr. There are: Order, app.Order."),
        (("Order",), "Which cache is it? Name a function, like app.caches:cached_event, or keys in Redis by --key"),
        (("Order", "--key", "order:{pk}"), "by --key event:{pk} and --codec."),
        (("Order", "--key", "order", "--codec", "json"), "--key is order, without {pk}: put it in the place"),
        (("Order", OWN.format("none")), "SOURCE is tests.cli.test_audit:none: tests.cli.test_audit has no none."),
        (("Order", OWN.format("NUMBER")), "tests.cli.test_audit:NUMBER is no function: pass --key, like event:{pk}."),
        (("Order", OWN.format("held"), "--key", "o:{pk}"), "is no object with get: leave out --key if it is a"),
        (("Order", OWN.format("plain")), "test_audit:plain returned None without being awaited: define it by"),
        (("Order", OWN.format("held")), "test_audit:held raised KeyError: it must take a primary key, and return None"),
        ((*KEYS, "--ignore", "titel"), "--ignore: Order has no column titel. Its columns: id, price, seller_id, title"),
        ((*KEYS, "--updated", "title"), "--updated: Order.title is no DatetimeField: name the time of the last write."),
        ((*KEYS, "--recent"), "name the column with that time by --updated."),
        (("Order", "--key", "o:{pk}", "--codec", "json"), "None of 40 rows of Order is cached, so nothing was"),
        (("Order", "--key", "order:{pk}", "--codec", "json"), "None of the entries of Order could be compared: json"),
        (("Mark", OWN.format("held")), "Mark has no rows"),
        (("Order", OWN.format("held"), "--stored"), "--stored takes keys that Redis holds: name them by --key"),
        ((*KEYS, "--stored", "--recent"), "--recent takes rows and --stored takes keys: pass one of them."),
    ],
)  # fmt: skip
def test_wrong_use_is_status_2_and_names_the_remedy(
    orders: Application, arguments: tuple[str, ...], message: str
) -> None:
    assert message in orders.run("audit", *arguments, status=2).err


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            b"{}",
            "test_audit:held holds <bytes>: name the codec of its entries, one of json, msgpack, pickle, by --codec.",
        ),
        ([1], "test_audit:held holds <list> for a row of Order, without any of its columns: write a function that"),
        ({"secret": 1}, "holds <dict> for a row of Order, without any of its columns"),
        (Seller(id=1, name="secret"), "holds <Seller> for a row of Order, without any of its columns"),
    ],
)
def test_what_cannot_be_compared_is_named_by_its_type(orders: Application, value: Any, message: str) -> None:
    async def returned(pk: int) -> Any:
        return value

    FUNCTIONS["held"] = returned
    ran = orders.run("audit", "Order", OWN.format("held"), status=2)
    assert message in ran.err
    assert "secret" not in ran.err


def test_keys_of_hashes_and_servers_that_do_not_answer(orders: Application) -> None:
    with orders.redis.client() as redis:
        redis.delete("order:1")
        redis.hset("order:1", "title", "secret")
    assert "holds no string under a key of this pattern: write a function" in orders.run("audit", *KEYS, status=2).err
    ran = orders.run("audit", *KEYS, "--url", "redis://127.0.0.1:1/0", status=3)
    assert "Redis at 127.0.0.1:1 did not answer" in ran.err

    async def away(pk: int) -> Any:
        raise ConnectionRefusedError("no server")

    FUNCTIONS["held"] = away
    assert "A server cannot be reached: no server." in orders.run("audit", "Order", OWN.format("held"), status=3).err
