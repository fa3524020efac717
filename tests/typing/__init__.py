"""What users' type checkers infer. Nothing here runs but ``test_typing``, which asks mypy and pyright.

A line that must be an error ends in the comment ``# wrong``; every other line must be none.
"""
