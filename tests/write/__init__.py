"""Tests of writes: which entries they invalidate, at what cost, and what readers see around them."""
