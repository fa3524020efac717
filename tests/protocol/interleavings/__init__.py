"""Deterministic schedules of the real code: readers and writers run in every relevant order of their operations.

``schedule`` runs one operation at a time. ``database`` and ``store`` receive the operations of the code under test.
``questions`` has the lookups and their allowed answers. ``stage`` plays a scenario and checks invariants during and
after it. ``scenarios`` combines actors from ``roles``. ``linked`` is about many-to-many lists and paths of relations,
``values`` about computed results and values, ``through`` about rows that writers store, ``times`` about replicas and
entries near their end, ``relayed`` about writes by other programs.
``guards`` removes one guard of the library at a time, and some schedule must then fail.

``python -m tests.protocol.interleavings`` replays a scenario, from a seed or from the choices that a failure has
printed, or plays all scenarios in random orders for a given time.
"""
