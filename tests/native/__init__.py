"""Tests of the extension in ``native/``, against the Python that does without it."""
