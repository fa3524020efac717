"""One module for each kind of entry: its keys, its bytes, and their meaning.

Must not know how lookups proceed. Sends no requests.
Top to bottom: ``key_values`` (back from keys), ``queries``, ``by_value``, ``derived``, ``copies`` (last good values),
``instances``, ``cascades``, ``versions`` (of tables), ``tables``, ``model`` (all entries of one model), ``groups``,
``many_to_many``, ``indexes``, ``results``, ``predictions``, ``partitioned`` (rows of several nodes), ``rows``,
``shapes`` (of other releases), ``raised`` (exceptions), ``base``, ``decoded`` (kept in this process), ``resilience``,
``policy`` (lifetimes, invalidation).
"""
