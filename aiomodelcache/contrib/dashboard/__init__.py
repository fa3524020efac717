"""``Dashboard``: a page for operators, as an ASGI application to mount. Has no build step and needs no framework.

Shows the cache and its fleet, and what ``inspection`` finds in the store. Must not know how lookups proceed.

Top to bottom: ``application`` (the paths), ``stream`` (server-sent events), ``feed`` (measurements for all who watch),
``observed`` (lookups of this process), ``lookups`` (what operators type in), ``access`` (who may see it, and from
where), ``http`` (requests and responses).
"""

from aiomodelcache.contrib.dashboard.application import Dashboard

__all__ = ["Dashboard"]
