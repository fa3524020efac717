"""The errors that redis-py and the server raise, and their meaning for the cache."""

import builtins
import re
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

from aiomodelcache.encoding import messages

FAILURES: Final = (RedisError, RedisClusterException, OSError)
"""The exceptions that redis-py raises when a command could not be sent or was not answered with success."""


class TooFewReplicasError(ResponseError):
    """The reply in place of those to commands that the server has run, and too few of its replicas."""


_QUOTATION: Final = re.compile(r",? with args beginning with| : |\bCommand # |Protocol Error: |amc:")
"""The beginnings of what errors quote: the arguments of a command, replies, keys, clients with their settings."""


def unquoted(error: BaseException) -> str:
    """Returns the text of an error up to the first key, argument, reply or client that it quotes."""
    return _QUOTATION.split(str(error), maxsplit=1)[0]


def unquoted_cause(error: BaseException) -> BaseException:
    """Returns the error to chain a ``BackendError`` to: the error, or one without its text if that quotes anything."""
    return error if unquoted(error) == str(error) else messages.safe_cause(error)


def describe(error: BaseException) -> str:
    """Returns a description of the error, as the second half of a sentence about the server."""
    text = unquoted(error)
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
    """Returns True if the other replies of the pipeline are valid: the server refused one key only, or replicas lag."""
    if not isinstance(error, ResponseError):
        return False
    # Scripts quote the server's error, in other words in every version of Redis.
    return (
        isinstance(error, NoScriptError | OutOfMemoryError | TooFewReplicasError)
        or "WRONGTYPE" in str(error)
        or "OOM command not allowed" in str(error)
    )
