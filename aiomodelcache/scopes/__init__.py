"""Scopes in context variables: the request's local cache, and blocks that bypass the cache.

Must not know caches or plans.
"""
