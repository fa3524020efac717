"""For tests of applications that use the cache, and of backends.

``aiomodelcache.testing.conformance`` is the suite that every backend passes. It needs pytest and pytest-asyncio
(``pip install "aiomodelcache[testing]"``); all else works with any test runner. Nothing of the library imports this.
"""

from aiomodelcache.testing.counting import CountingBackend, Ops, assert_ops, count_ops
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
