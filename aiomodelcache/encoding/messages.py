"""Texts of values and errors in messages, of limited length."""

from typing import Final

MAX_TEXT: Final = 120
"""Maximum number of characters of one value in a message. The middle of a longer text is left out."""


def abbreviated(value: object) -> str:
    """Returns the ``repr`` of a value for a message, without its middle if it is long."""
    try:
        return shortened(repr(value))
    except Exception:  # an integer of too many digits, or a user's own __repr__
        return f"<{type(value).__qualname__}>"


def shortened(text: object) -> str:
    """Returns a text, such as another error's, without its middle if it is long."""
    full = str(text)
    if len(full) <= MAX_TEXT:
        return full
    return f"{full[: MAX_TEXT * 2 // 3]}...{full[-MAX_TEXT // 3 :]}"


def cause(error: Exception) -> Exception | None:
    """Returns the error to chain a shorter one to. Returns None if a traceback would show a long text in full."""
    return error if len(str(error)) <= MAX_TEXT else None
