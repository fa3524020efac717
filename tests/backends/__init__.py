"""Tests of the stores. The suite that every backend must pass is ``aiomodelcache.testing.conformance``."""
