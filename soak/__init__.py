"""An endurance test of freshness: ``make soak``.

Several processes read and write the same rows through a cache, on a real PostgreSQL and a real Redis. Meanwhile
servers and processes are frozen and killed, and the network misbehaves. Every operation is logged with the versions
that it saw. Afterwards a checker compares the logs with the commits of the database.

``worker`` writes the records of ``log``, and ``checker`` reads them. ``history`` knows only the changes that a trigger
in the database recorded. ``run`` puts it together.
"""
