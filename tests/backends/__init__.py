"""The tests of our backends; what every backend must do is in ``aiomodelcache.testing.conformance``."""

import pytest

pytest.register_assert_rewrite("aiomodelcache.testing.conformance")
