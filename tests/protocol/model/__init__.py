"""An exhaustive check of the consistency protocol: every interleaving of small models of readers and writers.

``engine`` explores and knows no cache. ``world`` has the state that processes share: the store, the database and the
clock. ``rules`` lists the protocol's guards. ``rows``, ``indexes``, ``epochs``, ``stale``, ``near``, ``near_nodes``,
``derived``, ``savers``, ``groups`` and ``relays`` are the parts of the protocol, each in the order of the code.
``computing``, ``computations`` and ``responses`` belong to ``derived``. ``variants`` has the shapes that must be sound,
and broken variants that lack one guard. The engine must find a violation in each broken variant.

``python -m tests.protocol.model`` prints the results, and can explore shapes that are too large for ``make test``.
"""
