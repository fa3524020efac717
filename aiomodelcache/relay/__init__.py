"""Writes of other programs: captured by triggers, seen by a relay within ``relay_lag``.

Nothing that ``import aiomodelcache`` imports imports this package. Must not know how lookups proceed. Top to bottom:
``watch`` (which relays live, as readers know), ``liveness`` (the keys of claims), ``source`` (what a relay drains),
``postgres_lines``, ``mysql_lines``, ``sqlite_lines`` (the change table of each database), ``lines``, ``triggers`` (a
package: what fills the change table), ``captured`` (which tables and columns).
"""
