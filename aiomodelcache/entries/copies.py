"""Last good values: a copy of each result, under a key beside its entry, for when computing the result fails.

A copy holds instances by value and no dependencies, so reading it needs no other entry. ``clear()`` ends it, because it
has the epoch of its entry.
"""

from typing import Any, Final

from tortoise.models import Model

from aiomodelcache.encoding.codec import EncodeError
from aiomodelcache.encoding.layout import GUARD, STALE, VALUE, new_token, pack_entry, unpack_entry
from aiomodelcache.encoding.messages import safe_cause, safe_reason
from aiomodelcache.entries.base import Miss, NoValue, count_undecodable, warn_unencodable
from aiomodelcache.entries.instances import InstanceCodec
from aiomodelcache.entries.resilience import Resilience
from aiomodelcache.entries.results import ResultEntries, map_nested
from aiomodelcache.orm.meta import mark_stale

COPY_SUFFIX: Final = b":?"
"""The suffix that makes an entry's key the key of its copy. No value's encoding begins like this."""


class Copies:
    """The copies of one class of results."""

    def __init__(self, result: ResultEntries) -> None:
        self._result = result
        self._instances = InstanceCodec(result.bound, result.codec, may_hold=result.may_refer)
        self.extra_ms = int(result.resilience.stale_if_error * 1000)
        """The time for which a copy outlives its entry, in milliseconds."""

    def pack(self, entry: bytes, value: Any) -> bytes:
        """Returns the copy of an entry and its value. Empty if the value has no encoding."""
        try:
            content = self._instances.encode(value)
        except Exception as error:
            failure = error if isinstance(error, EncodeError) else EncodeError(safe_reason(error))
            failure.__cause__ = safe_cause(error)
            warn_unencodable(self._result.counters, self._result.name, failure, "copy")
            return b""
        return pack_entry(STALE, new_token(), entry[GUARD], 0, VALUE + content)

    def is_copy(self, held: bytes | None, epoch: bytes | None) -> bool:
        """Returns True if these bytes are a copy of this version of the program, since the last ``clear()``."""
        if not held or epoch is None or held[:1] != STALE:
            return False
        return held[GUARD] == self._result.fingerprint + epoch[1:]

    def read(self, held: bytes | None, epoch: bytes | None) -> Any | Miss:
        """Returns the value of a copy, with its instances marked as stale, or a miss."""
        if held is None or not self.is_copy(held, epoch):
            return NoValue.MISS
        try:
            value = self._instances.decode(unpack_entry(held)[1:])
        except Exception as error:  # also one of another schema
            return count_undecodable(self._result.counters, self._result.name, error)
        return map_nested(value, Model, _marked) if self._result.may_refer else value


def _marked(instance: Model) -> Model:
    mark_stale(vars(instance))
    return instance


def set_resilience(result: ResultEntries, resilience: Resilience) -> None:
    """Sets what happens if a computation of these results fails, and how long each of them lives."""
    result.set_resilience(resilience)
    if resilience.stale_if_error:
        result.copies = Copies(result)
