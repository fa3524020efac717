"""The lookups of each HTTP request, counted for the response header ``Server-Timing``.

Knows events, not how lookups proceed. One observer serves all requests of the process: the context variable of its
callers says which request a lookup belongs to.
"""

from collections import Counter
from collections.abc import Iterable
from contextvars import ContextVar, Token
from time import perf_counter
from typing import Final

from aiomodelcache.contrib.asgi_types import Headers
from aiomodelcache.observe.events import Computation, Lookup, Observer, Operation, RoundTrip, Statement
from aiomodelcache.open_cache import open_caches

_Names = dict[type[Operation], str]

NAMES: Final[_Names] = {Lookup: "cache", RoundTrip: "store", Statement: "sql", Computation: "compute"}
"""The metrics, by the operation that each counts, in the order of the header."""
_UNITS: Final[_Names] = {RoundTrip: "round trip", Statement: "statement", Computation: "computation"}
_GROUPS: Final = {"miss": ("miss", "misses"), "bypass": ("bypass", "bypasses"), "fault": ("fault", "faults")}
"""Outcomes that are no hit, in the singular and in the plural."""
_NO_ANSWER: Final = ("error", "cancelled")
_HEADER: Final = b"server-timing"


class _Span:
    """The operations of one kind in one request, and the time during which at least one of them was in progress."""

    __slots__ = ("_active", "_since", "_total", "count")

    def __init__(self) -> None:
        self.count = 0
        self._active = 0
        self._since = 0.0
        self._total = 0.0

    def begin(self, started: float) -> None:
        if not self._active:
            self._since = started
        self._active += 1
        self.count += 1

    def end(self, ended: float) -> None:
        self._active -= 1
        if not self._active:
            self._total += ended - self._since

    def seconds(self) -> float:
        return self._total + (perf_counter() - self._since if self._active else 0.0)


class RequestTiming:
    """The counts of one request."""

    __slots__ = ("_outcomes", "_spans")

    def __init__(self) -> None:
        self._spans: dict[type[Operation], _Span] = {kind: _Span() for kind in NAMES}
        self._outcomes = Counter[str]()

    def begin(self, operation: Operation) -> None:
        """Counts an operation that begins."""
        self._spans[type(operation)].begin(operation.started)

    def end(self, operation: Operation) -> None:
        """Adds the time of an operation, and the outcome of a lookup."""
        self._spans[type(operation)].end(operation.started + (operation.duration or 0.0))
        if isinstance(operation, Lookup) and operation.outcome is not None:
            self._outcomes[operation.outcome] += 1

    def header(self) -> bytes:
        """Returns the value of the header with the counts so far. Empty if nothing was looked up."""
        return ", ".join(
            f'{NAMES[kind]};desc="{self._description(kind)}";dur={span.seconds() * 1000:.2f}'
            for kind, span in self._spans.items()
            if span.count
        ).encode()

    def _description(self, kind: type[Operation]) -> str:
        if kind is not Lookup:
            return _numbered(self._spans[kind].count, _UNITS[kind], f"{_UNITS[kind]}s")
        others = {outcome: self._outcomes[outcome] for outcome in (*_GROUPS, *_NO_ANSWER)}
        hits = self._outcomes.total() - sum(others.values())
        failed = sum(others[outcome] for outcome in _NO_ANSWER)
        counts = [(hits, "hit", "hits"), *((others[outcome], *words) for outcome, words in _GROUPS.items())]
        counts += [(failed, "failed", "failed"), (self._spans[kind].count - self._outcomes.total(), "open", "open")]
        return ", ".join(_numbered(*each) for each in counts if each[0])


def _numbered(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"


current_timing: Final[ContextVar[RequestTiming | None]] = ContextVar("aiomodelcache_request_timing", default=None)
"""The counts of the request that this task works for. Tasks that the request starts share them."""


class _RequestObserver(Observer):
    """Counts each operation in the requests that it is done for."""

    def begin(self, operation: Operation) -> None:
        for timing in _timings(operation):
            timing.begin(operation)

    def end(self, operation: Operation) -> None:
        for timing in _timings(operation):
            timing.end(operation)


_OBSERVER: Final = _RequestObserver()


def watch_open_caches() -> None:
    """Has the observer of requests told of the lookups of all open caches. Idempotent."""
    for cache in open_caches.copy():
        cache.guarded.add_observer(_OBSERVER)


def begin_timing() -> "tuple[RequestTiming, Token[RequestTiming | None]]":
    """Begins the counts of a request in this task. Returns them, and the token that ends them."""
    watch_open_caches()
    timing = RequestTiming()
    return timing, current_timing.set(timing)


def joined(own: str | None, timing: RequestTiming) -> str:
    """Returns the value of the header with the counts so far, after the one that the application has set."""
    return ", ".join(filter(None, [own and own.strip(), timing.header().decode()]))


def _timings(operation: Operation) -> Iterable[RequestTiming]:
    """Returns the counts of the requests that wait for an operation."""
    lookups = operation.lookups if isinstance(operation, RoundTrip | Statement | Computation) else ()
    if len(lookups) < 2:  # nearly always, so without a list
        [waiting] = lookups or (operation,)
        timing = waiting.context.get(current_timing)
        return () if timing is None or (isinstance(waiting, Lookup) and waiting.background) else (timing,)
    found = [each.context.get(current_timing) for each in lookups if not each.background]
    return dict.fromkeys(timing for timing in found if timing is not None)


def with_timing(headers: Headers, timing: RequestTiming) -> list[tuple[bytes, bytes]]:
    """Returns the headers of a response with the counts of its request, after those that the application has set."""
    found, value = list(headers), timing.header()
    if not value:
        return found
    for at, (name, own) in reversed(list(enumerate(found))):
        if name.lower() == _HEADER:
            found[at] = (name, own + b", " + value if own.strip() else value)
            return found
    return [*found, (_HEADER, value)]
