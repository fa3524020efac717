"""Benchmarks of lookups and writes, against raw redis-py, the bare ORM and other caches.

``make bench`` runs them; ``python -m benchmarks --help`` lists the options. Not part of the package.
"""
