"""Every error that aiomodelcache raises.

::

    CacheError
    ├── CacheConfigurationError     a declaration or a setting is wrong; raised when the cache opens
    ├── CacheNotRegistered          a lookup by fields that have no cache (also a ValueError)
    ├── CacheNotOpen                no cache is open, or this one is closed (also a RuntimeError)
    ├── BackendError                the cache server did not answer, or answered with an error
    └── CacheWriteError             a write was refused because it could not be announced to the cache

Missing rows raise Tortoise's own ``DoesNotExist`` and ``MultipleObjectsReturned``, and ``get_or_404`` a
``NotFoundError``, which is a ``DoesNotExist`` for web frameworks. A cache fault
never becomes the caller's exception on a read: ``BackendError`` reaches user code only from
``ModelCache.open`` and from ``clear()``. What ``invalidate()`` cannot deliver is kept and sent later.
"""

from typing import ClassVar

from tortoise.exceptions import DoesNotExist


class CacheError(Exception):
    """Base of all errors raised by aiomodelcache."""


class CacheConfigurationError(CacheError):
    """A declaration or a setting is wrong. The message names the class, the attribute and the remedy."""


class CacheNotRegistered(CacheError, ValueError):
    """The model has no cache on the fields asked for. The message lists the keys that exist."""


class CacheNotOpen(CacheError, RuntimeError):
    """There is no open cache to answer: open a ``ModelCache`` first."""


class BackendError(CacheError):
    """The cache server could not be reached, timed out, or refused a command."""


class CacheWriteError(CacheError):
    """The write was rolled back: its rows could not be marked in the cache.

    Raised only with ``on_write_error="raise"``.
    """


class NotFoundError(DoesNotExist):
    """There is no such row, and who asked should be told so: raised by ``get_or_404``.

    A Tortoise ``DoesNotExist`` with the ``status_code`` that web frameworks look for.
    """

    status_code: ClassVar[int] = 404
