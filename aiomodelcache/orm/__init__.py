"""Everything that knows Tortoise: models, fields, relations, connections, statements.

``meta`` is the only user of ``_meta``. Must not know entries or stores.
Top to bottom: ``samples``, ``catalogue``, ``observed``, ``query_filters``, ``sql_tables``, ``statements``,
``remembered``, ``hydrate``, ``select``, ``keyset``, ``contextual``, ``stored_values``, ``unchanged_rows``,
``schema``, ``snapshots``, ``transactions``, ``tables``, ``connections``, ``relations``, ``outcomes``, ``changes``,
``frozen``, ``query_state``, ``query_copies``, ``meta``, ``key_values``, ``fields``.
"""
