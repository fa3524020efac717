"""The store in Redis: a single server, behind Sentinel, or a Cluster.

Top to bottom: ``backend``, ``parts`` (reads on two connections), ``leasing`` (what readers fill), ``saving`` (rows that
writers store), ``claims``, ``commands``, ``clients``, ``cluster``, ``scripts`` (with ``lua/``), ``replicas``
(``WAIT``), ``connection``, ``url``, ``incarnation``, ``errors``.
"""
