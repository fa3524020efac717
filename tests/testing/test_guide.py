"""The code of docs/testing.md forms projects whose tests pass, with and without a rollback."""

import re
from pathlib import Path

import pytest

from tests.support.servers import RedisServer

pytestmark = pytest.mark.slow(because="runs pytest in projects of its own")

pytest_plugins = "pytester"

ROOT = Path(__file__).parent.parent.parent
GUIDE = (ROOT / "docs" / "testing.md").read_text("utf-8")
FILES = dict(re.findall(r"^```(?:python|ini)\n# ([^\n]*)\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL))
ROLLED_BACK = "conftest.py, rolled back"
REDIS = "redis://localhost:6379/0"


def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, *names: str, url: str) -> pytest.RunResult:
    """Runs the tests of a project that consists of the guide's files ``names``."""
    assert f" = {REDIS}\n" in FILES["pytest.ini"]
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    for name in ("shops.py", "pytest.ini", *names):
        text = FILES[name].replace(REDIS, url)
        (pytester.path / name.partition(",")[0]).write_text(text, "utf-8")
    plugins = ("-p", "pytest_aiomodelcache", "-p", "pytest_asyncio.plugin", "-p", "no:cacheprovider")
    return pytester.runpytest_subprocess(*plugins, "-W", "error", "-rA", "--tb=short")


def test_every_code_block_of_the_guide_is_a_file() -> None:
    assert GUIDE.count("\n```") == 2 * len(FILES)
    assert len(FILES) == 10


def test_the_tests_of_the_guide_pass_with_a_database_for_each_test(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, redis_server: RedisServer
) -> None:
    tests = ["test_shops.py", "test_counts.py", "test_transactions.py", "test_unittest.py"]
    project(pytester, monkeypatch, "conftest.py", *tests, url=redis_server.patient_url).assert_outcomes(passed=7)


def test_the_tests_of_the_guide_pass_in_transactions_that_are_rolled_back(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    tests = ["test_shops.py", "test_counts.py", "test_transactions.py", "test_application.py"]
    project(pytester, monkeypatch, ROLLED_BACK, *tests, url="memory://").assert_outcomes(passed=7)


def test_the_backend_of_the_guide_passes_the_conformance_suite(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = project(pytester, monkeypatch, "test_backend.py", url="memory://").parseoutcomes()
    assert outcomes.keys() == {"passed"}
