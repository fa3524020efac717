"""Rules of RFC 9110 and RFC 9111 for cached responses, by a real server and client.

docs/guide/responses.md has a table of the rules, which names these tests.
"""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable
from email.utils import formatdate
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from aiomodelcache import ModelCache
from aiomodelcache.contrib.responses import stored
from tests.contrib.responding import KINDS, Site, status_of
from tests.support.in_process import client_of
from tests.support.models.models import User

pytestmark = [
    pytest.mark.only_on("sqlite", because="the rules of HTTP depend on no database"),
    pytest.mark.only_on("memory", because="the rules of HTTP depend on no store"),
]

Get = Callable[..., Any]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """The way to cache. A table of values that all ways treat alike is tried in one of them."""
    return str(request.param)


for_fastapi = pytest.mark.parametrize("kind", ["fastapi"])
for_starlette = pytest.mark.parametrize("kind", ["starlette"])
for_middleware = pytest.mark.parametrize("kind", ["middleware"])


@pytest.fixture
async def site(request: pytest.FixtureRequest, kind: str, cache: ModelCache) -> Site:
    await User.create(id=1, username="ada")
    return Site(kind, **getattr(request.function, "settings", {}))


@pytest.fixture
async def client(site: Site) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(site.app) as client:
        yield client


def settings(**values: Any) -> Callable[[Any], Any]:
    """Returns a decorator for a test whose site has these settings."""

    def decorate(test: Any) -> Any:
        test.settings = values
        return test

    return decorate


class Clock:
    """The clock of stored responses."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._ahead = 0.0
        monkeypatch.setattr(stored, "time", SimpleNamespace(time=self.now))

    def now(self) -> float:
        return time.time() + self._ahead

    def advance(self, seconds: float) -> None:
        self._ahead += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


async def is_stored(site: Site, client: httpx.AsyncClient, **headers: str) -> bool:
    """Makes a request twice, and returns True if the second response was a stored one."""
    site.seen.clear()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    first = await client.get("/page", headers=named)
    client.cookies.clear()
    second = await client.get("/page", headers=named)
    client.cookies.clear()
    assert second.content == first.content
    assert second.status_code == first.status_code
    assert (status_of(second) == "hit") == (len(site.seen) == 1)
    return len(site.seen) == 1


# RFC 9110 ----------------------------------------------------------------------------------------------------


async def test_a_stored_response_has_one_date_of_the_server(site: Site, client: httpx.AsyncClient) -> None:
    for expected in ("fwd=miss", "hit"):
        response = await client.get("/page")
        assert status_of(response) == expected
        assert len(response.headers.get_list("date")) == 1


async def test_the_entity_tag_is_strong_and_follows_the_content(site: Site, client: httpx.AsyncClient) -> None:
    tags = [(await client.get("/page")).headers["etag"] for _ in range(2)]
    await User.filter(id=1).update(team=3)  # the same content again
    tags.append((await client.get("/page")).headers["etag"])
    assert len(site.seen) == 2
    await User.filter(id=1).update(username="grace")
    tags.append((await client.get("/page")).headers["etag"])
    assert tags[0].startswith('"')
    assert tags[0].endswith('"')
    assert tags[0] == tags[1] == tags[2] != tags[3]


async def test_the_entity_tag_of_the_application_is_kept(site: Site, client: httpx.AsyncClient) -> None:
    site.send("page", ETag='W/"own"')
    for _ in range(2):
        assert (await client.get("/page")).headers["etag"] == 'W/"own"'
    assert (await client.get("/page", headers={"If-None-Match": '"own"'})).status_code == 304
    assert (await client.get("/page", headers={"If-Match": 'W/"own"'})).status_code == 412


async def test_the_same_content_of_another_type_has_another_tag(site: Site, client: httpx.AsyncClient) -> None:
    def reply(request: Request, user: User) -> Response:
        return Response("1", media_type=request.query_params["type"])

    site.reply = reply
    tags = {(await client.get(f"/page?type={kind}")).headers["etag"] for kind in ("text/html", "application/json")}
    assert len(tags) == 2


async def test_a_get_with_content_is_left_to_the_application(site: Site, client: httpx.AsyncClient) -> None:
    await client.get("/page")
    response = await client.request("GET", "/page", content=b"x")
    assert status_of(response) in ("fwd=bypass; detail=content", "")
    assert len(site.seen) == 2


async def test_head_has_the_fields_of_get_and_no_content(site: Site, client: httpx.AsyncClient) -> None:
    head = await client.head("/page")
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "3")
    get = await client.get("/page")
    assert len(site.seen) == 1
    again = await client.head("/page")
    for name in ("etag", "content-length", "content-type", "cache-control"):
        assert head.headers[name] == get.headers[name] == again.headers[name]
    assert [request.method for request in site.seen] == ["GET"]


@pytest.mark.parametrize(
    ("value", "status"),
    [("{tag}", 304), ("W/{tag}", 304), ('"x", {tag}', 304), ("*", 304), ('"x"', 200), ('"x,y", W/"z"', 200), ("", 200)],
)
@pytest.mark.parametrize("warm", [True, False], ids=["hit", "miss"])
@for_fastapi
async def test_if_none_match_compares_weakly(
    site: Site, client: httpx.AsyncClient, value: str, status: int, warm: bool
) -> None:
    tag = (await client.get("/page")).headers["etag"]
    if not warm:
        await User.filter(id=1).update(team=3)
    response = await client.get("/page", headers={"If-None-Match": value.format(tag=tag)})
    assert response.status_code == status
    assert response.content == (b"" if status == 304 else b"ada")
    assert len(site.seen) == (1 if warm else 2)


@pytest.mark.parametrize(
    ("value", "status"), [("{tag}", 200), ('"x", {tag}', 200), ("*", 200), ("W/{tag}", 412), ('"x"', 412)]
)
@for_starlette
async def test_if_match_compares_strongly(site: Site, client: httpx.AsyncClient, value: str, status: int) -> None:
    tag = (await client.get("/page")).headers["etag"]
    response = await client.get("/page", headers={"If-Match": value.format(tag=tag)})
    assert response.status_code == status
    assert response.content == (b"ada" if status == 200 else b"")


MODIFIED = 1_700_000_000
EARLIER, SAME, LATER = (formatdate(MODIFIED + ahead, usegmt=True) for ahead in (-60, 0, 60))


@pytest.mark.parametrize(
    ("value", "status"),
    [
        (EARLIER, 200),
        (SAME, 304),
        (LATER, 304),
        ("Tuesday, 14-Nov-23 22:13:20 GMT", 304),
        ("Tue Nov 14 22:13:20 2023", 304),
        ("yesterday", 200),
    ],
)
@for_middleware
async def test_if_modified_since_compares_the_date_of_the_application(
    site: Site, client: httpx.AsyncClient, value: str, status: int
) -> None:
    site.send("page", Last_Modified=SAME)
    for _ in range(2):
        assert (await client.get("/page", headers={"If-Modified-Since": value})).status_code == status
    assert len(site.seen) == 1


async def test_without_a_date_if_modified_since_is_ignored(site: Site, client: httpx.AsyncClient) -> None:
    for _ in range(2):
        assert (await client.get("/page", headers={"If-Modified-Since": LATER})).status_code == 200


@pytest.mark.parametrize(("value", "status"), [(EARLIER, 412), (SAME, 200), (LATER, 200), ("yesterday", 200)])
@for_fastapi
async def test_if_unmodified_since(site: Site, client: httpx.AsyncClient, value: str, status: int) -> None:
    site.send("page", Last_Modified=SAME)
    for _ in range(2):
        assert (await client.get("/page", headers={"If-Unmodified-Since": value})).status_code == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"If-Match": '"x"', "If-None-Match": "{tag}"}, 412),
        ({"If-Match": "{tag}", "If-Unmodified-Since": EARLIER}, 200),
        ({"If-Match": "{tag}", "If-None-Match": "{tag}"}, 304),
        ({"If-None-Match": '"x"', "If-Modified-Since": LATER}, 200),
        ({"If-None-Match": "{tag}", "If-Modified-Since": EARLIER}, 304),
        ({"If-Unmodified-Since": EARLIER, "If-None-Match": "{tag}"}, 412),
    ],
)
@for_starlette
async def test_preconditions_have_an_order(
    site: Site, client: httpx.AsyncClient, headers: dict[str, str], status: int
) -> None:
    site.send("page", Last_Modified=SAME)
    tag = (await client.get("/page")).headers["etag"]
    response = await client.get("/page", headers={name: value.format(tag=tag) for name, value in headers.items()})
    assert response.status_code == status


@pytest.mark.parametrize("status", [404, 301])
@for_middleware
async def test_preconditions_are_ignored_for_a_response_that_is_no_success(
    site: Site, client: httpx.AsyncClient, status: int
) -> None:
    site.send("page", status, ETag='"own"')
    for _ in range(2):
        assert (await client.get("/page", headers={"If-None-Match": '"own"'})).status_code == status
    assert len(site.seen) == 1


@pytest.mark.parametrize("header", ["Range", "If-Range"])
async def test_a_range_is_left_to_the_application(site: Site, client: httpx.AsyncClient, header: str) -> None:
    await client.get("/page")
    await client.get("/page", headers={"Range": "bytes=0-1", header: '"x"' if header == "If-Range" else "bytes=0-1"})
    assert len(site.seen) == 2
    assert "range" in site.seen[-1].headers


async def test_a_304_has_the_fields_that_update_a_stored_response(site: Site, client: httpx.AsyncClient) -> None:
    expires = formatdate(time.time() + 60, usegmt=True)
    site.send(
        "page", Content_Location="/p", Expires=expires, Cache_Control="max-age=60", Vary="Accept", Last_Modified=SAME
    )
    await client.get("/page")
    first = await client.get("/page")
    response = await client.get("/page", headers={"If-None-Match": first.headers["etag"]})
    assert response.status_code == 304
    assert status_of(response) == "hit"
    for name in ("etag", "content-location", "expires", "cache-control", "vary"):
        assert response.headers[name] == first.headers[name]
    assert "date" in response.headers
    assert not response.headers.keys() & {"content-length", "content-type", "last-modified"}


# RFC 9111: storing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 203, 300, 301, 308, 404, 410])
@for_fastapi
async def test_a_response_with_a_status_that_is_final_is_stored(
    site: Site, client: httpx.AsyncClient, status: int
) -> None:
    site.send("page", status)
    assert await is_stored(site, client)


@pytest.mark.parametrize("status", [201, 206, 302, 304, 400, 401, 403, 405, 429, 500, 503])
@for_starlette
async def test_a_response_with_another_status_is_not_stored(site: Site, client: httpx.AsyncClient, status: int) -> None:
    site.reply = lambda request, user: Response(status_code=status)
    assert not await is_stored(site, client)


@pytest.mark.parametrize(("status", "expected"), [(302, True), (403, True), (206, False), (500, False), (503, False)])
@for_middleware
async def test_with_a_lifetime_other_statuses_are_stored_but_no_errors_of_the_server(
    site: Site, client: httpx.AsyncClient, status: int, expected: bool
) -> None:
    site.send("page", status, Cache_Control="max-age=60")
    assert await is_stored(site, client) is expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("no-store", False),
        ("private", False),
        ('private="X-User"', False),
        ("no-cache", False),
        ("public, No-Store", False),
        ("max-age=60, private", False),
        ("public", True),
        ("max-age=60", True),
        ("must-revalidate", True),
        ("proxy-revalidate, no-transform, unknown=1", True),
        ('unknown="no-store, private"', True),
    ],
)
@for_fastapi
async def test_directives_of_the_response(site: Site, client: httpx.AsyncClient, value: str, expected: bool) -> None:
    site.send("page", Cache_Control=value)
    assert await is_stored(site, client) is expected
    assert (await client.get("/page")).headers["cache-control"] == value


async def test_a_response_with_a_cookie_goes_to_one_client_only(site: Site, client: httpx.AsyncClient) -> None:
    numbers = itertools.count()

    def reply(request: Request, user: User) -> Response:
        response = PlainTextResponse("page")
        response.set_cookie("session", str(next(numbers)))
        return response

    site.reply = reply
    site.gate = asyncio.Event()
    asked = [asyncio.create_task(client.get("/page")) for _ in range(5)]
    async with asyncio.timeout(30):
        while not site.seen:
            await asyncio.sleep(0.01)
    site.gate.set()
    cookies = [response.headers["set-cookie"] for response in await asyncio.gather(*asked)]
    assert len(set(cookies)) == 5
    assert not await is_stored(site, client)


async def test_a_stream_is_passed_on_as_it_comes(site: Site, client: httpx.AsyncClient) -> None:
    go_on = asyncio.Queue[None]()

    async def parts() -> AsyncIterator[str]:
        for number in range(3):
            yield f"{number}\n"
            await go_on.get()

    site.reply = lambda request, user: StreamingResponse(parts())
    for _ in range(2):
        async with client.stream("GET", "/page") as response:
            lines = response.aiter_lines()
            for number in range(3):
                assert await anext(lines) == str(number)
                go_on.put_nowait(None)
            assert "etag" not in response.headers
    assert len(site.seen) == 2


@settings(max_size=100)
@pytest.mark.parametrize(("size", "expected"), [(100, True), (101, False)])
@pytest.mark.parametrize("parts", [1, 4])
@for_starlette
async def test_a_response_in_parts_is_stored_if_its_length_is_known_and_small(
    site: Site, client: httpx.AsyncClient, size: int, expected: bool, parts: int
) -> None:
    content = b"x" * size

    async def streamed() -> AsyncIterator[bytes]:
        for part in range(parts):
            yield content[part * size // parts : (part + 1) * size // parts]

    site.reply = lambda request, user: StreamingResponse(streamed(), headers={"Content-Length": str(size)})
    assert await is_stored(site, client) is expected
    assert (await client.get("/page")).content == content


async def test_fields_of_the_connection_are_not_stored(site: Site, client: httpx.AsyncClient) -> None:
    site.send("page", Connection="X-Hop", X_Hop="1", Keep_Alive="timeout=5", X_Other="2")
    for _ in range(2):
        response = await client.get("/page")
        assert response.headers["x-other"] == "2"
        assert not response.headers.keys() & {"x-hop", "keep-alive"}


@pytest.mark.parametrize("response_directive", ["", "public", "s-maxage=60"])
@for_middleware
async def test_a_request_with_authorization_is_left_to_the_application(
    site: Site, client: httpx.AsyncClient, response_directive: str
) -> None:
    site.send("page", Cache_Control=response_directive or "max-age=60")
    assert await is_stored(site, client)
    assert not await is_stored(site, client, Authorization="Bearer ada")


@settings(vary=["Authorization"])
async def test_with_a_key_for_it_authorization_is_cached_for_its_user(site: Site, client: httpx.AsyncClient) -> None:
    site.reply = lambda request, user: PlainTextResponse(request.headers.get("authorization", "no user"))
    for name in ("ada", "grace", "ada", "grace"):
        response = await client.get("/page", headers={"Authorization": name})
        assert response.text == name
        assert response.headers["cache-control"] == "private, no-cache"
    assert (await client.get("/page")).headers["cache-control"] == "no-cache"
    assert len(site.seen) == 3


async def test_a_request_with_a_cookie_is_left_to_the_application(site: Site, client: httpx.AsyncClient) -> None:
    assert await is_stored(site, client)
    assert not await is_stored(site, client, Cookie="session=1")


@settings(session_cookies=["session"])
async def test_cookies_that_identify_no_user_do_not_matter(site: Site, client: httpx.AsyncClient) -> None:
    for cookies in ("_ga=1; theme=dark", "xsession=1", "theme=session"):
        await client.get("/page", headers={"Cookie": cookies})
    assert len(site.seen) == 1
    assert not await is_stored(site, client, Cookie="_ga=1; session=1")


# RFC 9111: answering -----------------------------------------------------------------------------------------


async def test_age_is_that_of_the_stored_response(site: Site, client: httpx.AsyncClient, clock: Clock) -> None:
    site.send("page", Cache_Control="max-age=600", Age="30")
    first = await client.get("/page")
    clock.advance(12)
    response = await client.get("/page")
    assert status_of(response) == "hit"
    assert int(response.headers["age"]) in (42, 43)
    assert len(response.headers.get_list("age")) == 1
    not_modified = await client.get("/page", headers={"If-None-Match": first.headers["etag"]})
    assert int(not_modified.headers["age"]) in (42, 43)


LANGUAGES = ("de", "fr", "de", "fr", "", "de")


@pytest.mark.parametrize("spelling", ["Accept-Language", "accept-language, X-Other", "X-Other,,ACCEPT-LANGUAGE"])
async def test_vary_of_the_response_selects_the_stored_one(
    site: Site, client: httpx.AsyncClient, spelling: str
) -> None:
    def reply(request: Request, user: User) -> Response:
        return PlainTextResponse(request.headers.get("accept-language", "none"), headers={"Vary": spelling})

    site.reply = reply
    for language in LANGUAGES:
        headers = {"Accept-Language": language} if language else {}
        assert (await client.get("/page", headers=headers)).text == (language or "none")
    assert len(site.seen) == 4  # the first was not stored, because it was not known that it varies
    for language in LANGUAGES:
        headers = {"Accept-Language": language} if language else {}
        assert (await client.get("/page", headers=headers)).text == (language or "none")
    assert len(site.seen) == 4


async def test_clients_that_ask_at_once_get_the_variants_that_they_asked_for(
    site: Site, client: httpx.AsyncClient
) -> None:
    def reply(request: Request, user: User) -> Response:
        return PlainTextResponse(request.headers["accept-language"], headers={"Vary": "Accept-Language"})

    site.reply = reply
    languages = ["de", "fr", "en"] * 4
    site.gate = asyncio.Event()
    asked = [asyncio.create_task(client.get("/page", headers={"Accept-Language": language})) for language in languages]
    async with asyncio.timeout(30):
        while not site.seen:
            await asyncio.sleep(0.01)
    site.gate.set()
    assert [response.text for response in await asyncio.gather(*asked)] == languages


@settings(vary=["Accept-Language"])
async def test_fields_that_are_declared_are_added_to_vary(site: Site, client: httpx.AsyncClient) -> None:
    def reply(request: Request, user: User) -> Response:
        return PlainTextResponse(request.headers.get("accept-language", "none"))

    site.reply = reply
    for language in ("de", "fr", "de", "fr"):
        response = await client.get("/page", headers={"Accept-Language": language})
        assert response.text == language
        assert response.headers["vary"].lower() == "accept-language"
    assert len(site.seen) == 2


async def test_a_response_that_varies_by_all_is_not_stored(site: Site, client: httpx.AsyncClient) -> None:
    site.send("page", Vary="Accept, *")
    assert not await is_stored(site, client)


@pytest.mark.parametrize(
    ("headers", "lifetime"),
    [
        ({"Cache_Control": "max-age=60"}, 60),
        ({"Cache_Control": "max-age=60, s-maxage=20"}, 20),
        ({"Cache_Control": "max-age=20, s-maxage=60"}, 60),
        ({"Cache_Control": "max-age=60", "Expires": "0"}, 60),
        ({"Cache_Control": "max-age=60, max-age=20"}, 20),
        ({"Cache_Control": 'max-age="60"'}, 60),
        ({"Cache_Control": "max-age=60", "Age": "40"}, 20),
        ({"Expires": "{60}"}, 60),
    ],
)
@for_starlette
async def test_a_response_is_stored_for_its_lifetime(
    site: Site, client: httpx.AsyncClient, clock: Clock, headers: dict[str, str], lifetime: int
) -> None:
    expires = formatdate(clock.now() + 60, usegmt=True)
    site.send("page", **{name: expires if value == "{60}" else value for name, value in headers.items()})
    assert await is_stored(site, client)
    clock.advance(lifetime - 3)
    await client.get("/page")
    assert len(site.seen) == 1
    clock.advance(4)
    response = await client.get("/page")
    assert len(site.seen) == 2
    assert status_of(response).startswith("fwd=miss")


@pytest.mark.parametrize(
    "headers",
    [
        {"Cache_Control": "max-age=0"},
        {"Cache_Control": "s-maxage=0, max-age=60"},
        {"Cache_Control": "max-age=soon"},
        {"Cache_Control": "max-age=-5"},
        {"Cache_Control": "max-age"},
        {"Cache_Control": "max-age=60", "Age": "61"},
        {"Expires": "0"},
        {"Expires": "Tue, 14 Nov 2023 22:13:20 GMT"},
    ],
)
@for_middleware
async def test_a_response_that_is_stale_at_once_is_not_stored(
    site: Site, client: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    site.send("page", **headers)
    assert not await is_stored(site, client)


@pytest.mark.parametrize("status", [201, 303])
async def test_a_successful_write_invalidates_the_target(
    site: Site, client: httpx.AsyncClient, status: int, kind: str
) -> None:
    for path in ("/page", "/page?x=1"):
        await client.get(path)
    site.send("written", status)
    await client.post("/page")
    site.send("new")
    site.seen.clear()
    if kind == "middleware":
        assert (await client.get("/page")).text == "new"
        assert (await client.get("/page?x=1")).text == "ada"
    else:  # an endpoint for GET does not see what other endpoints of its URL do
        assert (await client.get("/page")).text == "ada"


@pytest.mark.parametrize("status", [400, 404, 500])
@for_middleware
async def test_a_failed_write_invalidates_nothing(site: Site, client: httpx.AsyncClient, status: int) -> None:
    await client.get("/page")
    site.send("failed", status)
    assert (await client.post("/page")).status_code == status
    assert (await client.get("/page")).text == "ada"


async def test_unsafe_methods_reach_the_application(site: Site, client: httpx.AsyncClient) -> None:
    for _ in range(3):
        await client.post("/page")
    assert [request.method for request in site.seen] == ["POST"] * 3


# RFC 9111: directives of requests ----------------------------------------------------------------------------


async def test_no_cache_asks_for_a_new_response_which_is_stored(site: Site, client: httpx.AsyncClient) -> None:
    await client.get("/page")
    site.send("new")
    assert (await client.get("/page", headers={"Cache-Control": "no-cache"})).text == "new"
    response = await client.get("/page")
    assert (response.text, status_of(response)) == ("new", "hit")


async def test_no_store_is_left_to_the_application(site: Site, client: httpx.AsyncClient) -> None:
    await client.get("/page", headers={"Cache-Control": "no-store"})
    await client.get("/page")
    await client.get("/page", headers={"Cache-Control": "no-store"})
    assert len(site.seen) == 3


@pytest.mark.parametrize(
    ("value", "is_hit"),
    [
        ("max-age=5", False),
        ("max-age=15", True),
        ("max-age=soon", False),
        ("min-fresh=40", True),
        ("min-fresh=55", False),
        ("max-stale", True),
        ("no-transform", True),
        ("max-age=15, no-cache", False),
    ],
)
@for_fastapi
async def test_the_age_that_a_request_asks_for(
    site: Site, client: httpx.AsyncClient, clock: Clock, value: str, is_hit: bool
) -> None:
    site.send("page", Cache_Control="max-age=60")
    await client.get("/page")
    clock.advance(10)
    response = await client.get("/page", headers={"Cache-Control": value})
    assert (status_of(response) == "hit") is is_hit
    assert len(site.seen) == (1 if is_hit else 2)


async def test_a_stale_response_is_not_served_although_max_stale_allows_it(
    site: Site, client: httpx.AsyncClient, clock: Clock
) -> None:
    site.send("page", Cache_Control="max-age=60")
    await client.get("/page")
    clock.advance(61)
    await client.get("/page", headers={"Cache-Control": "max-stale"})
    assert len(site.seen) == 2


async def test_only_if_cached_runs_no_application(site: Site, client: httpx.AsyncClient) -> None:
    headers = {"Cache-Control": "only-if-cached"}
    assert (await client.get("/page", headers=headers)).status_code == 504
    assert not site.seen
    await client.get("/page")
    assert (await client.get("/page", headers=headers)).text == "ada"


# RFC 9211 ----------------------------------------------------------------------------------------------------


async def test_cache_status_says_where_the_response_came_from(site: Site, client: httpx.AsyncClient) -> None:
    found = [(await client.get("/page")).headers["cache-status"] for _ in range(2)]
    assert found == ["aiomodelcache; fwd=miss", "aiomodelcache; hit"]
    await User.filter(id=1).update(username="grace")
    site.send("page", Cache_Control="private")
    found = [(await client.get("/page")).headers.get("cache-status") for _ in range(2)]
    assert found == ["aiomodelcache; fwd=miss; detail=private", "aiomodelcache; fwd=bypass; detail=unshared"]
