"""Tests of ``aiomodelcache.contrib``."""
