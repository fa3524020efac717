"""The conformance suite, run as the author of a backend runs it: a good backend passes, and bad ones fail."""

from pathlib import Path

import pytest

pytestmark = pytest.mark.slow(because="runs pytest in projects of its own")

pytest_plugins = "pytester"

ROOT = Path(__file__).parent.parent.parent

BACKENDS = '''
from aiomodelcache import MemoryBackend
from aiomodelcache.backends.protocol import Leased
from aiomodelcache.testing.conformance import BackendConformance


class Suite(BackendConformance):
    kind = MemoryBackend
    many = 50
    seconds = 0.0

    async def make_backend(self):
        if not hasattr(self, "shared"):
            self.shared = self.kind(clock=lambda: self.seconds)
        await self.shared.open()
        return self.shared

    async def advance(self, seconds):
        self.seconds += seconds


class TestGood(Suite):
    pass


class Generous(MemoryBackend):
    """A backend that grants every lease."""

    async def lease(self, leases, token, ttl_ms, versions=()):
        leased = await super().lease(leases, token, ttl_ms, versions)
        return Leased([b"L" + token for _ in leases], leased.versions)


class TestGenerous(Suite):
    kind = Generous


class Careless(MemoryBackend):
    """A backend that ends the intents of all writers when one of them clears."""

    async def clear(self, clears, token, stamps=()):
        found = await super().clear(clears, token, stamps)
        await self.delete([clear.key for clear in clears if not clear.hint])
        return found


class TestCareless(Suite):
    kind = Careless


class Reluctant(MemoryBackend):
    """A backend that ignores the stamps of ``clear``."""

    async def clear(self, clears, token, stamps=()):
        return await super().clear(clears, token)


class TestReluctant(Suite):
    kind = Reluctant


class Immortal(MemoryBackend):
    """A backend whose leases do not expire."""

    async def lease(self, leases, token, ttl_ms, versions=()):
        return await super().lease(leases, token, 10**9, versions)


class TestImmortal(Suite):
    kind = Immortal


class TestUnfinished(BackendConformance):
    pass
'''


def test_a_good_backend_passes_and_bad_ones_fail(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile(test_backends=BACKENDS)
    pytester.makeini(
        "[pytest]\nasyncio_mode = strict\nasyncio_default_fixture_loop_scope = function\nfilterwarnings = error"
    )
    result = pytester.runpytest_subprocess(
        "-p", "no:cacheprovider", "-p", "pytest_asyncio.plugin", "-q", "--tb=line", "-rfE"
    )
    bad = {line.split("::")[1] for line in result.outlines if line.startswith(("FAILED", "ERROR test_"))}
    assert bad == {"TestGenerous", "TestCareless", "TestReluctant", "TestImmortal", "TestUnfinished"}
    result.stdout.fnmatch_lines(["*TestUnfinished: override make_backend*"])
    assert result.parseoutcomes()["passed"] > 400
