"""Tests of faults: outages of the backend, damaged entries, and writes whose invalidation cannot be sent."""
