"""The error that ends a command which cannot be run as it was written."""


class CommandError(Exception):
    """A wrong argument, target or setting. The message names it and the remedy, and quotes no column's value."""
