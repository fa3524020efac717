"""Tests of the project itself: what it declares, and what it is made of."""
