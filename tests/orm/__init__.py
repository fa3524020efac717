"""Tests of the layer that knows Tortoise: fields, rows, replicas."""
