"""Bytes: keys, the layout of entries, rows and values. Pure functions.

Must not know models, servers or clocks.
Top to bottom: ``native``, ``rows``, ``typed``, ``same``, ``shapes``, ``pydantic_models``, ``values``, ``shared``,
``codec``, ``signatures``, ``layout``, ``partitions``, ``keys``, ``together`` (keys that
are read together again and again), ``messages``.
"""
