"""One module for each kind of entry: its keys, its bytes, and what they say.

Must not know how lookups proceed, nor ask a server.
Top to bottom: ``cascades``, ``model`` (all entries of one model), ``many_to_many``, ``indexes``, ``results``,
``predictions``, ``rows``, ``base``, ``policy`` (lifetimes and invalidation).
"""
