"""``LocalCacheMiddleware(server_timing=True)``: the header says what this request's lookups did."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from aiomodelcache import ModelCache, cached
from aiomodelcache.contrib.asgi import LocalCacheMiddleware
from aiomodelcache.contrib.server_timing import RequestTiming
from aiomodelcache.observe import Lookup
from tests.support.in_process import client_of
from tests.support.models.models import User

TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
METRIC = re.compile(rf'({TOKEN})(?:;desc="([^"\\]*)")?(?:;dur=([0-9.]+))?')
"""One metric of the header, by the grammar of https://www.w3.org/TR/server-timing/."""

pytestmark = pytest.mark.only_on("sqlite", because="events are the same for all databases")


def metrics(response: httpx.Response) -> dict[str, str]:
    """The descriptions in the header of a response, by name. The metrics of the cache have durations."""
    found: dict[str, str] = {}
    for part in re.split(r", (?=[a-z]+(?:;|$))", response.headers["server-timing"]):
        match = METRIC.fullmatch(part)
        assert match is not None, part
        found[match[1]] = match[2] or ""
        assert match[1] in ("app", "db") or 0 <= float(match[3]) < 30_000
    return found


class Service:
    """An application whose endpoints make a known number of lookups."""

    def __init__(self) -> None:
        self.arrived = asyncio.Barrier(2)
        self.go_on = asyncio.Event()
        self.left_over: asyncio.Future[int]
        routes = [
            Route("/users/{ids}", self.users),
            Route("/nothing", self.nothing),
            Route("/together/{ids}", self.together),
            Route("/own", self.own),
            Route("/stream", self.stream),
            Route("/computed", self.computed),
            Route("/rename/{name}", self.rename),
            Route("/pending", self.pending),
        ]
        self.app = Starlette(routes=routes)
        self.timed: Any = LocalCacheMiddleware(self.app, server_timing=True)

    async def users(self, request: Request) -> Response:
        """Looks users up, one after another."""
        for number in request.path_params["ids"].split(","):
            await User.cache.get_or_none(id=int(number))
        return JSONResponse(None)

    async def nothing(self, request: Request) -> Response:
        return JSONResponse(None)

    async def together(self, request: Request) -> Response:
        """Looks users up in one tick with another request, so that both share a round trip."""
        await self.arrived.wait()
        numbers = map(int, request.path_params["ids"].split(","))
        await asyncio.gather(*(User.cache.get(id=number) for number in numbers))
        return JSONResponse(None)

    async def own(self, request: Request) -> Response:
        await User.cache.get(id=1)
        return JSONResponse(None, headers={"Server-Timing": 'app, db;desc="mine"'})

    async def stream(self, request: Request) -> Response:
        await User.cache.get(id=1)

        async def parts() -> AsyncIterator[str]:
            yield "first\n"
            await self.go_on.wait()
            yield f"{(await User.cache.get(id=2)).username}\n"

        return StreamingResponse(parts())

    async def computed(self, request: Request) -> Response:
        @cached
        async def names() -> list[str]:
            return [user.username for user in await User.all()]

        return JSONResponse(await names())

    async def rename(self, request: Request) -> Response:
        user = await User.get(id=1)
        user.username = request.path_params["name"]
        await user.save()
        return JSONResponse(None)

    async def pending(self, request: Request) -> Response:
        """Responds while a lookup is in progress."""
        entered = asyncio.Event()

        @cached(timeout=60)
        async def slow() -> int:
            entered.set()
            await self.go_on.wait()
            return 1

        self.left_over = asyncio.ensure_future(slow())
        await entered.wait()
        return JSONResponse(None)


@pytest.fixture
async def service(cache: ModelCache) -> Service:
    for number, name in enumerate(("ada", "grace", "katherine"), start=1):
        await User.create(id=number, username=name)
    return Service()


@pytest.fixture
async def client(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(service.timed) as client:
        yield client


async def test_the_header_counts_hits_misses_round_trips_and_statements(client: httpx.AsyncClient) -> None:
    missed = await client.get("/users/1")
    assert metrics(missed) == {"cache": "1 miss", "store": "3 round trips", "sql": "1 statement"}
    hit = await client.get("/users/1")
    assert metrics(hit) == {"cache": "1 hit", "store": "1 round trip"}
    both = await client.get("/users/1,2,1,404")
    assert metrics(both) == {"cache": "2 hits, 2 misses", "store": "7 round trips", "sql": "2 statements"}
    assert len(both.headers.get_list("server-timing")) == 1


async def test_a_request_without_lookups_has_no_header(client: httpx.AsyncClient) -> None:
    await client.get("/users/1")
    assert "server-timing" not in (await client.get("/nothing")).headers


async def test_the_round_trips_of_writes_count(client: httpx.AsyncClient) -> None:
    assert metrics(await client.get("/rename/hopper")) == {"store": "2 round trips"}


async def test_a_computation_counts(client: httpx.AsyncClient) -> None:
    found = metrics(await client.get("/computed"))
    assert found["cache"] == "1 miss"
    assert found["compute"] == "1 computation"


async def test_requests_at_once_are_kept_apart(client: httpx.AsyncClient) -> None:
    await client.get("/users/1,2,3")
    first, second = await asyncio.gather(client.get("/together/1,2"), client.get("/together/3"))
    assert metrics(first) == {"cache": "2 hits", "store": "1 round trip"}
    assert metrics(second) == {"cache": "1 hit", "store": "1 round trip"}


async def test_the_metrics_of_the_application_come_first(client: httpx.AsyncClient) -> None:
    found = await client.get("/own")
    assert list(metrics(found).items())[:3] == [("app", ""), ("db", "mine"), ("cache", "1 miss")]
    assert len(found.headers.get_list("server-timing")) == 1


async def test_a_stream_is_not_held_back_and_has_what_was_known_at_its_start(
    service: Service, client: httpx.AsyncClient
) -> None:
    await client.get("/users/1")
    async with client.stream("GET", "/stream") as response:
        assert metrics(response) == {"cache": "1 hit", "store": "1 round trip"}
        lines = response.aiter_lines()
        assert await anext(lines) == "first"
        service.go_on.set()
        assert await anext(lines) == "grace"


async def test_a_lookup_in_progress_is_open(service: Service, client: httpx.AsyncClient) -> None:
    found = metrics(await client.get("/pending"))
    assert found["cache"] == "1 open"
    assert found["compute"] == "1 computation"
    service.go_on.set()
    assert await service.left_over == 1


async def test_a_cache_that_opens_later_is_watched(service: Service, cache: ModelCache) -> None:
    async with client_of(service.timed) as client:
        assert "cache" in metrics(await client.get("/users/1"))
        await cache.close()
        await cache.open()
        assert "cache" in metrics(await client.get("/users/1"))


@pytest.mark.unobserved(because="it expects no observer")
async def test_it_is_off_by_default_and_then_adds_no_observer(service: Service, cache: ModelCache) -> None:
    async with client_of(LocalCacheMiddleware(service.app)) as client:
        response = await client.get("/own")
    assert response.headers["server-timing"] == 'app, db;desc="mine"'
    assert cache.open_cache.guarded.observers is None


@pytest.mark.parametrize("limit", [1, 20])
async def test_work_at_the_same_time_is_not_added_up(service: Service, limit: int) -> None:
    """The duration is the time in which at least one lookup was in progress."""
    timing = RequestTiming()
    lookups = [Lookup(cache="Event", kind="GetQuery", started=10.0 + at / 100) for at in range(limit)]
    for lookup in lookups:
        timing.begin(lookup)
    for lookup in lookups:
        lookup.outcome, lookup.duration = "hit", 0.5
        timing.end(lookup)
    assert float(timing.header().rpartition(b"=")[2]) == pytest.approx(500 + (limit - 1) * 10)
