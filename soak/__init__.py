"""The proof of freshness by endurance: ``make soak``.

Several processes read and write the same rows through a cache, on a real PostgreSQL and a real Redis, while
servers and processes are frozen, killed and lied to. Every operation is logged with what it saw, and
afterwards a checker compares the logs with what the database committed.

What is said in ``log`` is written by ``worker`` and read by ``checker``; what ``history`` knows comes from a
trigger in the database and from nobody else. ``run`` puts it together.
"""
