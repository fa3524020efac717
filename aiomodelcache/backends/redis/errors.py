"""What redis-py and the server raise, and what the errors mean to the cache."""

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
"""What redis-py raises when a command could not be sent or was not answered with success."""


def describe(error: BaseException) -> str:
    """Returns what happened, as the second half of a sentence about the server."""
    # The text of some errors lists the clients that were tried, one "repr" after the other.
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
    """Whether the server refused one key only, so that the other replies of the pipeline count."""
    if not isinstance(error, ResponseError):
        return False
    # Scripts quote an error in other words in every version of Redis.
    return (
        isinstance(error, NoScriptError | OutOfMemoryError)
        or "WRONGTYPE" in str(error)
        or "OOM command not allowed" in str(error)
    )
