"""Tests of declarations: ``CacheMeta``, managers, cache classes and cached values."""
