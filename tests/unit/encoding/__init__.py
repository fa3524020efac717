"""Tests of the encoding: keys, entries, rows and values."""
