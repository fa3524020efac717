"""The tests of ``aiomodelcache.testing``."""
