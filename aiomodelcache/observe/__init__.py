"""Observation of the cache: counters and the logger."""
