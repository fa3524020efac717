"""The drivers of plans and intents, and the owner of the background tasks.

Decides when requests are sent and what happens if that fails. Must not know what a lookup or a write means.

Top to bottom: ``publishing`` (counters), ``shape_sharing`` (columns of releases), ``derivation`` (tracked
computations), ``reader`` (all plans), ``direct`` (plans inside transactions), ``writer`` (all intents), ``statements``
(of misses), ``overload``, ``admission`` and ``load_limit`` (how many of them at once), ``computations``, ``leases``,
``lease_extensions``, ``witness`` (callers' contexts), ``hits`` (the path of a hit), ``background``, ``sampling`` (for
``verify``), ``batch_read``, ``batching``, ``soft_timeout``, ``observing`` (lookups as observers see
them), ``loader`` (SQL), ``in_context`` (contexts of callers), ``run``, ``undelivered`` (intents that were not sent),
``intent``, ``saves`` (``write_through``), ``relayed`` (how long relays live), ``own_loop``, ``tasks``, ``begun``
(requests under way).
"""
