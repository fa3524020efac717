"""The errors that redis-py and the server raise, and their meaning for the cache."""

import builtins
from typing import Final

from redis.exceptions import (
    AuthenticationError,
    ConnectionError,
    NoScriptError,
    OutOfMemoryError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TimeoutError,
)

FAILURES: Final = (RedisError, RedisClusterException, OSError)
"""The exceptions that redis-py raises when a command could not be sent or was not answered with success."""


def describe(error: BaseException) -> str:
    """Returns a description of the error, as the second half of a sentence about the server."""
    # The text of some errors ends with the ``repr`` of each client that was tried.
    text = str(error).partition(" : ")[0]
    match error:
        case AuthenticationError():
            return f"rejected the user name or the password: {text}"
        case TimeoutError() | builtins.TimeoutError():
            return f"did not answer in time: {text}"
        case ConnectionError() | OSError():
            return f"cannot be reached: {text}"
        case _:
            return f"answered with an error: {text}"


def concerns_one_key(error: Exception) -> bool:
    """Returns True if the server refused one key only, so that the other replies of the pipeline are valid."""
    if not isinstance(error, ResponseError):
        return False
    # Scripts quote the server's error, in other words in every version of Redis.
    return (
        isinstance(error, NoScriptError | OutOfMemoryError)
        or "WRONGTYPE" in str(error)
        or "OOM command not allowed" in str(error)
    )
