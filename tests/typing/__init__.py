"""The types that users' type checkers infer. Only ``test_typing`` runs: it checks the rest by mypy and pyright.

A line that must be an error ends in the comment ``# wrong``. No other line may be an error.
"""
