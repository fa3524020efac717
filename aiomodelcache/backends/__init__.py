"""Stores for cache entries: the protocol, and its two implementations."""
