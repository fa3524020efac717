"""Caches that belong to other ORMs, each by ratio to its own ORM alone: ``python -m benchmarks.other_orms``.

Needs the dependency group ``other-orms``. A cache that is not installed is skipped.
"""
