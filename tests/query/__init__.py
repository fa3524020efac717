"""Tests of lookups: queries, batches, relations, request scopes and near caching."""
