"""An open cache and its store, as data for operators: the contents of the command line and of the dashboard.

Needs none of their packages. Shows no value of a column unless it is told to. Must not know how lookups proceed.

Top to bottom: ``hottest`` (keys), ``rates`` (of counters), ``health`` (of servers), ``replication`` (the slots of
relays), ``survey`` (all keys in the store), ``stored`` (the bytes under a key), ``audit`` (of another cache),
``foreign_caches`` (entries of other caches), ``own_store`` (the store of an open cache), ``store`` (SCAN, INFO,
CLIENT), ``diagnosis`` (the faults that these show), ``explained`` (the place that a lookup would be answered from),
``clearing``, ``targets`` (the declarations that an operator names), ``keyspace`` (the meaning of keys),
``declarations`` (cached functions by name), ``arguments`` (values, converted by fields), ``summaries`` (of workers),
``errors``.
"""
