"""Plans of lookups, without I/O: the reading half of the consistency protocol.

A plan is a generator that yields requests. Must not know servers, connections or the event loop.

Top to bottom: ``paths`` (relations), ``lists``, ``results``, ``computing``, ``last_good`` (values), ``absent``,
``indexes``, ``late_leases``, ``rows``, ``refresh``, ``tracking``, ``steps``, ``requests``.
"""
