"""Tests of ``aiomodelcache.testing`` and of the pytest plugin."""
