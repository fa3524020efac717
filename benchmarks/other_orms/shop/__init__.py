"""The Django application of ``benchmarks.other_orms.cacheops``."""
