"""The tests. They start their own servers (``support/servers``) and count requests with ``aiomodelcache.testing``."""

import pytest

pytest.register_assert_rewrite("aiomodelcache.testing.conformance")
