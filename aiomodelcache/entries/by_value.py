"""Derived entries whose instances are stored by value, because their tokens say that all of it is current.

A result class is not among them. Its entries do not depend on the table of its own model, so its instances are read
from their own rows.
"""

from collections.abc import Callable
from contextlib import suppress
from sys import getsizeof
from typing import Any, Final

from aiomodelcache.encoding.codec import EncodeError
from aiomodelcache.encoding.layout import GUARD, HEADER, unpack_entry
from aiomodelcache.encoding.messages import safe_cause, safe_reason
from aiomodelcache.encoding.shared import SharedPlain
from aiomodelcache.encoding.together import ReadTogether
from aiomodelcache.entries.base import VALUE_BYTE, NoValue, count_mismatched, fingerprint
from aiomodelcache.entries.decoded import Kept
from aiomodelcache.entries.derived import DerivedEntries, DerivedValue, KnownDependencies, split_dependencies
from aiomodelcache.entries.instances import PLAIN, WITH_INSTANCES, InstanceCodec, OtherSchema, SharedValue
from aiomodelcache.entries.predictions import Prediction
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

    def read(self, entry: bytes | None, epoch: bytes | None) -> Any:
        if not entry or not epoch or entry[0] != VALUE_BYTE or entry[GUARD] != self.fingerprint + epoch[1:]:
            return super().read(entry, epoch)
        header = entry[HEADER]
        with suppress(Exception):  # of a user's own field, which ``read`` meets again and counts
            kept = self._find_kept(entry, header)
            if kept is not None:
                content: DerivedValue = kept.content
                return content._replace(value=self.copy_of(content.value))
        found = super().read(entry, epoch)
        if type(found) is DerivedValue and entry[HEADER.stop + found.start] == _WITH_INSTANCES:
            with suppress(Exception):
                if self.decoded.fits(entry) and self.decoded.to_keep(header):
                    self._keep(entry, header)
        return found

    def find_shared(self, entry: bytes, known: KnownDependencies) -> Any:
        if not known.shared or not self.decoded.fits(entry):
            return None
        kept = self._find_kept(entry, known.header)
        if kept is None:
            if entry[HEADER.stop + known.start] != _WITH_INSTANCES and not self.decoded.to_keep_rarely(known.header):
                return None
            kept = self._keep(entry, known.header)
            known.shared = kept is not None
        return None if kept is None else kept.content.value

    def find_unchanged(self, read: ReadTogether, known: Prediction) -> Any:
        kept = self.decoded.find(known.header) if type(known) is KnownDependencies else None
        if kept is None or kept.owner is not self._instances or kept.read != (read.known, read.values_read):
            return None
        kept.used = True
        self.decoded.counters.hits += 1
        return kept.content.value

    def keep_read(self, read: ReadTogether, known: Prediction) -> None:
        kept = self.decoded.find(known.header) if type(known) is KnownDependencies else None
        if kept is not None and kept.owner is self._instances and self.decoded.fits(kept.entry):
            self.decoded.keep_read(kept, read.known, read.values_read)

    def _find_kept(self, entry: bytes, header: bytes) -> Kept | None:
        kept = self.decoded.find(header)
        if kept is None or kept.owner is not self._instances or kept.entry != entry:
            return None
        kept.used = True
        self.decoded.counters.hits += 1
        return kept

    def _keep(self, entry: bytes, header: bytes) -> Kept | None:
        """Keeps the value of an entry decoded, unless that gains nothing. Raises for damaged bytes."""
        payload = unpack_entry(entry)
        keys, tokens, start = split_dependencies(payload)
        shared = self._instances.decode_shared(payload[start:])
        if shared is None:
            return None
        content = DerivedValue(keys, tokens, shared, start)
        size = shared.size + sum(map(getsizeof, keys)) + sum(map(getsizeof, tokens))
        return self.decoded.keep(header, entry, self._instances, b"", content, size)

    def copy_of(self, shared: SharedValue | SharedPlain) -> Any:
        return self._instances.copy_of(shared)

    def _unpack_value(self, payload: bytes, decode: Callable[[bytes], Any]) -> Any:
        try:
            return super()._unpack_value(payload, decode)
        except OtherSchema as error:
            count_mismatched(self.counters, self.name, safe_reason(error))
            return NoValue.MISS

    def _pack_content(self, value: Any) -> bytes:
        if type(value) is Raised:
            return super()._pack_content(value)
        try:
            return self._instances.encode(value)
        except EncodeError:
            raise
        except Exception as error:
            raise EncodeError(safe_reason(error)) from safe_cause(error)
