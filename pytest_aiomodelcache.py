"""The pytest plugin: a cache for each test. See ``docs/testing.md``.

It is a module of its own, and its fixtures import the package only when a test asks for them: pytest loads it in
every run of every project that has aiomodelcache installed, before coverage is measured.
"""

import sys
from collections.abc import AsyncGenerator, Callable, Generator
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from aiomodelcache import ModelCache
    from aiomodelcache.testing import Ops


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the ini option ``aiomodelcache_url``."""
    parser.addini("aiomodelcache_url", "where the fixture model_cache keeps its entries", default="memory://")


@pytest.fixture
def model_cache_url(pytestconfig: pytest.Config) -> str:
    """The URL of the store that ``model_cache`` uses: the ini option ``aiomodelcache_url``, or an override."""
    url: str = pytestconfig.getini("aiomodelcache_url")
    return url


@pytest.fixture
def model_cache_database() -> None:
    """What must be set up before ``model_cache``. Override it to depend on the fixture that opens Tortoise."""


@pytest.fixture
def model_cache(model_cache_database: object, request: pytest.FixtureRequest) -> "ModelCache":
    """An open ``ModelCache`` that is empty and this test's own. It answers ``Event.cache``."""
    asyncio = request.config.pluginmanager.hasplugin(_ASYNCIO) and "anyio_backend" not in request.fixturenames
    cache: ModelCache = request.getfixturevalue(_ASYNCIO if asyncio else "_model_cache")
    return cache


@pytest.fixture
def cache_ops(model_cache: "ModelCache") -> "Generator[Ops, None, None]":
    """What the test has sent so far, to the store of ``model_cache`` and to the database."""
    from aiomodelcache.testing import count_ops

    with count_ops(model_cache) as ops:
        yield ops


def _opening() -> "Callable[[str], AsyncGenerator[ModelCache, None]]":
    async def opened(model_cache_url: str) -> "AsyncGenerator[ModelCache, None]":
        from aiomodelcache.testing import isolated_cache

        async with isolated_cache(model_cache_url) as cache:
            yield cache

    return opened


_model_cache = pytest.fixture(_opening())
"""For every plugin that runs async tests but one."""
_ASYNCIO: Final = "_model_cache_asyncio"
"""The same for pytest-asyncio, which in its strict mode takes only fixtures that it made. AnyIO's takes only others."""


def pytest_configure(config: pytest.Config) -> None:
    """Registers that fixture. Only now is it known which plugins run."""
    if "pytest_asyncio" in sys.modules:
        import pytest_asyncio

        make: Any = pytest_asyncio.fixture
        fixtures = ModuleType(_ASYNCIO)
        setattr(fixtures, _ASYNCIO, make(_opening()))
        config.pluginmanager.register(fixtures, _ASYNCIO)
