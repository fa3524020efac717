"""``Dashboard`` over real HTTP: who may see it, what it shows, what it never shows, and when its streams end."""

import asyncio
import json
import logging
import os
import re
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from contextvars import ContextVar
from importlib.resources import files
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.authentication import UnauthenticatedUser
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Mount
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache import CacheConfigurationError, MemoryBackend, ModelCache, ValueCache, cached
from aiomodelcache.contrib.dashboard import Dashboard, feed, stream
from aiomodelcache.contrib.dashboard.access import COOKIE
from aiomodelcache.contrib.dashboard.http import CONTENT_SECURITY_POLICY, MAX_BODY
from aiomodelcache.contrib.dashboard.observed import LookupObserver
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.contrib.watching import HOSTILE, WatchedServer
from tests.support.in_process import client_of
from tests.support.models.models import User
from tests.support.servers import RedisServer

pytestmark = pytest.mark.only_on("sqlite", because="operators see no database")

STATIC = files("aiomodelcache.contrib.dashboard") / "static"
PATHS = ["/", "/dashboard.css", "/dashboard.js", "/icon.svg", "/events", "/explain", "/inspect", "/clear", "/none"]


@asynccontextmanager
async def served(cache: ModelCache, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a dashboard."""
    async with client_of(Dashboard(cache, **({"debug": True} | settings))) as client:
        yield client


@pytest.fixture
async def client(cache: ModelCache) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a dashboard in debug mode, without any other setting."""
    async with served(cache) as found:
        yield found


async def token_of(client: httpx.AsyncClient) -> str:
    """Loads the page, whose cookie the client keeps, and returns the token in it."""
    found = re.search(r'name="csrf" content="([0-9a-f]{64})"', (await client.get("/")).text)
    assert found is not None
    return found[1]


async def post(client: httpx.AsyncClient, path: str, **data: Any) -> tuple[int, dict[str, Any]]:
    """Posts as the page does. Returns the status and the answer."""
    headers = {"X-CSRF-Token": await token_of(client), "Content-Type": "application/json"}
    response = await client.post(path, content=json.dumps(data), headers=headers)
    return response.status_code, response.json()


async def events(response: httpx.Response) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """Yields the server-sent events of a response."""
    name = ""
    async for line in response.aiter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


async def state_when(client: httpx.AsyncClient, condition: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """Watches until the state is as wanted, and returns it."""
    async with asyncio.timeout(20), client.stream("GET", "/events") as response:
        async for name, data in events(response):
            if name == "state" and condition(data):
                return data
    raise AssertionError("the stream ended before the state was as wanted")


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has measurements follow each other fast."""
    monkeypatch.setattr(feed, "INTERVAL", 0.02)
    monkeypatch.setattr(feed, "HEALTH_INTERVAL", 0.0)
    monkeypatch.setattr(stream, "STEP", 0.01)


# Access ------------------------------------------------------------------------------------------------------


async def test_a_dashboard_that_would_be_open_to_all_is_refused(cache: ModelCache) -> None:
    with pytest.raises(CacheConfigurationError, match=r"authorize is missing: pass .*authorize=.* or debug=True"):
        Dashboard(cache)
    with pytest.raises(CacheConfigurationError, match="authorize is <str>: pass"):
        Dashboard(cache, authorize="admin")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_authorize_decides_about_every_path(cache: ModelCache, kind: str) -> None:
    def authorize(scope: Any) -> bool:
        return (b"x-operator", b"yes") in scope["headers"]

    async def authorize_async(scope: Any) -> bool:
        return authorize(scope)

    async with served(cache, authorize=authorize if kind == "plain" else authorize_async, debug=False) as client:
        for path in PATHS:
            for method in ("GET", "HEAD", "POST", "PUT"):
                refused = await client.request(method, path)
                assert refused.status_code == 403, (method, path)
                assert COOKIE not in refused.headers.get("set-cookie", "")
        client.headers["X-Operator"] = "yes"
        assert "Model cache" in (await client.get("/")).text
        assert (await client.get("/none")).status_code == 404


@pytest.mark.parametrize(
    "answer", [None, 0, 1, "no", UnauthenticatedUser(), Response(status_code=302)], ids=lambda each: type(each).__name__
)
async def test_only_true_authorizes(cache: ModelCache, answer: Any) -> None:
    async with served(cache, authorize=lambda scope: answer, debug=False) as client:
        refused = await client.get("/")
        assert refused.status_code == 403
        named = f"authorize returned <{type(answer).__name__}>, not True"
        assert (named in refused.text) is (answer is not None)


async def test_authorize_may_raise_the_exception_of_its_framework(cache: ModelCache) -> None:
    def authorize(scope: Any) -> bool:
        raise HTTPException(401, "who are you?", {"WWW-Authenticate": "Basic"})

    async with client_of(Starlette(routes=[Mount("/cache", Dashboard(cache, authorize=authorize))])) as client:
        response = await client.get("/cache/")
        assert (response.status_code, response.headers["WWW-Authenticate"]) == (401, "Basic")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:8000"}, 200),
        ({"Host": "shop.localhost"}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({"Host": "attacker.example"}, 403),  # a name that leads to this machine
        ({"Host": "127.0.0.1.attacker.example"}, 403),
        ({"Host": ""}, 403),
        ({"X-Forwarded-For": "127.0.0.1"}, 403),
        ({"X-Forwarded-For": "203.0.113.7"}, 403),
        ({"Forwarded": "for=203.0.113.7"}, 403),
        ({"X-Real-IP": "203.0.113.7"}, 403),
        ({"Via": "1.1 proxy"}, 403),
    ],
)
async def test_debug_mode_is_for_this_machine_alone(
    client: httpx.AsyncClient, headers: dict[str, str], status: int
) -> None:
    response = await client.get("/", headers=headers)
    assert response.status_code == status
    if status == 403:
        assert "authorize=..." in response.json()["error"]


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("127.0.0.9", 200), ("::1", 200), ("::ffff:127.0.0.1", 200),
        ("192.0.2.1", 403), ("::ffff:192.0.2.1", 403), ("10.0.0.1", 403), ("testclient", 403), (None, 403),
    ],
)  # fmt: skip
async def test_debug_mode_looks_at_the_address_of_the_client(
    cache: ModelCache, address: str | None, status: int
) -> None:
    """A server on loopback has no other clients, so the application is called as a server would."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("a GET has no body")

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"host", b"localhost")]}
    scope["client"] = None if address is None else (address, 1)  # type: ignore[assignment]
    await Dashboard(cache, debug=True)(scope, receive, send)
    assert sent[0]["status"] == status


async def test_a_socket_is_refused(cache: ModelCache) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    await Dashboard(cache, debug=True)({"type": "websocket", "path": "/", "headers": []}, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1008}]


# The page ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
async def test_every_response_has_the_headers_that_keep_it_apart(client: httpx.AsyncClient, path: str) -> None:
    async with client.stream("GET", path) as response:
        headers = response.headers
    assert headers["Content-Security-Policy"] == CONTENT_SECURITY_POLICY
    assert "unsafe" not in CONTENT_SECURITY_POLICY
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-store"


def test_the_page_loads_nothing_from_elsewhere_and_makes_no_markup_of_text() -> None:
    texts = {path.name: path.read_text("utf-8") for path in STATIC.iterdir()}
    assert set(texts) == {"index.html", "dashboard.css", "dashboard.js", "icon.svg"}
    for name, text in texts.items():
        assert set(re.findall(r"https?://[^\"' )]+", text)) <= {"http://www.w3.org/2000/svg"}, name
    assert not re.search(r"<script>|<style|\sstyle=|\son\w+=", texts["index.html"])
    code = re.sub(r"//.*", "", texts["dashboard.js"])
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", code)


@pytest.mark.parametrize("mount", ["/cache", "/deep/er", ""])
async def test_it_can_be_mounted_anywhere(cache: ModelCache, mount: str) -> None:
    async with client_of(Starlette(routes=[Mount(mount, Dashboard(cache, debug=True))])) as client:
        page = await client.get(f"{mount}/" if mount else "/", follow_redirects=True)
        assert page.status_code == 200
        assert f"Path={mount or '/'};" in page.headers["Set-Cookie"]
        assert (await client.get(f"{mount}/dashboard.js")).headers["Content-Type"].startswith("text/javascript")
        assert (await client.get(mount, follow_redirects=True)).text[:15] == "<!doctype html>"


async def test_without_a_slash_it_redirects_by_a_relative_path(cache: ModelCache) -> None:
    """The path outside of a proxy may be another one."""

    async def mounted(scope: Any, receive: Any, send: Any) -> None:
        await dashboard(scope | {"root_path": "/app/cache"}, receive, send)

    dashboard = Dashboard(cache, debug=True)
    async with client_of(mounted) as client:
        response = await client.get("/app/cache")
        assert (response.status_code, response.headers["Location"]) == (307, "./cache/")
        assert (await client.get("/app/cache/")).status_code == 200


@pytest.mark.parametrize("part", ["a; Domain=example.com", "a\r\nX-Own: 1", "javascript:alert(1)", "a, b"])
async def test_a_part_of_the_path_that_clients_choose_stays_a_part_of_the_path(cache: ModelCache, part: str) -> None:
    async def mounted(scope: Any, receive: Any, send: Any) -> None:
        await dashboard(scope | {"root_path": f"/{part}"}, receive, send)

    dashboard = Dashboard(cache, debug=True)
    async with client_of(mounted) as client:
        path = f"/{quote(part, safe='')}"
        page, redirect = await client.get(f"{path}/"), await client.get(path)
        assert "; Path=/; HttpOnly; SameSite=Strict" in page.headers["Set-Cookie"]
        assert redirect.headers["Location"] == f".{path}/"
        assert "X-Own" not in page.headers
        assert "X-Own" not in redirect.headers


async def test_other_methods_are_refused(client: httpx.AsyncClient) -> None:
    assert (await client.post("/")).status_code == 405
    assert (await client.get("/clear")).status_code == 405
    head = await client.head("/")
    assert (head.status_code, head.content) == (200, b"")


async def test_a_server_can_run_it_alone(cache: ModelCache) -> None:
    sent: list[str] = []
    messages = iter(["lifespan.startup", "lifespan.shutdown"])

    async def send(message: Any) -> None:
        sent.append(message["type"])

    async def receive() -> Any:
        return {"type": next(messages)}

    await Dashboard(cache, debug=True)({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


# Clearing ----------------------------------------------------------------------------------------------------


@pytest.fixture
async def kim(cache: ModelCache) -> User:
    """A row that is cached."""
    await User.create(id=1, username="kim")
    return await User.cache.get(username="kim")


async def is_cached(user: User) -> bool:
    return (await User.cache.explain(username=user.username)).source == "cache"


async def test_clearing_is_switched_off_by_default(client: httpx.AsyncClient, kim: User) -> None:
    status, answer = await post(client, "/clear", target="User", confirmed="User")
    assert (status, answer["error"]) == (403, "Clearing is switched off: pass Dashboard(..., allow_clear=True).")
    assert await is_cached(kim)


async def test_an_operator_clears_a_model(cache: ModelCache, kim: User, caplog: pytest.LogCaptureFixture) -> None:
    async with served(cache, allow_clear=True) as client:
        assert await post(client, "/clear", target="User", confirmed="User") == (200, {"cleared": ["User"]})
        assert not await is_cached(kim)
        assert "the dashboard has cleared User" in caplog.text
        written = (await state_when(client, lambda state: state["writes"]))["writes"][0]
        assert (written["stage"], written["whole"], written["pid"]) == ("cleared", True, cache.worker.pid)
        assert "User" in written["caches"]


async def test_a_cached_function_can_be_cleared_and_a_cache_class_cannot(cache: ModelCache) -> None:
    async with served(cache, allow_clear=True) as client:
        assert await rate_of("kim") == "kim"
        assert await post(client, "/clear", target="rate_of", confirmed="rate_of") == (200, {"cleared": ["rate_of"]})
        async with assert_ops(redis=2, sql=0):  # read and lease; it refuses, and stores nothing in between
            await post(client, "/explain", target="rate_of", arguments="kim")
        status, answer = await post(client, "/clear", target="EventBySlug", confirmed="EventBySlug")
        assert (status, answer["error"]) == (422, "EventBySlug cannot be cleared alone: clear its model.")


@cached(timeout=60)
async def rate_of(name: str) -> str:
    return name


async def test_a_name_that_is_not_confirmed_is_not_cleared(cache: ModelCache, kim: User) -> None:
    async with served(cache, allow_clear=True) as client:
        assert (await post(client, "/clear", target="User", confirmed=""))[0] == 400
        assert (await post(client, "/clear", target="User", confirmed="Event"))[0] == 400
        assert await is_cached(kim)


FORGED: list[tuple[str, dict[str, str | None]]] = [
    ("no token", {"X-CSRF-Token": None}),
    ("no cookie", {"Cookie": ""}),
    ("another token", {"X-CSRF-Token": "0" * 64}),
    ("a cookie of its own", {"Cookie": f"{COOKIE}=x", "X-CSRF-Token": "x"}),
    ("an empty token", {"Cookie": f"{COOKIE}=", "X-CSRF-Token": ""}),
    ("from another site", {"Sec-Fetch-Site": "cross-site"}),
    ("from a subdomain", {"Sec-Fetch-Site": "same-site"}),
    ("from another origin", {"Origin": "https://attacker.example"}),
    ("from a sandbox", {"Origin": "null"}),
    ("a form", {"Content-Type": "application/x-www-form-urlencoded"}),
    ("plain text", {"Content-Type": "text/plain"}),
]


@pytest.mark.parametrize("headers", [headers for _, headers in FORGED], ids=[name for name, _ in FORGED])
@pytest.mark.parametrize("path", ["/clear", "/explain", "/inspect"])
async def test_forged_requests_are_refused(
    cache: ModelCache, kim: User, path: str, headers: dict[str, str | None]
) -> None:
    async with served(cache, allow_clear=True) as client:
        own = {"X-CSRF-Token": await token_of(client), "Content-Type": "application/json"}
        body = json.dumps({"target": "User", "confirmed": "User"} if path == "/clear" else {"target": "User"})
        sent = {name: value for name, value in (own | headers).items() if value is not None}
        if "Cookie" in headers:
            client.cookies.clear()
        response = await client.post(path, content=body, headers=sent)
        assert response.status_code in (403, 415), response.text
        assert await is_cached(kim)


async def test_the_token_of_one_process_is_good_for_the_others(cache: ModelCache, kim: User) -> None:
    async with served(cache, allow_clear=True) as first, served(cache, allow_clear=True) as second:
        token = await token_of(first)
        assert token == await token_of(first), "a second tab must not end the token of the first"
        second.cookies = first.cookies
        body = {"target": "User", "confirmed": "User"}
        origin = {"Origin": str(second.base_url).rstrip("/"), "X-CSRF-Token": token}
        assert (await second.post("/clear", json=body, headers=origin)).status_code == 200


# Lookups -----------------------------------------------------------------------------------------------------


async def test_explain_names_the_place_of_an_answer_without_values(client: httpx.AsyncClient, kim: User) -> None:
    await token_of(client)
    async with assert_ops(sql=0):
        status, answer = await post(client, "/explain", target="User", arguments="username=kim")
    assert (status, answer["source"], answer["reason"]) == (200, "cache", "hit")
    assert [entry["state"] for entry in answer["entries"]] == ["hit", "hit"]
    assert "kim" not in json.dumps(answer)


async def test_inspect_decodes_the_entry_without_values(client: httpx.AsyncClient, kim: User) -> None:
    async with assert_ops(sql=0):
        status, answer = await post(client, "/inspect", target="User", arguments="id=1")
    assert (status, answer["state"], answer["content"]["username"]) == (200, "hit", "<str>")
    assert answer["expires_in"] > 0
    assert "kim" not in json.dumps(answer)


async def test_values_are_shown_if_a_setting_asks_for_them(cache: ModelCache, kim: User) -> None:
    async with served(cache, values=True) as client:
        _, row = await post(client, "/inspect", target="User", arguments="id=1")
        assert row["content"]["username"] == "'kim'"
        _, answer = await post(client, "/explain", target="User", arguments="username=kim")
        assert answer["key"].endswith(":username:skim")
        _, same = await post(client, "/inspect", target=answer["key"])
        assert same["content"] == {"rows": 1, "primary keys": ["1"]}


async def test_a_list_is_looked_up_on_request(client: httpx.AsyncClient, kim: User) -> None:
    await User.cache.filter(team=0)
    _, answer = await post(client, "/explain", target="User", arguments="team=0", as_list=True)
    assert (answer["source"], answer["entries"][0]["kind"]) == ("cache", "list")


@pytest.mark.parametrize(
    ("asked", "status", "text"),
    [
        ({"target": "Nothing"}, 422, "Nothing cached is called Nothing."),
        ({"target": "User", "arguments": "name=1"}, 422, "User has no field name."),
        ({"target": "User", "arguments": "id=secret"}, 422, "User.id cannot have this value"),
        ({"target": "User", "arguments": "'secret"}, 422, "A quotation mark is not closed."),
        ({"target": "User", "arguments": "position=1"}, 422, "no field position"),
        ({"target": "Broken", "arguments": "secret"}, 422, "This lookup fails: RuntimeError."),
        ({"target": 7}, 400, "not as expected"),
        ({"target": "User", "other": 1}, 400, "not as expected"),
    ],
)
async def test_a_lookup_that_cannot_be_made_says_why(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, asked: dict[str, Any], status: int, text: str
) -> None:
    caplog.set_level(logging.DEBUG, "uvicorn")
    for path in ("/explain", "/inspect"):
        found, answer = await post(client, path, **asked)
        assert found == status
        assert text in answer["error"]
        assert "secret" not in answer["error"] + caplog.text


class Broken(ValueCache[str]):
    """A class whose own code fails, with a value in the text of its error."""

    def key(self, name: str) -> tuple[str, ...]:
        raise RuntimeError(f"no key for {name}")

    async def get_value(self, name: str) -> str:
        return name


async def test_a_long_body_is_refused(client: httpx.AsyncClient) -> None:
    status, answer = await post(client, "/explain", target="x" * MAX_BODY)
    assert (status, answer["error"]) == (413, f"The request is longer than {MAX_BODY} bytes.")


async def test_a_closed_cache_says_so(cache: ModelCache) -> None:
    async with served(cache) as client:
        await cache.close()
        assert (await client.get("/")).status_code == 200
        assert (await post(client, "/explain", target="User", arguments="id=1"))[0] == 422
        assert (await client.get("/events")).status_code == 503
        await cache.open()
        assert (await post(client, "/explain", target="User", arguments="id=1"))[0] == 200


# Measurements ------------------------------------------------------------------------------------------------


async def test_a_stream_begins_with_the_names_and_the_state(client: httpx.AsyncClient, kim: User) -> None:
    async with client.stream("GET", "/events") as response:
        assert response.headers["Content-Type"] == "text/event-stream"
        received = events(response)
        name, config = await anext(received)
        assert (name, config["values"], config["clearable"]) == ("config", False, [])
        assert {"User", "Event", "EventBySlug", "rate_of"} <= set(config["targets"])
        name, state = await anext(received)
    assert (name, state["complete"], state["store"]["answers"]) == ("state", True, True)
    by_class = {each["cache"]: each for each in state["classes"]}
    assert (by_class["User"]["misses"], by_class["User"]["fills"]) == (1, 1)
    assert [(worker["pid"], worker["own"]) for worker in state["workers"]] == [(os.getpid(), True)]
    assert [write["caches"] for write in state["writes"]] == [["User"]]


@pytest.mark.usefixtures("soon")
async def test_rates_latencies_and_hot_keys_are_those_of_lookups(client: httpx.AsyncClient, kim: User) -> None:
    await User.create(id=2, username="bo")

    async def look_up() -> None:
        while True:
            await asyncio.gather(*[User.cache.get(id=1) for _ in range(5)], User.cache.get(id=2))
            await asyncio.sleep(0.005)

    looking = asyncio.create_task(look_up())
    state = await state_when(
        client, lambda state: len(state["keys"]) == 2 and "rate" in state["keys"][0] and state["rates"]["hit_ratio"]
    )
    looking.cancel()
    hottest, second = state["keys"]
    assert hottest["cache"] == second["cache"] == "User"
    assert hottest["rate"] > 3 * second["rate"] > 0
    assert hottest["digest"] != second["digest"]
    assert hottest["key"] == second["key"], "values are hidden"
    rates = state["rates"]
    assert rates["lookups"] > 0
    assert 0.9 < rates["hit_ratio"] <= 1
    assert rates["store_ms"] > 0
    assert rates["lookup_ms"] > 0


@pytest.mark.usefixtures("soon")
async def test_keys_are_sampled_from_the_store_if_this_process_looks_up_nothing(
    client: httpx.AsyncClient, kim: User
) -> None:
    state = await state_when(client, lambda state: state["keys"])
    assert {key["cache"] for key in state["keys"]} <= {"User", "User (username)"}
    assert "heat" in state["keys"][0]


async def test_text_of_any_kind_arrives_as_data(cache: ModelCache) -> None:
    await User.create(id=1, username=HOSTILE)
    await User.cache.get(username=HOSTILE)
    cache.stats.of(HOSTILE).hits = 5
    async with served(cache, values=True) as client:
        state = await state_when(client, lambda state: state["classes"])
        assert HOSTILE in {each["cache"] for each in state["classes"]}
        status, answer = await post(client, "/inspect", target="User", arguments="id=1")
        assert (status, answer["content"]["username"]) == (200, repr(HOSTILE))
        page = await client.get("/")
        assert HOSTILE not in page.text
        assert (await post(client, "/explain", target=HOSTILE))[0] == 422
        assert (await post(client, "/inspect", target="amc:r:\udc80:x"))[0] == 400


@pytest.mark.usefixtures("soon")
@pytest.mark.only_on("redis", because="it kills the server")
async def test_an_outage_is_shown_and_ends(
    database: BaseDBAsyncClient, own_redis: RedisServer, backend_url: str
) -> None:
    async with ModelCache(own_redis.url, breaker_cooldown=0.05) as cache, served(cache) as client:
        assert (await state_when(client, lambda state: state["complete"]))["store"]["server"]["role"] == "master"
        own_redis.kill()
        state = await state_when(client, lambda state: not state["complete"])
        assert state["store"]["answers"] is False
        assert state["workers"][0]["breaker_open"] is True
        assert (await post(client, "/inspect", target="User", arguments="id=1"))[0] == 503
        own_redis.restart()
        await state_when(client, lambda state: state["complete"] and not state["workers"][0]["breaker_open"])


@pytest.mark.usefixtures("soon")
async def test_findings_name_a_remedy(client: httpx.AsyncClient, backend_url: str) -> None:
    state = await state_when(client, lambda state: state["store"]["findings"])
    findings = {finding["subject"]: finding for finding in state["store"]["findings"]}
    if backend_url == "memory://":
        assert findings["store"]["level"] == "ok"
        assert state["store"]["server"]["maxmemory_policy"] == "allkeys-lru"
    else:
        assert (findings["eviction"]["level"], findings["role"]["level"]) == ("warning", "ok")
        assert findings["eviction"]["remedy"]
        assert findings["eviction"]["paste"]


class Unlisted:
    """A store that cannot list its keys: one of the user's own."""

    def __init__(self) -> None:
        self._store = MemoryBackend()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


@pytest.mark.only_on("memory", because="the test has a store of its own")
@pytest.mark.usefixtures("soon")
async def test_of_any_other_store_the_counters_are_shown(database: BaseDBAsyncClient, backend_url: str) -> None:
    async with ModelCache(cast("Any", Unlisted())) as cache, served(cache) as client:
        await User.create(id=1, username="kim")
        await User.cache.get(id=1)
        state = await state_when(client, lambda state: state["rates"])
        assert (state["store"]["answers"], state["store"]["findings"], state["keys"]) == (True, [], [])
        assert "Unlisted" in state["store"]["where"]
        assert (await post(client, "/explain", target="User", arguments="id=1"))[1]["source"] == "cache"
        status, answer = await post(client, "/inspect", target="User", arguments="id=1")
        assert (status, answer["error"]) == (422, "This store cannot tell the lives of its keys, which inspect needs.")


@pytest.mark.only_on("memory", because="tenants are above the store")
async def test_with_tenants_a_lookup_is_that_of_the_requests_tenant(
    database: BaseDBAsyncClient, backend_url: str
) -> None:
    tenant: ContextVar[str] = ContextVar("tenant")

    async def of_tenant(scope: Any, receive: Any, send: Any) -> None:
        name = dict(scope["headers"]).get(b"x-tenant")
        if name is not None:
            tenant.set(name.decode())
        await dashboard(scope, receive, send)

    async with ModelCache("memory://", tenant=tenant.get) as cache:
        await User.create(id=1, username="kim")
        dashboard = Dashboard(cache, debug=True, allow_clear=True)
        async with client_of(of_tenant) as client:
            status, answer = await post(client, "/explain", target="User", arguments="id=1")
            assert status == 422
            assert "tenant" in answer["error"]
            client.headers["X-Tenant"] = "acme"
            assert (await post(client, "/explain", target="User", arguments="id=1"))[1]["source"] == "database"

            async def look_up() -> None:
                tenant.set("acme")
                await User.cache.get(id=1)

            await asyncio.create_task(look_up())
            assert (await post(client, "/explain", target="User", arguments="id=1"))[1]["source"] == "cache"
            client.headers["X-Tenant"] = "other"
            assert (await post(client, "/explain", target="User", arguments="id=1"))[1]["source"] == "database"


# Streams end -------------------------------------------------------------------------------------------------


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


def is_observed(cache: ModelCache) -> bool:
    """Returns True if the dashboard is told of the cache's lookups."""
    return any(isinstance(each, LookupObserver) for each in cache.open_cache.guarded._observers)


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """All that is opened to watch a cache. It is kept, because the garbage collector would close its connections."""
    found: list[object] = []
    open_watched = feed._Watched.open

    async def keeping(cache: ModelCache, **settings: Any) -> Any:
        found.append(await open_watched(cache, **settings))
        return found[-1]

    monkeypatch.setattr(feed._Watched, "open", keeping)
    return found


@pytest.mark.only_on("redis", because="memory has no connections")
@pytest.mark.usefixtures("soon")
async def test_nothing_is_left_when_the_last_watcher_leaves(
    cache: ModelCache,
    client: httpx.AsyncClient,
    kept: list[object],
    backend_url: str,
    redis_server: RedisServer,
    kim: User,
) -> None:
    await client.get("/")
    with redis_server.client() as redis:
        before, connected = len(asyncio.all_tasks()), len(redis.client_list())
        for _ in range(3):
            async with client.stream("GET", "/events") as one, client.stream("GET", "/events") as other:
                for response in (one, other):
                    received = events(response)
                    while (await anext(received))[0] != "state":
                        pass
                assert is_observed(cache)
                assert len(redis.client_list()) > connected
        await until(lambda: len(asyncio.all_tasks()) <= before)
        await until(lambda: len(redis.client_list()) <= connected)
    assert not is_observed(cache)
    assert len(kept) == 3, "two watchers share one"


@pytest.mark.usefixtures("soon")
async def test_watchers_share_the_measurements(
    cache: ModelCache, backend: CountingBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "INTERVAL", 60.0)
    async with served(cache) as client:
        times = set()
        async with client.stream("GET", "/events") as first:
            received = events(first)
            await anext(received)
            times.add((await anext(received))[1]["time"])
            requests = len(backend.operations)
            for _ in range(5):
                async with client.stream("GET", "/events") as other:
                    more = events(other)
                    await anext(more)
                    times.add((await anext(more))[1]["time"])
        assert len(times) == 1
        published = ("fill", "read", "lease")
        assert len([each for each in backend.operations[requests:] if each not in published]) == 0


@pytest.mark.usefixtures("soon")
async def test_a_stream_ends_when_the_cache_closes(cache: ModelCache, client: httpx.AsyncClient) -> None:
    names = []
    async with asyncio.timeout(20), client.stream("GET", "/events") as response:
        async for name, _ in events(response):
            names.append(name)
            if names == ["config", "state"]:
                await cache.close()
    assert names[-1] == "closed"


@pytest.mark.usefixtures("soon")
async def test_a_stream_is_authorized_again_after_a_while(cache: ModelCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "MAX_LIFETIME", 0.05)
    allowed = True
    async with served(cache, authorize=lambda scope: allowed) as client:
        async with asyncio.timeout(20), client.stream("GET", "/events") as response:
            assert [name async for name, _ in events(response)][:2] == ["config", "state"]
        allowed = False
        assert (await client.get("/events")).status_code == 403


async def test_a_stream_ends_when_the_server_stops(cache: ModelCache) -> None:
    """uvicorn waits for responses in progress, by default without end, before it tells the application."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        config = uvicorn.Config(Dashboard(cache, debug=True), ws="none", lifespan="off", log_config=None)
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/events"
        async with httpx.AsyncClient(trust_env=False, verify=False) as client, client.stream("GET", url) as response:
            received = events(response)
            assert (await anext(received))[0] == "config"
            server.should_exit = True
            async with asyncio.timeout(stream.MAX_LIFETIME / 3):
                assert {name async for name, _ in received} <= {"state"}
                await serving


# Real workers --------------------------------------------------------------------------------------------------


def hits_of(state: dict[str, Any], name: str) -> int:
    return sum(each["hits"] for each in state["classes"] if each["cache"] == name)


@pytest.mark.only_on("redis", because="it is what the workers share")
@pytest.mark.slow(because="it starts processes")
async def test_any_worker_shows_all_and_stops_while_it_is_watched(redis_server: RedisServer, tmp_path: Path) -> None:
    redis_server.flush()
    database = tmp_path / "shop.sqlite3"
    with (
        WatchedServer(redis_server.patient_url, database, debug=True) as first,
        WatchedServer(redis_server.patient_url, database, debug=True) as second,
    ):
        await asyncio.to_thread(first.ask_for, "/fill")
        async with httpx.AsyncClient(base_url=f"{second.url}/cache", trust_env=False, verify=False) as client:
            state = await state_when(client, lambda state: hits_of(state, "Listing") > 100)
            assert {worker["pid"] for worker in state["workers"]} == {first.pid, second.pid}
            assert [worker["pid"] for worker in state["workers"] if worker["own"]] == [second.pid]
            assert {write["pid"] for write in state["writes"]} == {first.pid}

            async with client.stream("GET", "/events") as response:
                received = events(response)
                assert (await anext(received))[0] == "config"
                began = asyncio.get_running_loop().time()
                os.kill(second.pid, signal.SIGTERM)
                assert {name async for name, _ in received} <= {"state"}
                await asyncio.to_thread(second.wait)
                assert asyncio.get_running_loop().time() - began < stream.MAX_LIFETIME / 2
            assert "Application shutdown complete" in second.log()
            assert "Traceback" not in second.log()


@pytest.mark.only_on("redis", because="one store is enough")
@pytest.mark.slow(because="it starts a process")
async def test_no_value_gets_into_the_logs_of_the_server(redis_server: RedisServer, tmp_path: Path) -> None:
    redis_server.flush()
    with WatchedServer(redis_server.patient_url, tmp_path / "shop.sqlite3", debug=True, values=True) as server:
        await asyncio.to_thread(server.ask_for, "/fill")
        async with httpx.AsyncClient(base_url=f"{server.url}/cache", trust_env=False, verify=False) as client:
            for path in ("/explain", "/inspect"):
                for arguments in ("slug=secret-1", "slug=secret-9999", "slug='secret", "id=secret"):
                    await post(client, path, target="Listing", arguments=arguments)
        log = (server.folder / "log").read_text()
        assert "POST /cache/inspect" in log
        assert "secret" not in log
