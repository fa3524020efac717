"""Integrations with other libraries. The rest of the library does not import them."""
