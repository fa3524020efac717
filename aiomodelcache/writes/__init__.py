"""Capturing writes: which keys a write touches, and announcing them before and after its COMMIT."""
