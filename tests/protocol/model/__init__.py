"""An exhaustive check of the consistency protocol: every interleaving of small models of readers and writers.

``engine`` explores and knows no cache. ``world`` is what processes share: the store, the database, the clock.
``rules`` lists the protocol's guards. ``rows``, ``indexes``, ``epochs``, ``stale`` and ``near`` are its parts, written
as the code proceeds. ``variants`` has the shapes that must be sound, and the protocol with one guard removed each,
which must not be: the checker has to find how that goes wrong.

``python -m tests.protocol.model`` prints what it finds, and takes larger shapes than ``make test`` has time for.
"""
