"""Declarations that users write: models, managers, cache classes, cached values.

Records declarations; ``binding`` resolves them. Must not know when requests are sent.
Top to bottom: ``related``, ``targets`` (of blocks), ``cached``, ``model`` (``CachedModel``), ``captured`` (its writes),
``queryset_types``, ``values``, ``value_declarations``, ``manager`` (``Event.cache``), ``classes``, ``bulk_results``,
``annotations``, ``resilience``, ``options``, ``registry``.
"""
