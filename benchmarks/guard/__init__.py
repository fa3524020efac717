"""A paired comparison of two versions of this library: ``make bench-guard``.

Each side runs in processes of its own, all of them beside each other, and the rounds alternate between the sides.
"""
