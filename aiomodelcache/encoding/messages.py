"""Values and errors as messages show them: by their types only.

A value may be a secret, such as a token, or what an encrypted column holds. Errors and logs reach places that must not
have it, so no message of the cache quotes one.
"""

import re
from typing import Final

import msgspec

_MSGSPEC: Final = r"(Expected `[\w |.-]+`(, got `[\w |.-]+`)?|Invalid [A-Za-z0-9]+)( - at `\$(\[(\d+|\.\.\.)\])*`)?"
"""The messages of msgspec that name types and positions alone."""


class SafeError(ValueError):
    """An error whose text holds no value of a column, an argument or a key, so that it may be shown and logged."""


class SafeTypeError(SafeError, TypeError):
    """A ``SafeError`` about a type."""


def described(value: object) -> str:
    """Returns the type of a value for a message, such as ``<str>``."""
    return "None" if value is None else f"<{type(value).__qualname__}>"


def safe_reason(error: BaseException) -> str:
    """Returns the text of an error if it holds no value, else the name of its class."""
    text = str(error) if isinstance(error, SafeError | msgspec.ValidationError) else ""
    return text if isinstance(error, SafeError) or re.fullmatch(_MSGSPEC, text) else type(error).__qualname__


def safe_cause(error: BaseException) -> BaseException:
    """Returns the error to chain a message to: the error, or one without its text that has its traceback."""
    if isinstance(error, SafeError):
        return error
    return SafeError(f"{safe_reason(error)} (its text may hold values)").with_traceback(error.__traceback__)
