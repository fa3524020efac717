"""Resolves declarations against the models of ``Tortoise.init``, when a cache opens.

Owns every configuration error. Does no I/O, and must not know how lookups or writes proceed.
Top to bottom: ``binder`` (all of it), ``paths`` (relations), ``factory`` (entries), ``class_options`` (cache classes).
"""
