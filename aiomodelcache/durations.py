"""Durations: what users write for one, its seconds, and names for common ones."""

import datetime
import math
import re
from typing import Any, Final, cast

from aiomodelcache.exceptions import CacheConfigurationError, shown

CACHE_TIME_S: Final = 1
CACHE_TIME_5S: Final = 5
CACHE_TIME_15S: Final = 15
CACHE_TIME_30S: Final = 30
CACHE_TIME_M: Final = 60
CACHE_TIME_5M: Final = 5 * CACHE_TIME_M
CACHE_TIME_10M: Final = 10 * CACHE_TIME_M
CACHE_TIME_15M: Final = 15 * CACHE_TIME_M
CACHE_TIME_30M: Final = 30 * CACHE_TIME_M
CACHE_TIME_H: Final = 60 * CACHE_TIME_M
CACHE_TIME_3H: Final = 3 * CACHE_TIME_H
CACHE_TIME_6H: Final = 6 * CACHE_TIME_H
CACHE_TIME_12H: Final = 12 * CACHE_TIME_H
CACHE_TIME_DAY: Final = 24 * CACHE_TIME_H
CACHE_TIME_WEEK: Final = 7 * CACHE_TIME_DAY
CACHE_TIME_MONTH: Final = 30 * CACHE_TIME_DAY
CACHE_TIME_YEAR: Final = 365 * CACHE_TIME_DAY

Duration = float | datetime.timedelta | str
"""A duration as users write it: seconds, a ``timedelta``, or a number and a unit like ``"30s"``."""

MIN_DURATION: Final = 0.001
"""Minimum of every duration, in seconds. Below it, the setting or declaration is refused."""
MAX_DURATION: Final = 100 * CACHE_TIME_YEAR
"""Maximum of every duration, in seconds. Beyond it, the setting or declaration is refused."""

_REMEDY: Final = "write seconds, a timedelta, or text like 30s, 5m, 2h, 1d"
_TEXT: Final = r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)"
_UNITS: Final = {"ms": 0.001, "s": 1, "m": CACHE_TIME_M, "h": CACHE_TIME_H, "d": CACHE_TIME_DAY}


def parse_duration(name: str, value: object) -> float:
    """Returns the seconds of a duration. ``name`` is its class and attribute, for errors.

    Raises ``CacheConfigurationError`` for a value that is no duration or is out of range.
    """
    return _parse(name, value, zero=False)


def parse_duration_or_zero(name: str, value: object) -> float:
    """Returns the seconds of a duration that may be zero. Raises ``CacheConfigurationError`` otherwise."""
    return _parse(name, value, zero=True)


def parse_optional_duration(name: str, value: object) -> float | None:
    """Returns the seconds of a duration, or None for None. Raises ``CacheConfigurationError`` otherwise."""
    return None if value is None else _parse(name, value, zero=False)


def _parse(name: str, value: object, *, zero: bool) -> float:
    seconds = _seconds(value)
    if seconds is None:
        requirement = _REMEDY
    elif seconds < 0 or (seconds == 0 and not zero):
        requirement = f"it must be {'zero or above' if zero else 'above zero'}"
    elif 0 < seconds < MIN_DURATION:
        requirement = "it must be at least a millisecond, 0.001"
    elif seconds > MAX_DURATION:
        requirement = "it must be at most a hundred years"
    else:
        return float(seconds)
    raise CacheConfigurationError(f"{name} is {shown(value)}: {requirement}.")


def _seconds(value: Any) -> float | None:
    """Returns the seconds that a value stands for, unless it is no duration.

    Calls no method that a user's subclass may override.
    """
    kind = cast("type[object]", type(value))  # isinstance() believes a mock
    if issubclass(kind, bool):
        return None
    if issubclass(kind, int):
        return int.__index__(value)
    if issubclass(kind, float):
        number = float.__float__(value)
        return None if math.isnan(number) else number
    if issubclass(kind, datetime.timedelta):
        return datetime.timedelta.total_seconds(value)
    match = re.fullmatch(_TEXT, value) if issubclass(kind, str) else None
    return float(match[1]) * _UNITS[match[2]] if match else None
