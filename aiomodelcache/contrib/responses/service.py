"""``ResponseCache``: answers requests with stored responses, or has the application answer them."""

import time
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import Any, Final

from aiomodelcache.contrib.asgi_types import Application, ASGIScope, Message, Receive, Send
from aiomodelcache.contrib.responses.conditions import evaluate, without_content
from aiomodelcache.contrib.responses.fields import Fields, names_in
from aiomodelcache.contrib.responses.lookups import ResponseCall, ResponseQuery, SharedAnswer
from aiomodelcache.contrib.responses.plain import are_plain
from aiomodelcache.contrib.responses.requests import Request
from aiomodelcache.contrib.responses.runs import ApplicationRun
from aiomodelcache.contrib.responses.stored import (
    StoredResponse,
    WholeResponse,
    current_time,
    expiry,
    storage_refusal,
    stored_response,
)
from aiomodelcache.declare.value_declarations import ValueDeclaration
from aiomodelcache.entries.results import DontCache
from aiomodelcache.exceptions import CacheNotOpen, TenantError
from aiomodelcache.open_cache import default_cache
from aiomodelcache.query.batch import BatchCacheQuery
from aiomodelcache.scopes.tracking import Tracker, current_tracker

UNSHARED_SECONDS: Final = 10.0
"""Seconds for which requests go to the application at once, after a response that must not be stored."""
MAX_REMEMBERED: Final = 10_000
"""Maximum number of paths whose ``Vary`` is remembered, and of requests whose response must not be stored.

Beyond it, all are forgotten, and the next response of each is not stored.
"""
MAX_VARYING: Final = 8
"""Maximum number of fields that the responses of one path vary by. Beyond it, they are not stored."""
GATEWAY_TIMEOUT: Final = 504
"""The status for a request that allows only a stored response, if there is none (RFC 9111, section 5.2.1.7)."""


class ServerFailed(Exception):
    """The application has answered with an error of the server, which its client gets unless there is better."""

    def __init__(self, status_code: int) -> None:
        super().__init__(f"the application answered {status_code}")
        self.status_code = status_code


class ResponseCache:
    """The stored responses of one endpoint or application.

    ``needs_reads``: a response that was computed from nothing recorded is stored only if it says for how long.
    """

    def __init__(
        self,
        declaration: ValueDeclaration,
        *,
        vary: Collection[str] = (),
        key: Callable[[ASGIScope], Any] | None = None,
        session_cookies: Iterable[str] | None = None,
        max_size: int,
        needs_reads: bool = False,
    ) -> None:
        self.declaration = declaration
        self._vary = frozenset([name.lower().encode("latin-1") for name in vary])
        self._key = key
        self._keyed = self._vary if key is None else self._vary | {b"authorization", b"cookie"}
        self._session_cookies = (
            None if session_cookies is None else frozenset([name.encode("latin-1") for name in session_cookies])
        )
        self._max_size = max_size
        self._needs_reads = needs_reads
        self._learned: dict[str, frozenset[bytes]] = {}
        """The fields that the responses of a path were seen to vary by, beside those that are declared."""
        self._unshared: dict[str, float] = {}
        """Requests whose response must not be stored, and until when that is taken for granted."""

    def bypass(self, request: Request) -> str | None:
        """Returns the reason for which only the application may answer, or None."""
        return request.bypass(self._keyed, self._session_cookies)

    async def respond(
        self, application: Application, request: Request, receive: Receive, send: Send, arguments: Any = None
    ) -> bool:
        """Answers a request that ``bypass`` gives no reason against. Returns True if the application ran for it.

        ``arguments``: further parts of the key, unless there is a function for them.
        """
        send = _without_body(send) if request.is_head else send
        try:
            tasks = default_cache().usable().tasks
        except (CacheNotOpen, TenantError) as error:
            detail = "no-tenant" if isinstance(error, TenantError) else "not-open"
            await application(request.scope, receive, labelled(send, f"fwd=bypass; detail={detail}"))
            return True
        extra = arguments if self._key is None else self._key(request.scope)
        known: frozenset[bytes] | None = None
        while known != (names := self._names(request)):
            known = names
            target = repr((request.uri(), request.varying(known)))  # one text, because encoding its parts takes longer
            mark = target if extra is None else f"{target} {extra!r}"
            key: Any = mark if extra is None or are_plain(extra) else (target, extra)
            if self._unshared.get(mark, 0.0) > time.monotonic():
                break
            call = ResponseCall(request, application, tasks, known, mark)
            query = ResponseQuery(self.declaration, key, partial(self._compute, call), call)
            if b"only-if-cached" in call.directives:
                answers = await BatchCacheQuery(response=query).get(only_cache=True)
                await _send_found(request, answers.get("response"), send, "hit")
                return False
            found: SharedAnswer = None
            try:
                with suppress(ServerFailed):
                    found = await query
                is_last_good = call.computed and found is not None and found is not call.stored
                if is_last_good and found is not None and found.must_not_be_stale(current_time()):
                    is_last_good, found = False, None
                run = None if is_last_good else call.take()
            finally:
                call.leave()
            if run is not None:
                await _send_computed(run, call, found, receive, send)
                return True
            if found is not None:
                await _send_found(request, found, send, "fwd=stale; detail=last-good" if is_last_good else "hit")
                return call.computed
        scope = {**request.scope, "method": "GET"} if request.is_head else request.scope
        await application(scope, receive, labelled(send, "fwd=bypass; detail=unshared"))
        return True

    def _names(self, request: Request) -> frozenset[bytes]:
        learned = self._learned.get(request.scope["path"])
        return self._vary if learned is None else self._vary | learned

    async def _compute(self, call: ResponseCall) -> SharedAnswer | DontCache[SharedAnswer]:
        """Runs the application. Returns its response if all clients may have it, and None otherwise.

        Raises ``ServerFailed`` for an error of the server, if the last good response may answer instead.
        """
        call.computed = True
        run = ApplicationRun(call.application, call.request.for_computation(), self._max_size)
        tracker = current_tracker()
        before = 0 if tracker is None else len(tracker.dependencies)
        response = await run.respond(partial(call.tasks.start, context=copy_context()))
        call.reason, found = "stream", None
        if response is not None:
            call.reason, found = self._stored_form(call, response, has_read=_has_read(tracker, before))
        if found is None and call.reason not in (None, "vary"):
            _bounded(self._unshared)[call.mark] = time.monotonic() + UNSHARED_SECONDS
        call.stored = found
        call.hand_over(run, response)
        if response is not None and response.status >= 500 and self.declaration.stale_if_error is not None:
            raise ServerFailed(response.status)
        return DontCache(None) if found is None else found

    def _stored_form(
        self, call: ResponseCall, response: WholeResponse, *, has_read: bool
    ) -> tuple[str | None, SharedAnswer]:
        """Returns the stored form of a response, or the reason against it, None for one that may soon be gone."""
        now = current_time()
        reason = storage_refusal(response, now)
        if response.status >= 500:
            return None, None
        if reason is None and self._needs_reads and not has_read and expiry(response.headers, now) is None:
            reason = "nothing-read"
        if reason is not None:
            return reason, None
        names = names_in(response.headers, b"vary") | call.known
        if names != call.known:
            if len(names) > MAX_VARYING + len(self._vary):
                return "varies-too-much", None
            _bounded(self._learned)[call.request.scope["path"]] = names
            return "vary", None
        private = bool(self._keyed & call.request.fields.keys() & {b"authorization", b"cookie"})
        return None, stored_response(response, call.known, now, private=private)


def labelled(send: Send, status: str) -> Send:
    """Returns a ``send`` that adds a ``Cache-Status`` (RFC 9211) to the response."""

    async def send_labelled(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), _cache_status(status)]}
        await send(message)

    return send_labelled


def _cache_status(status: str) -> tuple[bytes, bytes]:
    return b"cache-status", f"aiomodelcache; {status}".encode()


async def _send_found(request: Request, found: SharedAnswer, send: Send, status: str) -> None:
    """Sends a stored response. None: the client allowed no other."""
    if found is None:
        empty = [(b"content-length", b"0")]
        await _send_whole(request, GATEWAY_TIMEOUT, empty, b"", "fwd=miss; detail=only-if-cached", send)
        return
    headers = [*found.headers, (b"age", b"%d" % found.age(current_time()))]
    await _send_whole(request, found.status, headers, found.body, status, send)


async def _send_computed(
    run: ApplicationRun, call: ResponseCall, found: SharedAnswer, receive: Receive, send: Send
) -> None:
    """Sends the response that was computed for this client, and lets the application go on after it."""
    status = "fwd=miss" if call.reason is None else f"fwd=miss; detail={call.reason}"
    try:
        if run.response is None:
            await run.forward(receive, labelled(send, status))
            return
        response: WholeResponse | StoredResponse = run.response if found is None else found
        await _send_whole(call.request, response.status, response.headers, response.body, status, send)
        await run.finish()
    except BaseException:
        run.cancel()
        raise


async def _send_whole(
    request: Request, status: int, headers: Fields, body: bytes, cache_status: str, send: Send
) -> None:
    """Sends a response, or what the preconditions of the request make of it."""
    other = evaluate(request, status, headers)
    if other is not None:
        status, headers, body = other, without_content(other, headers), b""
    headers = [*headers, _cache_status(cache_status)]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _without_body(send: Send) -> Send:
    """Returns a ``send`` for the response to HEAD: it has the fields of the response to GET, and no content."""

    async def send_without_body(message: Message) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return send_without_body


def _has_read(tracker: Tracker | None, before: int) -> bool:
    """Returns True if a computation has read anything, recorded or not. ``before``: its dependencies when it began."""
    return tracker is None or len(tracker.dependencies) > before or bool(tracker.unseen or tracker.refusal)


def _bounded(remembered: dict[str, Any]) -> dict[str, Any]:
    """Returns a dict after clearing it at its maximum size."""
    if len(remembered) >= MAX_REMEMBERED:
        remembered.clear()
    return remembered
