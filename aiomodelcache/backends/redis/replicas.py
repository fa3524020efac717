"""``WAIT``: commands that count only when replicas have them. Must not know which commands these are."""

import logging
from dataclasses import dataclass
from typing import Final, cast

from redis.exceptions import NoScriptError

from aiomodelcache.backends.redis.connection import Command, Replies
from aiomodelcache.backends.redis.errors import TooFewReplicasError

logger: Final = logging.getLogger("aiomodelcache")

MAX_WAIT: Final = 0.1
"""Maximum seconds that one request waits for replicas. Later requests of the same connection wait for it, too."""
LAGGING_WAIT_MS: Final = 10
"""Milliseconds that a request waits for replicas that were late the last time."""


@dataclass(frozen=True, slots=True)
class ReplicaWait:
    """The number of replicas to wait for, and for how many milliseconds."""

    replicas: int
    timeout_ms: int


class Replication:
    """The replicas of one server, as the last WAIT has found them."""

    __slots__ = ("_lags", "_where")

    def __init__(self, where: str) -> None:
        self._where = where
        self._lags = False

    def command(self, wait: ReplicaWait) -> Command:
        """Returns the command that waits for the replicas to have all earlier commands of its connection."""
        return "WAIT", wait.replicas, min(LAGGING_WAIT_MS, wait.timeout_ms) if self._lags else wait.timeout_ms

    def judge(self, wait: ReplicaWait, replies: Replies) -> Replies:
        """Returns the replies without the last one, which is that to WAIT.

        If too few replicas were in time, an error stands in place of each reply that is none and holds none: a refusal
        counts more. Scripts that the server lacks are sent again, with another WAIT.
        """
        *replies, found = replies
        lags = not (isinstance(found, int) and found >= wait.replicas)
        if lags is not self._lags:
            self._lags = lags
            state = "do not have the marks of writes in time" if lags else "have the marks of writes again"
            logger.warning("aiomodelcache: %d replicas of Redis at %s %s", wait.replicas, self._where, state)
        if not lags or any(isinstance(reply, NoScriptError) for reply in replies):
            return replies
        failed = isinstance(found, Exception)  # such as a user who may not WAIT
        error = TooFewReplicasError(str(found) if failed else f"{found} of {wait.replicas} replicas had it in time")
        return [reply if _has_error(reply) else error for reply in replies]


def _has_error(reply: object) -> bool:
    """Returns True for an error, and for the reply of a script that has refused some of its keys."""
    if isinstance(reply, list):
        return any(isinstance(each, Exception) for each in cast("list[object]", reply))
    return isinstance(reply, Exception)
