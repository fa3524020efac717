"""The nodes of a Redis Cluster, over connections of their own.

Top to bottom: ``endpoint``, ``tracking`` (what nodes report to near entries), ``reads``, ``requests`` (split by node,
redirected), ``topology`` (which node holds a slot), ``tasks``, ``node``, ``clock``, ``slots``.
"""
