"""Notices writes and collects the keys that they affect.

Owns signals, querysets, many-to-many relations, transactions and invalidation by hand. ``engine`` sends the intents.
Top to bottom: ``querysets``, ``saves``, ``many_to_many``, ``bulk_rows``, ``manual``, ``cascades``, ``update``,
``affected``, ``transactions``.
"""
