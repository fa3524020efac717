"""Whole responses as derived entries, by the rules of RFC 9110 and RFC 9111. ``contrib.http`` has the public names.

Top to bottom: ``endpoints``, ``service``, ``lookups``, ``runs``, ``stored``, ``conditions``, ``requests``, ``plain``,
``fields``.
"""
