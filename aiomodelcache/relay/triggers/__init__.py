"""Triggers that write a line into the change table for each write of a captured table, in the writer's transaction.

Generated from the declarations and the database's catalogue. Must not know stores. Top to bottom: ``installation``
(install, status and remove), ``postgres``, ``mysql``, ``cascades`` (rows that MySQL changes without a trigger),
``sqlite``, ``definitions`` (names and parts that all databases share).
"""
