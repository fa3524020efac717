"""``pytest --observe``: every cache has an observer, which checks what it is told.

An observed lookup takes the way of any lookup by a stand-in for its query. So every test of a lookup is also one of the
stand-in, if it runs observed.
"""

from collections.abc import Generator, Sequence
from typing import Any

import pytest

from aiomodelcache.backends.breaker import GuardedBackend
from aiomodelcache.observe import Lookup, Observer, Operation

OWN_OBSERVERS = "tests/observe/"
"""The tests whose caches have observers of their own, or none."""
MARK = "unobserved(because=...): `--observe` gives its caches no observer"


class Checker(Observer):
    """Notes operations that end twice, without a beginning, or without an outcome."""

    def __init__(self) -> None:
        self.open: set[Operation] = set()
        self.wrong: list[str] = []

    def begin(self, operation: Operation) -> None:
        if operation in self.open or operation.duration is not None:
            self.wrong.append(f"begins twice: {operation}")
        self.open.add(operation)

    def end(self, operation: Operation) -> None:
        if operation not in self.open or operation.duration is None:
            self.wrong.append(f"ends without a beginning: {operation}")
        self.open.discard(operation)
        if isinstance(operation, Lookup):
            failed = operation.error is not None
            if operation.outcome is None or (operation.outcome in ("error", "cancelled") and not failed):
                self.wrong.append(f"has no outcome: {operation}")
            if not (operation.cache or failed):
                self.wrong.append(f"has no name: {operation}")


class Observed:
    """A plugin that gives every cache a ``Checker``."""

    def __init__(self) -> None:
        self._checker = Checker()
        self._active = True

    def pytest_sessionstart(self) -> None:
        """Lets every cache have the observer, beside those that it is opened with."""
        made = GuardedBackend.__init__

        def make(guarded: GuardedBackend, *args: Any, observers: Sequence[Observer] = (), **settings: Any) -> None:
            more = [self._checker] if self._active else []
            made(guarded, *args, observers=[*observers, *more], **settings)

        GuardedBackend.__init__ = make  # type: ignore[method-assign]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Leaves out the tests of observers."""
        self._active = not (item.nodeid.startswith(OWN_OBSERVERS) or item.get_closest_marker("unobserved"))
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Generator[None, object, object]:
        """Fails a test in which the observer was told anything wrong."""
        result = yield
        wrong, self._checker.wrong = self._checker.wrong, []
        assert not wrong, "\n".join(wrong)
        return result
