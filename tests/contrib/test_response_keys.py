"""Keys of cached responses: whatever is asked before, a request gets the response that it would get without a cache."""

import asyncio
import itertools
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from contextvars import ContextVar
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from aiomodelcache import ModelCache
from aiomodelcache.contrib.http import CachedResponseMiddleware
from aiomodelcache.contrib.responses.fields import directives, entity_tags, http_date, list_members
from tests.support.databases import DatabaseUrl, tortoise_on
from tests.support.models.models import User

tenant: ContextVar[str] = ContextVar("tenant")

VARYING = ((), (b"accept-language",), (b"accept", b"accept-language"), (b"cookie",), (b"authorization",))
"""Fields that responses vary by. A path says which: the application names them in ``Vary``."""

TEXTS = st.sampled_from(["", "a", "b", "a,b", "a, b", ":", "%", "%3A", "n", "\xe9", "A"])
PATHS = st.builds(
    lambda kind, parts: f"/{kind}/" + "/".join(parts), st.integers(0, len(VARYING) - 1), st.lists(TEXTS, max_size=2)
)
HEADERS = st.lists(
    st.tuples(
        st.sampled_from([b"accept", b"accept-language", b"cookie", b"authorization", b"host"]),
        TEXTS.map(lambda text: text.encode("latin-1")),
    ),
    max_size=4,
)
REQUESTS = st.fixed_dictionaries(
    {
        "method": st.sampled_from(["GET", "HEAD"]),
        "scheme": st.sampled_from(["http", "https"]),
        "server": st.sampled_from([None, ("a", 80), ("a", 81)]),
        "root_path": st.sampled_from(["", "/0", "/1"]),
        "path": PATHS,
        "raw_path": st.sampled_from([None, b"/0/a", b"/0/%61"]),
        "query_string": st.lists(st.sampled_from(["a=1", "b=2", "a=2", "a", "", "a=1%26b=2"]), max_size=3).map(
            lambda parts: "&".join(parts).encode()
        ),
        "headers": HEADERS,
        "tenant": st.sampled_from(["acme", "bolt"]),
    }
)
Asked = dict[str, Any]
numbers = itertools.count()


def seen(asked: Asked) -> bytes:
    """Returns the content of the response, which names everything that it depends on."""
    kind = int(asked["path"][1])
    fields = [
        (name, [value.strip() for key, value in asked["headers"] if key == name]) for name in (*VARYING[kind], b"host")
    ]
    joined = [(name, b", ".join(values) if values else None) for name, values in fields]
    host = joined.pop()[1]
    parts = [asked[name] for name in ("scheme", "root_path", "path", "query_string")]
    where = repr(asked["server"]) if host is None else host.lower()
    return repr((*parts, asked["raw_path"] or b"", where, joined, tenant.get())).encode()


async def application(scope: Any, receive: Any, send: Any) -> None:
    await User.cache.get_or_none(id=1)
    vary = b", ".join(VARYING[int(scope["path"][1])])
    headers = [(b"vary", vary)] if vary else []
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else seen(scope)})


async def receive() -> Any:
    await asyncio.Event().wait()


async def answer(app: Any, asked: Asked) -> bytes:
    body: list[bytes] = []

    async def send(message: Any) -> None:
        body.append(message.get("body", b""))

    tenant.set(asked["tenant"])
    scope = {"type": "http", **asked}
    del scope["tenant"]
    await app(scope, receive, send)
    return b"".join(body)


def expected(asked: Asked) -> bytes:
    tenant.set(asked["tenant"])
    return b"" if asked["method"] == "HEAD" else seen(asked)


async def ask_all(requests: Sequence[Asked], *, at_once: bool) -> None:
    """Makes requests to an application with an empty cache, and compares the responses with those without a cache."""
    app = CachedResponseMiddleware(application, session_cookies=[], name=f"application {next(numbers)}")
    for round_ in range(2):
        if at_once:
            tasks = [asyncio.create_task(answer(app, asked)) for asked in requests]
            answers = await asyncio.gather(*tasks)
        else:
            answers = [await answer(app, asked) for asked in requests]
        assert answers == [expected(asked) for asked in requests], round_


@contextmanager
def opened() -> Iterator[asyncio.Runner]:
    """Yields a runner of a loop in which a cache with tenants is open, for all examples of a test."""
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()

        async def enter() -> None:
            await stack.enter_async_context(
                tortoise_on(DatabaseUrl("sqlite://:memory:", "sqlite"), "tests.support.models.models")
            )
            await stack.enter_async_context(ModelCache("memory://", tenant=tenant.get))

        runner.run(enter())
        yield runner
        runner.run(stack.aclose())


@pytest.mark.exhaustive(because="tries many pairs of requests")
@pytest.mark.parametrize("at_once", [False, True])
def test_no_request_gets_the_response_of_another(at_once: bool) -> None:
    with opened() as runner:

        @hypothesis_settings(max_examples=300, deadline=None)
        @given(requests=st.lists(REQUESTS, min_size=2, max_size=6))
        def attempt(requests: list[Asked]) -> None:
            runner.run(ask_all(requests, at_once=at_once))

        attempt()


NEAR_MISSES = [
    {"query_string": b"a=1&b=2"},
    {"query_string": b"b=2&a=1"},
    {"query_string": b"a=1&a=2"},
    {"path": "/0/a", "raw_path": b"/0/%61"},
    {"root_path": "/0", "path": "/0/a"},
    {"scheme": "https"},
    {"headers": [(b"host", b"a")]},
    {"headers": [(b"host", b"b")]},
    {"path": "/1/a", "headers": [(b"accept-language", b"a"), (b"accept-language", b"b")]},
    {"path": "/1/a", "headers": [(b"accept-language", b"a")]},
    {"path": "/1/a", "headers": [(b"accept-language", b"")]},
    {"path": "/1/a"},
    {"path": "/2/a", "headers": [(b"accept", b"a")]},
    {"path": "/2/a", "headers": [(b"accept-language", b"a")]},
    {"tenant": "bolt"},
]


@pytest.mark.parametrize("at_once", [False, True])
def test_requests_that_differ_in_one_part_have_responses_of_their_own(at_once: bool) -> None:
    plain = {
        "method": "GET",
        "scheme": "http",
        "server": None,
        "root_path": "",
        "path": "/0/a",
        "raw_path": None,
        "query_string": b"",
        "headers": [],
        "tenant": "acme",
    }
    requests = [plain, *({**plain, **other} for other in NEAR_MISSES)]
    with opened() as runner:
        runner.run(ask_all(requests, at_once=at_once))


@given(st.lists(st.tuples(st.just(b"cache-control"), st.binary(max_size=40)), max_size=3), st.binary(max_size=40))
def test_fields_of_any_bytes_are_read_without_an_error(fields: list[tuple[bytes, bytes]], value: bytes) -> None:
    directives(fields)
    list_members(fields, b"cache-control")
    entity_tags(value)
    http_date(value)
