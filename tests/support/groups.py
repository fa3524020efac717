"""Two groups of tests: the exhaustive ones run after all others.

A test that tries everything has the mark ``exhaustive``, with its reason. Its group is the last of a run, so that most
of what can be wrong is known before it begins, and each can be run alone::

    make test T="tests -m exhaustive"

A test that takes more than eight seconds has the mark ``long``, with its reason. It is begun before the others of its
group, together with those that the same worker is given. Otherwise one worker would still be busy with it at the end,
alone.
"""

import dataclasses
import itertools
from collections.abc import Iterable
from typing import Self

import pytest
from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

NAME = "exhaustive"
MARK = "exhaustive(because): tries every order or many; run after all other tests, and left out by `make quick`"
LONG = "long(because): takes more than eight seconds, so it is begun before the other tests of its group"


def has_mark(item: pytest.Item, name: str) -> bool:
    """Returns whether the test has the mark. Raises ``UsageError`` if the mark has no reason."""
    mark = item.get_closest_marker(name)
    if mark is None:
        return False
    if mark.args or mark.kwargs.keys() != {"because"} or " " not in str(mark.kwargs["because"]).strip():
        raise pytest.UsageError(f"{item.nodeid}: {name} needs a reason: because=...")
    return True


def is_exhaustive(item: pytest.Item) -> bool:
    """Returns whether the test is of the last group. Raises ``UsageError`` if its mark has no reason."""
    return has_mark(item, NAME)


def in_order(items: Iterable[pytest.Item]) -> list[pytest.Item]:
    """Returns the tests in the order in which they are begun, by their groups and their ``long`` marks."""
    grouped = sorted(items, key=is_exhaustive)
    scopes = scopes_of([item.nodeid for item in grouped])
    long = {scopes[item.nodeid] for item in grouped if has_mark(item, "long")}
    return sorted(grouped, key=lambda item: (is_exhaustive(item), scopes[item.nodeid] not in long))


@dataclasses.dataclass(slots=True)
class Group:
    """Number of tests of one group, and the time from the begin of the first to the end of the last."""

    tests: int = 0
    begin: float = float("inf")
    end: float = 0.0

    def add(self, report: pytest.TestReport) -> None:
        """Counts one of a test's three reports."""
        if report.start == 0.0:  # made for a worker that ended in this test
            return
        self.tests += report.when == "setup"
        self.begin, self.end = min(self.begin, report.start), max(self.end, report.stop)

    def __str__(self) -> str:
        return f"{self.tests} in {self.end - self.begin:.0f} s"


@dataclasses.dataclass(eq=False)
class Groups:
    """Both groups of a run, as a plugin of pytest, which counts them and says at the end how long each took."""

    others: Group = dataclasses.field(default_factory=Group)
    exhaustive: Group = dataclasses.field(default_factory=Group)

    @classmethod
    def register(cls, config: pytest.Config) -> Self:
        groups = cls()
        config.pluginmanager.register(groups, "groups of tests")
        return groups

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        (self.exhaustive if NAME in report.keywords else self.others).add(report)

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.exhaustive.tests and self.others.tests:
            terminalreporter.write_line(f"Tests: {self.others}; then exhaustive ones: {self.exhaustive}")


class InGroups(LoadFileScheduling):
    """Gives the tests of a file to one worker together. Its exhaustive ones are given apart, each function's together.

    ``pytest_collection_modifyitems`` puts exhaustive tests last. So they are those of a file that has been left before.
    """

    def _split_scope(self, nodeid: str) -> str:
        return self._scopes[nodeid]

    def schedule(self) -> None:
        if self.collection is None:
            self._scopes = scopes_of(next(iter(self.registered_collections.values())))
        super().schedule()
        for node in self.nodes:  # again: a worker that was given one test waits to be told that none follows
            self._reschedule(node)

    def remove_node(self, node: WorkerController) -> str | None:
        """Removes a worker. A test in which it has ended is not run again: it would end the next worker, too."""
        left = [(unit, test) for unit in self.assigned_work[node].values() for test, done in unit.items() if not done]
        if left:
            unit, test = left[0]
            unit[test] = True
        super().remove_node(node)
        return left[0][1] if left else None


def scopes_of(nodeids: list[str]) -> dict[str, str]:
    """Returns a name for each test, which is the same for those that one worker is given together."""
    scopes: dict[str, str] = {}
    left: set[str] = set()
    for file, tests in itertools.groupby(nodeids, lambda nodeid: nodeid.partition("::")[0]):
        scopes.update((test, test.partition("[")[0] if file in left else file) for test in tests)
        left.add(file)
    return scopes
