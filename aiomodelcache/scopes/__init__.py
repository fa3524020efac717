"""Scopes in context variables: what a computation has read, the request's cache, blocks that bypass the cache.

Must not know caches or plans. Top to bottom: ``tracking``, ``request``, ``bypass``.
"""
