"""Integrations with other libraries. Nothing of the library imports them."""
