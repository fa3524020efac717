"""Captures writes and collects the keys that they affect.

Owns signals, querysets, many-to-many relations, transactions and manual invalidation. Must not know how intents are
sent: ``engine`` does that.
Top to bottom: ``querysets``, ``bulk_queries``, ``methods``, ``listeners``, ``saves``, ``many_to_many``, ``bulk_rows``,
``manual``, ``cascades``, ``update``, ``unchanged``, ``unmoved``, ``through``, ``old_values``, ``sent``, ``gated``,
``executors``, ``calls``, ``affected``, ``transactions``, ``own_rows``, ``deferred``, ``invalidated``, ``unopened``,
``uninvalidated``.
"""
