"""Tests of the consistency protocol: a model, schedules of the real code, a state machine, and races."""
