"""Writes of other programs: captured by triggers, seen by a relay within ``relay_lag``.

Nothing that ``import aiomodelcache`` imports imports this package. Must not know how lookups proceed. Holds
``captured`` (which tables and columns).
"""
