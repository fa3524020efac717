"""The queries that users await: lazy lookups, batches, relations.

Must not know when requests are sent, nor the meaning of bytes. Top to bottom: ``prefetch``, ``foreign_keys``,
``many_to_many``, ``querysets``, ``verification``, ``explain``, ``dependencies``, ``bulk``, ``lookups``, ``computed``,
``lists``, ``parts``, ``cursors``, ``batch``, ``snapshots``, ``attributes``, ``base``,
``recording``.
"""
