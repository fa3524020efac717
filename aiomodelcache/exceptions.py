"""The errors that aiomodelcache raises.

::

    CacheError
    ├── CacheConfigurationError     a declaration or a setting is wrong; raised when the cache opens
    ├── CacheNotRegistered          a lookup by fields that have no cache (also a ValueError)
    ├── CacheNotOpen                no cache is open, or this one is closed (also a RuntimeError)
    │   └── CacheNotOpenWarning     a write to a cached model while no cache is open (a UserWarning)
    ├── BackendError                the cache server did not answer, or answered with an error
    ├── CacheWriteError             a write was refused because its rows could not be marked in the cache
    ├── StaleInstanceError          a full save() of an instance that a stale copy answered
    ├── ReadOnlyInstanceError       a change of an instance that was looked up as read-only
    ├── DatabaseOverloaded          a lookup that missed has waited too long for the database to have room
    ├── TenantError                 a lookup that depends on its context in a way that the cache does not know
    └── RelayError                  writes of other programs cannot be captured as declared

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


class CacheNotOpenWarning(CacheNotOpen, UserWarning):
    """A write to a cached model while no cache is open, so that readers in other processes are not told of it.

    A warning, once for each model and process. ``warnings.filterwarnings("error", category=CacheNotOpenWarning)`` makes
    it an error, which refuses each such write. ``writes_without_cache`` is for programs that mean it.
    """


class BackendError(CacheError):
    """A failed request: the cache server could not be reached, did not answer in time, or refused a command."""


class CacheWriteError(CacheError):
    """A refused write: its rows could not be marked in the cache, so it was rolled back.

    Raised only with ``on_write_error="raise"``.
    """


class StaleInstanceError(CacheError):
    """A refused ``save()`` of all columns of an instance of a stale copy (``allowtime``, ``stale_if_error``).

    It could overwrite newer values. Save only some columns, or refresh the instance.
    """


class ReadOnlyInstanceError(CacheError):
    """A refused change, save or delete of an instance that was looked up with ``options(read_only=True)``."""


class DatabaseOverloaded(CacheError):
    """A lookup that missed and has waited ``load_wait`` seconds, because too many statements were in flight.

    Raised only with ``on_overload="raise"``, the default. What the cache holds is still answered.
    """


class TenantError(CacheError):
    """A refused lookup, because cached rows could be those of another tenant.

    It has no tenant, or its rows depend on a context that ``ModelCache(tenant=...)`` does not tell apart.
    """


class RelayError(CacheError):
    """Writes of other programs cannot be captured: triggers are missing or out of date, or the database is a replica.

    The message names the remedy. Meanwhile, readers do not believe entries of models with ``relay = True``.
    """


class NotFoundError(DoesNotExist):
    """A missing row, for the response to a web client: raised by ``get_or_404``.

    A Tortoise ``DoesNotExist`` with the ``status_code`` that web frameworks look for.
    """

    status_code: ClassVar[int] = 404


MAX_SHOWN_CHARACTERS: Final = 120
"""Maximum number of characters of a setting in a message. The end of a longer text is left out."""


def shown(value: object) -> str:
    """Returns the ``repr`` of a setting for a message, without the end of a long one."""
    try:
        return repr(value)[:MAX_SHOWN_CHARACTERS]
    except Exception:  # an integer of too many digits, or a user's own __repr__
        return f"<{type(value).__qualname__}>"
