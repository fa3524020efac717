"""Derived entries whose instances are stored by value, because their tokens say that all of it is current.

A result class is not among them: its entries do not depend on the table of its own model, so its instances are read
from their own rows.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from aiomodelcache.encoding.codec import EncodeError
from aiomodelcache.encoding.layout import HEADER, unpack
from aiomodelcache.encoding.messages import cause, reason
from aiomodelcache.entries.base import NoValue, count_mismatched, fingerprint
from aiomodelcache.entries.derived import DerivedEntries
from aiomodelcache.entries.instances import PLAIN, WITH_INSTANCES, InstanceCodec, OtherSchema, SharedValue
from aiomodelcache.entries.raised import Raised

_WITH_INSTANCES: Final = WITH_INSTANCES[0]


class ByValueEntries(DerivedEntries):
    """The entries of a cached function, of a class of values, or of the queries of one model."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.fingerprint = fingerprint("by value", self.fingerprint)
        self._instances = InstanceCodec(self.bound, self.codec, may_hold=self.may_refer)

    def is_plain(self, content: bytes) -> bool:
        """Returns True if ``decode`` returns the value as it is: with its instances, and not nested too deep."""
        return content[:1] != PLAIN or super().is_plain(content[1:])

    def decode(self, content: bytes) -> Any:
        """Returns the value of its bytes. Raises ``OtherSchema``, or anything for damaged bytes."""
        return self._instances.decode(content)

    def find_shared(self, entry: bytes, header: bytes, start: int) -> Any:
        decoded = self.decoded
        if entry[HEADER.stop + start] != _WITH_INSTANCES or not decoded.fits(entry):
            return None
        kept = decoded.find(header)
        if kept is None or kept.entry != entry:
            shared = self._instances.decode_shared(unpack(entry)[start:])
            kept = decoded.keep(header, entry, self._instances, b"", shared, shared.size)
        elif kept.owner is not self._instances:
            return None
        else:
            kept.used = True
            decoded.counters.hits += 1
        return kept.content

    def copy_of(self, shared: SharedValue) -> Any:
        return self._instances.copy_of(shared)

    def _unpack_value(self, payload: bytes, decode: Callable[[bytes], Any]) -> Any:
        try:
            return super()._unpack_value(payload, decode)
        except OtherSchema as error:
            count_mismatched(self.counters, self.name, reason(error))
            return NoValue.MISS

    def _pack_content(self, value: Any, dependencies: Mapping[bytes, bytes]) -> bytes:
        if type(value) is Raised:
            return super()._pack_content(value, dependencies)
        try:
            return self._instances.encode(value)
        except EncodeError:
            raise
        except Exception as error:
            raise EncodeError(reason(error)) from cause(error)
