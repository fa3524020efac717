"""Logical decoding of PostgreSQL as what a relay reads, in place of triggers: nothing runs in a writer's transaction.

Must not know stores. Top to bottom: ``lines`` (changes until they are dealt with), ``rows`` (their values),
``slot`` (what keeps them for the relay), ``publication`` (which tables' changes are sent), ``identity`` (which old
values are), ``replication`` (the connection), ``messages`` (of the plugin ``pgoutput``).
"""
