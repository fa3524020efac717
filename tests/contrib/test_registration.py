"""Settings and optional libraries, which all ``register_model_cache`` functions treat alike."""

import subprocess
import sys
from typing import Any

import pytest

from aiomodelcache import CacheConfigurationError, ModelCache
from aiomodelcache.contrib.dashboard import Dashboard
from aiomodelcache.contrib.prometheus import ModelCacheCollector
from aiomodelcache.contrib.registration import make_cache, required
from aiomodelcache.relay import Relay


def test_a_missing_library_is_an_error_that_names_the_extra() -> None:
    with pytest.raises(ImportError, match=r"^aiomodelcache.contrib.litestar needs no_such_library: .*\[litestar\]'\.$"):
        required("no_such_library.exceptions", "litestar")


def test_a_setting_of_the_caller_replaces_that_of_the_framework() -> None:
    assert make_cache("memory://", "shop", LookupError, {}).config.not_found is LookupError
    assert make_cache("memory://", "shop", LookupError, {"not_found": KeyError}).config.not_found is KeyError


@pytest.mark.parametrize("part", [Dashboard, ModelCacheCollector, Relay])
@pytest.mark.parametrize("value", [5, None, "memory://", ModelCache])
def test_a_part_that_takes_a_cache_refuses_other_values(part: Any, value: Any) -> None:
    name = type(value).__name__
    described = "None" if value is None else f"<{name}>"
    with pytest.raises(CacheConfigurationError, match=f"^{part.__name__}: cache is {described}: .* ModelCache"):
        part(value)


@pytest.mark.slow(because="runs a program")
def test_importing_the_library_and_its_integrations_imports_nothing_that_few_programs_need() -> None:
    """Not even redis-py, which takes longer to import than this library, and which a store in memory does without."""
    program = """
import importlib, pkgutil, sys
import aiomodelcache.contrib
for module in pkgutil.iter_modules(aiomodelcache.contrib.__path__, "aiomodelcache.contrib."):
    if module.name != "aiomodelcache.contrib.dashboard":  # looks into the store, by redis-py
        importlib.import_module(module.name)
optional = {
    "aiohttp", "aiomodelcache.query.explain", "aiomodelcache.verifier", "aiosqlite", "blacksheep",
    "click", "fastapi", "litestar", "opentelemetry", "prometheus_client", "quart", "redis", "rich", "sanic",
    "sentry_sdk", "starlette",
}
print(*sorted(optional & sys.modules.keys()))
assert aiomodelcache.RedisBackend.__name__ == "RedisBackend" and "redis" in sys.modules
assert aiomodelcache.Explanation.__name__ == "Explanation"
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout.strip()) == (0, ""), ran.stderr
