"""Tests of ``ModelCache``: opening, closing, event loops and cancellation."""
