"""``cached_response`` and ``CachedResponseMiddleware``: recorded reads, costs, many clients, and faults."""

import asyncio
import itertools
import logging
import math
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Annotated, Any

import httpx
import pydantic
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, Header, HTTPException, Response
from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.endpoints import HTTPEndpoint
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Route
from tortoise.backends.base.client import BaseDBAsyncClient

from aiomodelcache import CacheConfigurationError, MemoryBackend, ModelCache, local_cache, writes_without_cache
from aiomodelcache.contrib.asgi import LocalCacheMiddleware
from aiomodelcache.contrib.http import CachedResponseMiddleware, cached_response
from aiomodelcache.contrib.responses import stored
from aiomodelcache.testing import CountingBackend, assert_ops
from tests.contrib.responding import KINDS, Site, Watched, status_of
from tests.support.gates import until
from tests.support.in_process import client_of
from tests.support.models.models import Event, User
from tests.support.servers import RedisServer

pytestmark = pytest.mark.only_on("sqlite", because="the dependencies of responses are those of other derived entries")


@pytest.fixture(autouse=True)
async def rows(database: BaseDBAsyncClient) -> None:
    with writes_without_cache():
        await User.create(id=1, username="ada")
        await Event.create(id=1, slug="pycon", title="PyCon", organizer_id=1)


@pytest.fixture(params=KINDS)
def site(request: pytest.FixtureRequest, cache: ModelCache) -> Site:
    return Site(request.param)


@pytest.fixture
async def client(site: Site) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(site.app) as client:
        yield client


# Costs and freshness -----------------------------------------------------------------------------------------


async def test_a_hit_and_a_304_cost_one_round_trip_and_no_sql(
    site: Site, client: httpx.AsyncClient, backend: CountingBackend
) -> None:
    tag = (await client.get("/page")).headers["etag"]
    for headers, status in (({}, 200), ({"If-None-Match": tag}, 304)):
        async with assert_ops(backend, redis=["read"], sql=0):
            assert (await client.get("/page", headers=headers)).status_code == status
        async with assert_ops(backend, redis=["read"], sql=0):
            assert (await client.head("/page", headers=headers)).status_code == status


async def test_a_scope_of_the_request_adds_no_round_trip(cache: ModelCache, backend: CountingBackend) -> None:
    site = Site("starlette")
    async with client_of(LocalCacheMiddleware(site.app)) as client:
        await client.get("/page")
        async with assert_ops(backend, redis=["read"], sql=0):
            assert status_of(await client.get("/page")) == "hit"


async def test_a_write_to_what_was_read_and_no_other_is_seen_by_the_next_request(
    site: Site, client: httpx.AsyncClient
) -> None:
    for number in range(5):
        await User.filter(id=1).update(username=f"name {number}")
        assert (await client.get("/page")).text == f"name {number}"
        await User.create(username=f"other {number}")
        await Event.filter(id=1).update(title=f"Title {number}")
        assert status_of(await client.get("/page")) == "hit"
    assert len(site.seen) == 5


async def test_a_row_that_did_not_exist_is_seen_when_it_is_created(cache: ModelCache) -> None:
    app = FastAPI()

    @app.get("/users/{name}")
    @cached_response()
    async def show(name: str) -> dict[str, int]:
        user = await User.cache.get_or_none(username=name)
        if user is None:
            raise HTTPException(404)
        return {"id": user.id}

    async with client_of(app) as client:
        for status in ("fwd=miss", "hit"):
            response = await client.get("/users/grace")
            assert (response.status_code, status_of(response)) == (404, status)
        await User.create(id=7, username="grace")
        assert (await client.get("/users/grace")).json() == {"id": 7}


async def test_queries_of_the_database_are_recorded_by_their_tables(cache: ModelCache) -> None:
    site = Site("middleware")

    async def titles(request: Request) -> JSONResponse:
        return JSONResponse(await Event.filter(organizer__username="ada").values_list("title", flat=True))

    site.app.router.routes.insert(0, Route("/titles", titles))
    async with client_of(site.app) as client:
        for title in ("PyCon", "EuroPython"):
            await Event.filter(id=1).update(title=title)
            for status in ("fwd=miss", "hit"):
                response = await client.get("/titles")
                assert (response.json(), status_of(response)) == ([title], status)


async def test_by_the_middleware_a_response_without_recorded_reads_needs_a_lifetime(cache: ModelCache) -> None:
    numbers = itertools.count()

    async def counted(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(next(numbers)), headers=dict(request.query_params))

    app = Starlette(routes=[Route("/", counted)], middleware=[Middleware(CachedResponseMiddleware)])
    async with client_of(app) as client:
        assert [(await client.get("/")).text for _ in range(3)] == ["0", "1", "2"]
        assert [(await client.get("/?cache-control=max-age%3D60")).text for _ in range(3)] == ["3"] * 3
        assert [(await client.get("/nowhere")).status_code for _ in range(2)] == [404] * 2
        assert status_of(await client.get("/nowhere")) == "fwd=bypass; detail=unshared"


async def test_responses_are_invalidated_by_their_tags(cache: ModelCache) -> None:
    numbers = itertools.count()

    @cached_response(tags=["rates", lambda request: f"rate:{request.path_params['base']}"])
    async def rate(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(next(numbers)))

    async with client_of(Starlette(routes=[Route("/{base}", rate)])) as client:

        async def shown() -> list[str]:
            return [(await client.get(path)).text for path in ("/usd", "/eur")]

        assert await shown() == await shown() == ["0", "1"]
        await cache.invalidate_tags("rate:usd")
        assert await shown() == ["2", "1"]
        await cache.invalidate_tags("rates")
        assert await shown() == ["3", "4"]


# FastAPI -----------------------------------------------------------------------------------------------------


class Shown(pydantic.BaseModel):
    name: str


class Asking(pydantic.BaseModel):
    id: int


async def test_a_response_is_that_of_fastapi_with_its_model_and_dependencies(cache: ModelCache) -> None:
    app = FastAPI()
    solved: list[str] = []

    async def user_of(id: int, response: Response) -> User:
        solved.append("user")
        response.headers["X-Dependency"] = "1"
        return await User.cache.get(id=id)

    @app.get("/plain/{id}", status_code=203, response_model=Shown)
    async def plain(user: Annotated[User, Depends(user_of)]) -> Any:
        return {"name": user.username, "team": user.team}

    @app.get("/cached/{id}", status_code=203, response_model=Shown)
    @cached_response()
    async def cached(user: Annotated[User, Depends(user_of)]) -> Any:
        return {"name": user.username, "team": user.team}

    @app.get("/annotated/{id}")
    @cached_response()
    def annotated(id: int) -> Shown:
        return Shown(name=str(id))

    async with client_of(app) as client:
        expected = await client.get("/plain/1")
        for _ in range(2):
            response = await client.get("/cached/1")
            assert (response.status_code, response.content) == (203, expected.content)
            for name in ("content-type", "x-dependency"):
                assert response.headers[name] == expected.headers[name]
        await User.filter(id=1).update(username="grace")  # read by the dependency alone
        assert (await client.get("/cached/1")).json() == {"name": "grace"}
        assert (await client.get("/annotated/5")).json() == {"name": "5"}
        assert (await client.get("/cached/x")).status_code == 422
        schema = (await client.get("/openapi.json")).json()["paths"]["/cached/{id}"]["get"]
        assert [parameter["name"] for parameter in schema["parameters"]] == ["id"]


async def test_a_dependency_refuses_before_the_cache_answers(cache: ModelCache) -> None:
    app = FastAPI()

    async def authorised(x_key: Annotated[str, Header()] = "") -> None:
        if x_key != "secret":
            raise HTTPException(401)

    @app.get("/", dependencies=[Depends(authorised)])
    @cached_response()
    async def show() -> str:
        return (await User.cache.get(id=1)).username

    async with client_of(app) as client:
        for _ in range(2):
            assert (await client.get("/", headers={"X-Key": "secret"})).json() == "ada"
            assert (await client.get("/")).status_code == 401


async def test_what_an_endpoint_is_given_is_part_of_the_key(cache: ModelCache) -> None:
    app = FastAPI()
    calls: list[str] = []

    @dataclass
    class Caller:
        name: str

    async def by_class(x_name: Annotated[str, Header()] = "") -> Caller:
        return Caller(x_name)

    async def by_model(x_name: Annotated[str, Header()] = "") -> Shown:
        return Shown(name=x_name)

    async def by_row(x_name: Annotated[str, Header()] = "") -> User:
        return await User.cache.get(username=x_name)

    @app.get("/class")
    @cached_response()
    async def of_class(caller: Annotated[Caller, Depends(by_class)]) -> str:
        calls.append(caller.name)
        return caller.name

    @app.get("/model")
    @cached_response()
    async def of_model(caller: Annotated[Shown, Depends(by_model)]) -> str:
        calls.append(caller.name)
        return caller.name

    @app.get("/row")
    @cached_response()
    async def of_row(caller: Annotated[User, Depends(by_row)]) -> str:
        calls.append(caller.username)
        return caller.username

    @app.get("/header")
    @cached_response()
    async def of_header(x_name: Annotated[list[str] | None, Header()] = None) -> str:
        calls.append("".join(x_name or []))
        return "".join(x_name or [])

    await User.create(username="grace")
    async with client_of(app) as client:
        for path in ("/class", "/model", "/row", "/header"):
            calls.clear()
            for name in ("ada", "grace", "ada", "grace"):
                assert (await client.get(path, headers={"X-Name": name})).json() == name, path
            assert calls == ["ada", "grace"], path


async def test_an_argument_that_cannot_be_part_of_a_key_is_reported_and_not_cached(
    cache: ModelCache, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = FastAPI()
    numbers = itertools.count()

    class Service:
        pass

    @app.get("/")
    @cached_response()
    async def number(service: Annotated[Service, Depends(Service)]) -> int:
        return next(numbers)

    async def fields_of(request: Request) -> Any:
        return request.headers

    @app.get("/fields")
    @cached_response
    async def of_fields(fields: Annotated[Any, Depends(fields_of)], request: Request, tasks: BackgroundTasks) -> str:
        return str(fields.get("x-name"))

    @app.get("/keyed")
    @cached_response(key=lambda request: "all")
    async def keyed(service: Annotated[Service, Depends(Service)]) -> int:
        return next(numbers)

    with caplog.at_level(logging.WARNING, "aiomodelcache"):
        async with client_of(app) as client:
            assert [(await client.get("/")).json() for _ in range(3)] == [0, 1, 2]
            assert [(await client.get("/keyed")).json() for _ in range(3)] == [3] * 3
            for name in ("ada", "grace"):
                assert (await client.get("/fields", headers={"X-Name": name})).json() == name
            with monkeypatch.context() as patched:
                patched.setattr(cache.open_cache, "closed", True)
                assert (await client.get("/")).json() == 4
    messages = [record.getMessage() for record in caplog.records]
    assert ["Service" in messages[0], "Headers" in messages[1], len(messages)] == [True, True, 2]
    assert all(message.endswith("Pass key= to cached_response.") for message in messages)


async def test_background_tasks_run_once_after_the_response_that_they_belong_to(cache: ModelCache) -> None:
    app = FastAPI()
    done: list[str] = []
    go_on = asyncio.Event()

    async def note(text: str) -> None:
        await go_on.wait()
        done.append((await User.cache.get(id=1)).username + text)

    async def audited(tasks: BackgroundTasks) -> None:
        tasks.add_task(note, " audited")

    @app.get("/", dependencies=[Depends(audited)])
    @cached_response()
    async def show(tasks: BackgroundTasks) -> str:
        tasks.add_task(note, " computed")
        return (await User.cache.get(id=1)).username

    async with client_of(app) as client:
        assert (await client.get("/")).json() == "ada"
        assert done == []
        go_on.set()
        await until(lambda: len(done) == 2)
        assert sorted(done) == ["ada audited", "ada computed"]
        assert status_of(await client.get("/")) == "hit"
        await until(lambda: len(done) == 3)
        assert done[2] == "ada audited"


# Starlette ---------------------------------------------------------------------------------------------------


async def test_a_method_of_a_class_of_endpoints(cache: ModelCache) -> None:
    class Page(HTTPEndpoint):
        @cached_response()
        async def get(self, request: Request) -> PlainTextResponse:
            calls.append(request.url.path)
            return PlainTextResponse((await User.cache.get(id=1)).username)

    calls: list[str] = []
    async with client_of(Starlette(routes=[Route("/{page}", Page)])) as client:
        for path in ("/a", "/b", "/a", "/b"):
            assert (await client.get(path)).text == "ada"
    assert calls == ["/a", "/b"]


async def test_below_other_middleware_a_response_in_two_messages_is_stored(cache: ModelCache) -> None:
    site = Site("middleware", vary=["Accept-Encoding"])

    class Passing(BaseHTTPMiddleware):
        async def dispatch(self, request: Any, call_next: Any) -> Any:
            return await call_next(request)

    site.app.user_middleware.append(Middleware(Passing))
    site.app.user_middleware.append(Middleware(GZipMiddleware, minimum_size=10))
    site.send("page " * 100)
    async with client_of(site.app) as client:
        for encoding in ("gzip", "identity", "gzip", "identity"):
            response = await client.get("/page", headers={"Accept-Encoding": encoding})
            assert response.headers.get("content-encoding", "identity") == encoding
            assert response.text == "page " * 100
    assert len(site.seen) == 2


async def test_an_error_after_the_response_is_raised_in_the_request_that_computed_it(cache: ModelCache) -> None:
    raised: list[str] = []

    async def fail() -> None:
        raise LookupError("after the response")

    @cached_response()
    async def show(request: Request) -> PlainTextResponse:
        return PlainTextResponse((await User.cache.get(id=1)).username, background=BackgroundTask(fail))

    inner = Starlette(routes=[Route("/", show)])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await inner(scope, receive, send)
        except LookupError as error:
            raised.append(str(error))

    async with client_of(app) as client:
        assert [(await client.get("/")).text for _ in range(2)] == ["ada"] * 2
        await until(lambda: raised)
        assert raised == ["after the response"]


# Many clients ------------------------------------------------------------------------------------------------


async def test_many_clients_of_a_cold_page_share_one_computation(site: Site) -> None:
    site.gate, watched = asyncio.Event(), Watched(site.app)
    async with client_of(watched) as client:
        asked = [asyncio.create_task(client.get("/page")) for _ in range(30)]
        await until(lambda: watched.arrived == 30 and site.seen)
        site.gate.set()
        responses = await asyncio.gather(*asked)
    assert {response.text for response in responses} == {"ada"}
    assert len({response.headers["etag"] for response in responses}) == 1
    assert len(site.seen) == 1


async def test_a_client_that_leaves_ends_nothing_for_the_others(site: Site) -> None:
    site.gate, watched = asyncio.Event(), Watched(site.app)
    async with client_of(watched) as client:
        first = asyncio.create_task(client.get("/page"))
        await until(lambda: site.seen)
        others = [asyncio.create_task(client.get("/page")) for _ in range(5)]
        await until(lambda: watched.arrived == 6)
        first.cancel()
        with suppress(asyncio.CancelledError):
            await first
        await until(lambda: watched.left == 1)
        site.gate.set()
        assert [response.text for response in await asyncio.gather(*others)] == ["ada"] * 5
        assert status_of(await client.get("/page")) == "hit"
    assert len(site.seen) == 1


@pytest.mark.exhaustive(because="cancels at every moment")
@pytest.mark.parametrize("moment", range(12))
async def test_a_request_that_is_cancelled_at_any_moment_leaves_a_cache_that_works(
    cache: ModelCache, moment: int
) -> None:
    site = Site("fastapi")
    sent: list[Any] = []

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)
        await asyncio.sleep(0)

    def call() -> "asyncio.Task[None]":
        scope = {"type": "http", "method": "GET", "path": "/page", "headers": [], "query_string": b""}
        return asyncio.create_task(site.app(scope, receive, send))

    task = call()
    for _ in range(moment):
        await asyncio.sleep(0)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    sent.clear()
    await call()
    assert [message.get("body", b"") for message in sent] == [b"", b"ada"]
    await cache.open_cache.tasks.finish(5)
    assert not cache.open_cache.tasks.busy


@pytest.mark.parametrize("leaves", ["before", "during"])
async def test_a_stream_whose_client_leaves_is_ended(cache: ModelCache, leaves: str) -> None:
    site = Site("starlette")
    ended: list[str] = []

    async def parts() -> AsyncIterator[str]:
        try:
            yield "first"
            await asyncio.Event().wait()
        finally:
            ended.append("ended")

    site.reply = lambda request, user: StreamingResponse(parts())
    site.gate = asyncio.Event()
    async with client_of(site.app) as client:
        if leaves == "during":
            site.gate.set()
            async with client.stream("GET", "/page") as response:
                assert await anext(response.aiter_text()) == "first"
            await until(lambda: ended)
        else:
            task = asyncio.create_task(client.get("/page"))
            await until(lambda: site.seen)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            site.gate.set()
            await until(lambda: not cache.open_cache.tasks.busy)


# Faults ------------------------------------------------------------------------------------------------------


async def test_an_exception_is_raised_for_all_and_not_stored(site: Site, client: httpx.AsyncClient) -> None:
    def reply(request: Request, user: User) -> Any:
        raise LookupError("broken")

    site.reply = reply
    responses = await asyncio.gather(*[client.get("/page") for _ in range(5)])
    assert [response.status_code for response in responses] == [500] * 5
    site.send("mended")
    assert (await client.get("/page")).text == "mended"


@pytest.mark.parametrize("kind", KINDS)
async def test_the_last_good_response_answers_for_an_error_of_the_server(cache: ModelCache, kind: str) -> None:
    site = Site(kind, stale_if_error="5m")
    async with client_of(site.app) as client:
        site.send("broken", 503)
        responses = await asyncio.gather(*[client.get("/page") for _ in range(4)])
        assert [(response.status_code, response.text) for response in responses] == [(503, "broken")] * 4
        site.send("good")
        tag = (await client.get("/page")).headers["etag"]
        await User.filter(id=1).update(username="grace")

        def failing(request: Request, user: User) -> Any:
            raise ConnectionError("away")

        for site.reply in (failing, lambda request, user: PlainTextResponse("broken", 503)):
            responses = await asyncio.gather(*[client.get("/page") for _ in range(4)])
            assert [response.text for response in responses] == ["good"] * 4
            assert {status_of(response) for response in responses} <= {"fwd=stale; detail=last-good", "hit"}
            assert (await client.get("/page", headers={"If-None-Match": tag})).status_code == 304
        site.send("mended")
        assert (await client.get("/page")).text == "mended"


async def test_a_response_that_must_not_be_stale_is_no_last_good_one(
    cache: ModelCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site("starlette", stale_if_error="5m")
    async with client_of(site.app) as client:
        for directive, expected in (("must-revalidate", 503), ("proxy-revalidate", 503), ("public", 200)):
            site.send("good", Cache_Control=f"max-age=60, {directive}")
            await client.get(f"/{directive}")
            site.send("broken", 503)
            with monkeypatch.context() as patched:
                patched.setattr(stored, "time", SimpleNamespace(time=lambda: time.time() + 61))
                assert (await client.get(f"/{directive}")).status_code == expected


async def test_a_slow_page_is_computed_in_the_background(cache: ModelCache) -> None:
    site = Site("fastapi", stale_if_error="5m", soft_timeout=0.05)
    async with client_of(site.app) as client:
        assert (await client.get("/page")).text == "ada"
        await User.filter(id=1).update(username="grace")
        site.gate = asyncio.Event()
        assert (await client.get("/page")).text == "ada"
        site.gate.set()
        await until(lambda: not cache.open_cache.tasks.busy)
        response = await client.get("/page")
        assert (response.text, status_of(response)) == ("grace", "hit")
        assert len(site.seen) == 2


async def test_a_response_near_its_end_is_computed_in_the_background(
    site: Site, client: httpx.AsyncClient, cache: ModelCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiomodelcache.engine.background.THRESHOLD_REFRESH_INTERVAL", 0.0)
    now = time.time
    with monkeypatch.context() as patched:
        patched.setattr("aiomodelcache.entries.base.time.time", lambda: now() - 3_590)  # of an hour
        await client.get("/page")
    assert status_of(await client.get("/page")) == "hit"
    await until(lambda: len(site.seen) == 2 and not cache.open_cache.tasks.busy)
    assert status_of(await client.get("/page")) == "hit"
    assert len(site.seen) == 2


@pytest.mark.parametrize("kind", ["starlette", "middleware"])
async def test_without_an_open_cache_or_a_tenant_the_application_answers(
    database: BaseDBAsyncClient, backend: CountingBackend, kind: str
) -> None:
    async def health(request: Request) -> PlainTextResponse:
        return PlainTextResponse("ok")

    endpoint = cached_response()(health) if kind == "starlette" else health
    middleware = [Middleware(CachedResponseMiddleware)] if kind == "middleware" else []
    app = Starlette(routes=[Route("/", endpoint, methods=["GET", "POST"])], middleware=middleware)
    async with client_of(app) as client:
        for method in ("GET", "POST"):
            assert (await client.request(method, "/")).text == "ok"
        assert status_of(await client.get("/")) == "fwd=bypass; detail=not-open"
        async with ModelCache(backend, tenant=lambda: None):
            response = await client.get("/")
            assert (response.text, status_of(response)) == ("ok", "fwd=bypass; detail=no-tenant")


@pytest.mark.only_on("memory", because="it has a Redis of its own")
@pytest.mark.parametrize("kind", KINDS)
async def test_without_the_store_the_endpoint_answers(database: Any, own_redis: RedisServer, kind: str) -> None:
    site = Site(kind)
    async with ModelCache(own_redis.url, socket_timeout=0.2), client_of(site.app) as client:
        tag = (await client.get("/page")).headers["etag"]
        own_redis.kill()
        response = await client.get("/page")
        assert (response.text, response.headers["etag"]) == ("ada", tag)
        assert (await client.get("/page", headers={"If-None-Match": tag})).status_code == 304
        assert len(site.seen) == 3


async def test_damaged_bytes_are_computed_again(
    site: Site, client: httpx.AsyncClient, backend: CountingBackend, backend_url: str
) -> None:
    await client.get("/page")
    keys = [key for key in backend.keys if b":c:" in key]
    assert len(keys) == 1
    [entry] = await backend.read(keys)
    assert entry is not None
    for damaged in (entry[:-3], entry[:60], entry[:57] + b"\xc1" * (len(entry) - 57)):
        await plant(backend, backend_url, keys[0], damaged)
        response = await client.get("/page")
        assert response.text == "ada"
    assert len(site.seen) == 4
    assert status_of(await client.get("/page")) == "hit"


async def plant(backend: CountingBackend, url: str, key: bytes, value: bytes) -> None:
    """Stores bytes without the cache."""
    store: Any = backend.backend
    if isinstance(store, MemoryBackend):
        store._put(key, value, math.inf, store._now())
    else:
        async with Redis.from_url(url) as client:
            await client.set(key, value)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_disabled_cache_answers_from_the_endpoint(cache: ModelCache, kind: str) -> None:
    site = Site(kind)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        with cache.disabled():
            await site.app(scope, receive, send)

    async with client_of(site.app) as client, client_of(app) as without_cache:
        await client.get("/page")
        for _ in range(2):
            response = await without_cache.get("/page")
            assert (response.text, "etag" in response.headers) == ("ada", True)
    assert len(site.seen) == 3


async def test_in_the_scope_of_a_request_a_write_is_seen(cache: ModelCache) -> None:
    site = Site("starlette")
    async with local_cache(), client_of(site.app) as client:
        await client.get("/page")
        await User.filter(id=1).update(username="grace")
        assert (await client.get("/page")).text == "grace"


# Settings ----------------------------------------------------------------------------------------------------


@pytest.mark.only_on("memory", because="settings depend on no store")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"timeout": 0}, r"show: timeout"),
        ({"vary": "Accept"}, r"show: vary is 'Accept': it must be a list of names, such as \[\"Accept-Language\"\]"),
        ({"vary": ["*"]}, r"show: vary names \*"),
        ({"session_cookies": "session"}, r"show: session_cookies is 'session': it must be a list of names"),
        ({"vary": User}, r"show: vary is <class .*>: it must be a list of names"),
        ({"session_cookies": 3}, r"show: session_cookies is 3: it must be a list of names"),
        ({"tags": [3]}, r"show: tags has 3"),
        ({"tags": 3}, r"show: tags is 3: it must be a tuple of tags"),
        ({"depends_on": [3]}, r"show: depends_on names"),
        ({"depends_on": 3}, r"show: depends_on is 3: it must be a tuple of models"),
        ({"key": "user"}, r"show: key is 'user': it must be a plain function of the request"),
        ({"max_size": "1 MiB"}, r"show: max_size is '1 MiB': it must be a whole number of bytes"),
        ({"session_cookies": ""}, r"show: session_cookies is '': it must be a list of names"),
        ({"timout": 5}, r"show: there is no setting 'timout'. The settings: timeout, vary"),
    ],
)
def test_wrong_settings_are_refused_at_once(settings: dict[str, Any], message: str) -> None:
    async def show(request: Request) -> None:
        pass

    with pytest.raises(CacheConfigurationError, match=message):
        cached_response(**settings)(show)
