"""Settings for computations that fail: checked, and applied to the computations of cached values."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiomodelcache.durations import parse_duration, parse_optional_duration
from aiomodelcache.entries.raised import Raised
from aiomodelcache.entries.resilience import Resilience
from aiomodelcache.exceptions import CacheConfigurationError, shown


def resilience_of(
    origin: str, *, stale_if_error: Any, soft_timeout: Any, sliding: Any, timeout: Any = None, cache_errors: Any = None
) -> Resilience:
    """Returns the settings of a declaration. ``origin`` names it in errors.

    Raises ``CacheConfigurationError`` for a setting that is out of range or has no effect.
    """
    stale = parse_optional_duration(f"{origin}: stale_if_error", stale_if_error)
    soft = parse_optional_duration(f"{origin}: soft_timeout", soft_timeout)
    if soft is not None and stale is None:
        raise CacheConfigurationError(
            f"{origin}: soft_timeout returns the last good value, which is kept only with stale_if_error: set it, too."
        )
    if not isinstance(sliding, bool):
        raise CacheConfigurationError(f"{origin}: sliding is {shown(sliding)}: use True or False.")
    if sliding and callable(timeout):
        raise CacheConfigurationError(
            f"{origin}: sliding extends a life of a known length, so it does not go with a timeout that is a function: "
            "remove one of them."
        )
    kinds: Any = {} if cache_errors is None else cache_errors
    if not issubclass(type(kinds), Mapping):
        raise CacheConfigurationError(
            f'{origin}: cache_errors is {shown(kinds)}: it must be a dict like {{DoesNotExist: "30s"}}.'
        )
    declared: Mapping[Any, Any] = kinds
    errors: dict[type[Exception], float] = {}
    for kind, lifetime in declared.items():
        if not issubclass(kind if isinstance(kind, type) else object, Exception):
            raise CacheConfigurationError(
                f"{origin}: cache_errors has {shown(kind)}: its keys must be types of exceptions."
            )
        errors[kind] = parse_duration(f"{origin}: cache_errors[{kind.__qualname__}]", lifetime)
    return Resilience(stale or 0.0, soft, sliding, timeout if callable(timeout) else None, errors)


async def returning_errors(
    errors: Mapping[type[Exception], float], function: Callable[..., Awaitable[Any]], *args: Any
) -> Any:
    """Calls a function. Returns an exception of exactly one of these types as ``Raised``, and raises every other."""
    try:
        return await function(*args)
    except Exception as error:
        if type(error) in errors:
            return Raised(error)
        raise
