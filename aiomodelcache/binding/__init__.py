"""Resolution of declarations against the models of ``Tortoise.init``, when a cache opens.

Owns every configuration error that concerns models. Does no I/O, and must not know how lookups or writes proceed.
Top to bottom: ``binder`` (the whole resolution), ``paths`` (relations), ``factory`` (entries), ``class_options``
(cache classes).
"""
