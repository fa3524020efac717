"""Tests of costs: round trips, statements and transactions of each lookup and write."""
