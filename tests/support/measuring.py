"""The tests whose coverage is measured, which doubles their time: each once, and no exhaustive one.

A test that runs on several databases or stores is measured on the first pair of them. A test of one database is
measured there. So a report of the coverage names too few lines rather than too many.
"""

import dataclasses
from collections.abc import Iterable
from typing import Self

import pytest
from coverage import Coverage

from tests.support.groups import is_exhaustive
from tests.support.matrix import NAMES


def measured_ones(items: Iterable[pytest.Item]) -> set[str]:
    """Returns the identifiers of the tests whose coverage is measured."""
    first_pairs: dict[str, list[object]] = {}
    measured: set[str] = set()
    for item in items:
        test, parameters = item.nodeid.partition("[")[0], getattr(getattr(item, "callspec", None), "params", {})
        pair = [parameters.get(fixture) for fixture in NAMES]
        if not is_exhaustive(item) and first_pairs.setdefault(test, pair) == pair:
            measured.add(item.nodeid)
    return measured


@dataclasses.dataclass(eq=False)
class Measuring:
    """A plugin of pytest that pauses the measurement of coverage for the other tests."""

    measured: set[str] = dataclasses.field(default_factory=set)
    paused: Coverage | None = None

    @classmethod
    def register(cls, config: pytest.Config) -> Self:
        measuring = cls()
        config.pluginmanager.register(measuring, "measuring")
        return measuring

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.measured = measured_ones(session.items)

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        if item.nodeid in self.measured:
            if self.paused is not None:
                self.paused.start()
                self.paused = None
        elif self.paused is None:
            self.paused = Coverage.current()
            if self.paused is not None:
                self.paused.stop()
