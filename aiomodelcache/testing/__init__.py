"""Tools for tests of applications that use the cache, and of backends.

``aiomodelcache.testing.conformance`` is the suite that every backend passes. It needs pytest and pytest-asyncio
(``pip install "aiomodelcache[testing]"``); the other modules work with any test runner. The library itself does not
import this package.

Top to bottom: ``isolation``, ``asserting``, ``counting``, ``counting_backend``, ``claims``, ``late_fills``,
``write_through``, ``conformance``, ``transactions``.
"""

from aiomodelcache.testing.asserting import assert_ops
from aiomodelcache.testing.counting import Ops, count_ops
from aiomodelcache.testing.counting_backend import CountingBackend
from aiomodelcache.testing.isolation import isolated_cache
from aiomodelcache.testing.transactions import transaction_as_autocommit

__all__ = [
    "CountingBackend",
    "Ops",
    "assert_ops",
    "count_ops",
    "isolated_cache",
    "transaction_as_autocommit",
]
