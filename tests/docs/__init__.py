"""Tests of the documentation, the README, the examples and docstrings."""
