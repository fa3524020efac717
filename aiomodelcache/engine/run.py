"""One plan in flight, and the outcome of its lookup.

Must not know what a plan is about, nor how requests are sent.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from aiomodelcache.observe.events import Lookup
from aiomodelcache.plans.requests import Plan

DoneCallback = Callable[[Any, BaseException | None], None]
"""A callback that is called once, with a plan's result or with the exception that it raised."""


class NotCached(Exception):
    """The cache cannot answer, and the caller did not allow a database query."""


class RunningPlan:
    """A plan in flight."""

    __slots__ = (
        "background", "bypass", "done", "loaded", "near", "only_cache", "operation", "plan", "relay_lost", "unread",
    )  # fmt: skip

    def __init__(
        self,
        plan: Plan[Any],
        done: DoneCallback,
        only_cache: bool = False,
        bypass: bool = False,
        background: bool = False,
    ) -> None:
        self.plan = plan
        self.done = done
        self.only_cache = only_cache
        self.bypass = bypass
        """True if the plan runs as if there were no store."""
        self.relay_lost = False
        """True if that is so because no relay lives. Lookups inside its computations judge by themselves."""
        self.unread = False
        """True if that is so because one of its keys could not be read. The same applies then."""
        self.near = True
        """False once the plan has asked the store or the database. Near entries may then be older than its answer."""
        self.loaded: float | None = None
        """The time at which the database has answered. Near entries may be older until a later request is answered."""
        self.background = background
        """True if no caller waits for the plan. Without the store such a plan has nothing to do."""
        self.operation: Lookup | None = None
        """The lookup as observers are told of it, or None if there are no observers."""

    @property
    def bypasses_inside(self) -> bool:
        """True if lookups inside the plan's computations run as if there were no store."""
        return self.bypass and not (self.relay_lost or self.unread)

    @property
    def operations(self) -> Sequence[Lookup]:
        """The lookup, if observers are told of it."""
        return () if self.operation is None else (self.operation,)


def resolve_future(future: "asyncio.Future[Any]", result: Any, error: BaseException | None) -> None:
    """Sets the outcome of a lookup on the future that its caller awaits."""
    if not future.done():  # the caller may have been cancelled
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
