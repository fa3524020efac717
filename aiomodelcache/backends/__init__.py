"""Stores for entries: Redis, and memory.

A store knows an entry's state byte and token, not its other content. ``protocol`` defines what every store does.

Top to bottom: ``breaker`` (the circuit breaker), ``nodes`` (one for each node of a Cluster), ``signed`` (signatures
of entries), ``redis``, ``memory``, ``replication`` (marks that replicas lack), ``partitioned``
(keys divided among nodes), ``protocol``, ``near`` (entries kept in process), ``covered`` (which keys these are),
``channels`` (several servers that report their changes), ``frequency`` (how often keys are used).
"""
