"""The settings of results whose computation may fail, and the exceptions that count as failures."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from tortoise.exceptions import NotExistOrMultiple

from aiomodelcache.exceptions import CacheError

SLIDING_PART: Final = 0.5
"""The last part of a sliding value's life. A hit in it extends the life; one before it sends no request for that."""


class Resilience(msgspec.Struct, frozen=True):
    """The settings of a class of results for computations that fail, and for the lives of its results."""

    stale_if_error: float = 0.0
    """Seconds for which the copy of a value outlives the value's entry. 0: no copies."""
    soft_timeout: float | None = None
    """Seconds after which a caller gets the last good value, while the computation goes on."""
    sliding: bool = False
    """True if a hit in the last half of a value's life extends the life."""
    timeout_of: Callable[[Any], Any] | None = None
    """A function of a result that returns its lifetime as a duration, None for the default, or 0 for "do not store"."""
    errors: Mapping[type[Exception], float] = msgspec.field(default_factory=dict[type[Exception], float])
    """Types of exceptions that are stored like values, and for how many seconds."""


def is_failure(error: Exception) -> bool:
    """Returns True if an exception says that a computation failed, and False if it is an answer.

    Answers are Tortoise's ``DoesNotExist`` and ``MultipleObjectsReturned``, and what frameworks answer with a status
    below 500. Errors of the cache, such as that of a closed one, are not for the last good value either.
    """
    status: object = getattr(error, "status_code", None)
    return not (isinstance(error, NotExistOrMultiple | CacheError) or (isinstance(status, int) and status < 500))
