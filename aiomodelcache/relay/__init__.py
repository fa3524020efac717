"""Writes of other programs: captured by triggers or logical decoding, seen by a relay within ``relay_lag``.

Nothing that ``import aiomodelcache`` imports imports this package. Must not know how lookups proceed. Top to bottom:
``health`` (over HTTP), ``relay`` (the loop and its steps), ``election`` (of several relays), ``ownership`` (of
several caches), ``invalidation``, ``watch`` (which relays live, as readers know), ``liveness`` (the keys of claims),
``source`` (what a relay drains), ``stream`` (a package: logical decoding of PostgreSQL),
``postgres_lines``, ``mysql_lines``, ``sqlite_lines`` (the change table of each database), ``lines``, ``triggers`` (a
package: what fills the change table), ``captured`` (which tables and columns).
"""

from aiomodelcache.relay.relay import Relay

__all__ = ["Relay"]
