"""The errors that aiomodelcache raises.

::

    CacheError
    ├── CacheConfigurationError     a declaration or a setting is wrong; raised when the cache opens
    ├── CacheNotRegistered          a lookup by fields that have no cache (also a ValueError)
    ├── CacheNotOpen                no cache is open, or this one is closed (also a RuntimeError)
    ├── BackendError                the cache server did not answer, or answered with an error
    ├── CacheWriteError             a write was refused because its rows could not be marked in the cache
    └── StaleInstanceError          a full save() of an instance that a stale copy answered

A lookup that matches no row, or too many rows, raises Tortoise's own ``DoesNotExist`` or ``MultipleObjectsReturned``.
``get_or_404`` raises ``NotFoundError``, a ``DoesNotExist`` for web frameworks.

A failure of the cache never raises an exception on a read: ``BackendError`` reaches user code only from ``clear()``,
and from ``ModelCache.open`` with ``require_backend=True``. Invalidations that ``invalidate()`` cannot send are kept and
sent later.
"""

from typing import ClassVar, Final

from tortoise.exceptions import DoesNotExist


class CacheError(Exception):
    """The base class of all errors of aiomodelcache."""


class CacheConfigurationError(CacheError):
    """A wrong declaration or setting. The message names the class, the attribute and the remedy."""


class CacheNotRegistered(CacheError, ValueError):
    """A lookup by fields that the model has no cache on. The message lists the keys that exist."""


class CacheNotOpen(CacheError, RuntimeError):
    """A lookup without an open cache: open a ``ModelCache`` first."""


class BackendError(CacheError):
    """A failed request: the cache server could not be reached, did not answer in time, or refused a command."""


class CacheWriteError(CacheError):
    """A refused write: its rows could not be marked in the cache, so it was rolled back.

    Raised only with ``on_write_error="raise"``.
    """


class StaleInstanceError(CacheError):
    """A refused ``save()`` of all columns of an instance that a stale copy answered (``allowtime``).

    It could overwrite newer values. Save only some columns, or refresh the instance.
    """


class NotFoundError(DoesNotExist):
    """A missing row, for the response to a web client: raised by ``get_or_404``.

    A Tortoise ``DoesNotExist`` with the ``status_code`` that web frameworks look for.
    """

    status_code: ClassVar[int] = 404


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
