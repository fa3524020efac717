"""Tests of the project itself: its structure, declarations, commands and tools."""
