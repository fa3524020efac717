"""The pytest plugin: a cache for each test. See ``docs/testing.md``.

pytest loads the plugin in every run of every project that has aiomodelcache installed, before coverage is measured.
So it is a module of its own, and its fixtures import the package only when a test requests them.
"""

import sys
import warnings
from collections.abc import AsyncGenerator, Callable, Generator
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from aiomodelcache import ModelCache
    from aiomodelcache.config import Settings
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
def model_cache_settings() -> "Settings":
    """The settings of ``model_cache``, those of ``CacheConfig``. Override it to return some, durations in seconds."""
    return {}


@pytest.fixture
def model_cache_database() -> None:
    """A fixture that runs before ``model_cache``. Override it to depend on the fixture that opens Tortoise."""


@pytest.fixture
def model_cache(model_cache_database: object, request: pytest.FixtureRequest) -> "ModelCache":
    """An open, empty ``ModelCache`` for this test alone. It is the cache that ``Event.cache`` uses."""
    asyncio = request.config.pluginmanager.hasplugin(_ASYNCIO) and "anyio_backend" not in request.fixturenames
    cache: ModelCache = request.getfixturevalue(_ASYNCIO if asyncio else "_model_cache")
    return cache


@pytest.fixture
def cache_ops(model_cache: "ModelCache") -> "Generator[Ops, None, None]":
    """Counts of the operations that the test has sent so far, to the store of ``model_cache`` and to the database."""
    from aiomodelcache.testing import count_ops

    with count_ops(model_cache) as ops:
        yield ops


def _opening() -> "Callable[[str, Settings], AsyncGenerator[ModelCache, None]]":
    async def opened(model_cache_url: str, model_cache_settings: "Settings") -> "AsyncGenerator[ModelCache, None]":
        from aiomodelcache.testing import isolated_cache

        async with isolated_cache(model_cache_url, **model_cache_settings) as cache:
            yield cache

    return opened


_model_cache = pytest.fixture(_opening())
"""The fixture for all plugins that run async tests, except pytest-asyncio."""
_ASYNCIO: Final = "_model_cache_asyncio"
"""The fixture for pytest-asyncio. Its strict mode takes only fixtures of its own, and AnyIO's plugin refuses them."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, bool | None, bool | None]:
    """Ignores ``CacheNotOpenWarning``, because tests write rows before they open a cache, unless a filter names it."""
    named: list[str] = [*item.config.getini("filterwarnings"), *(item.config.getoption("pythonwarnings") or [])]
    named += [line for mark in item.iter_markers("filterwarnings") for line in mark.args]
    if any("CacheNotOpenWarning" in line for line in named):
        return (yield)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"\w+ is written while no ModelCache is open", UserWarning)
        return (yield)


def pytest_configure(config: pytest.Config) -> None:
    """Registers the fixture for pytest-asyncio, if that plugin is loaded. Before, the plugins are not known."""
    if "pytest_asyncio" in sys.modules:
        import pytest_asyncio

        make: Any = pytest_asyncio.fixture
        fixtures = ModuleType(_ASYNCIO)
        setattr(fixtures, _ASYNCIO, make(_opening()))
        config.pluginmanager.register(fixtures, _ASYNCIO)
