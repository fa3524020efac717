"""The values that settings may have, other than durations."""

import inspect
import sys
from typing import Any, Final, TypeGuard

from tortoise.exceptions import DoesNotExist

from aiomodelcache.exceptions import NotFoundError

MIN_SECRET: Final = 16
"""Minimum length of a secret, in bytes."""


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def secrets_of(value: object) -> list[bytes]:
    """Returns the secrets in the value of ``CacheConfig.secret``. Returns none if one of them is not valid."""
    found: list[Any] = [*value] if isinstance(value, list | tuple) else [value]
    return found if all(isinstance(secret, bytes) and len(secret) >= MIN_SECRET for secret in found) else []


_CHOICES: Final = {
    "on_write_error": ("retry", "raise"),
    "on_overload": ("raise", "proceed"),
    "on_relay_loss": ("bypass", "serve"),
    "relay_source": ("triggers", "pgoutput"),
    "untracked_reads": ("warn", "error", "ignore"),
}
_MAY_BE_ZERO: Final = ("guess_size", "decoded_memory_limit", "wait_replicas")


def unmet_requirement(name: str, kind: Any, value: Any) -> str | None:
    """Returns the requirement that a setting's value does not meet; None if it meets all."""
    if name == "not_found":
        return _not_found_error(value)
    if name == "tenant":
        callable_now = callable(value) and not inspect.iscoroutinefunction(value)
        return None if value is None or callable_now else "use a function without arguments, like a variable's get"
    if name == "observers":
        return _observers_error(value)
    if name == "load_limit" and value is None:
        return None
    if name == "secret":
        if value is None:
            return None
        example = "like secrets.token_bytes(32), or a list of such"
        return None if secrets_of(value) else f"it must be {MIN_SECRET} bytes or more, {example}"
    if name in _CHOICES:
        is_text = issubclass(type(value), str)  # isinstance() believes a mock
        *others, last = [f'"{choice}"' for choice in _CHOICES[name]]
        return None if is_text and str.__str__(value) in _CHOICES[name] else f"use {', '.join(others)} or {last}"
    if kind is bool:
        return None if isinstance(value, bool) else "use True or False"
    if kind in (int, int | None) and (isinstance(value, bool) or not isinstance(value, int)):
        return "it must be a whole number"
    if name == "verify":
        return None if _is_number(value) and 0 <= value <= 1 else "it must be a fraction, from 0 to 1"
    if name in ("ttl_jitter", "refresh_ahead"):
        return None if _is_number(value) and 0 <= value < 1 else "it must be a fraction below 1"
    if value < (name not in _MAY_BE_ZERO):
        return f"it must be {'zero or above' if name in _MAY_BE_ZERO else 'a number above zero'}"
    return None if value <= sys.maxsize else f"it must be at most {sys.maxsize}"


def _observers_error(value: Any) -> str | None:
    """Returns the requirement that a value of ``observers`` does not meet; None if it meets all."""
    found: list[Any] = [*value] if isinstance(value, list | tuple) else [None]
    methods = ("begin", "end", "note")
    complete = all(not isinstance(each, type) and all(hasattr(each, name) for name in methods) for each in found)
    return None if complete else "it must be a list of instances of aiomodelcache.observe.Observer"


def _not_found_error(value: Any) -> str | None:
    """Returns the requirement that a value of ``not_found`` does not meet; None if it meets all."""
    is_class = isinstance(value, type)
    if not callable(value) or (is_class and not issubclass(value, Exception)):
        return "use a class of exceptions, or a function of the NotFoundError that returns one"
    try:
        if not is_class:
            inspect.signature(value).bind(NotFoundError("no row"))
        elif not issubclass(value, DoesNotExist):
            value()
    except TypeError as error:
        kind = "it cannot be made without arguments" if is_class else "it must take one argument, the NotFoundError"
        return f"{kind} ({error}): use a function like lambda error: MyError(404, str(error))"
    return None
