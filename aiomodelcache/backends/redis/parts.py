"""A read that is sent on two connections: keys whose changes are tracked, and all others. Knows keys and bytes only."""

from collections.abc import Callable, Sequence

from aiomodelcache.backends.protocol import PartialFailure, ReadCallback

Mask = Callable[[Sequence[bytes], list[bytes | None]], list[bytes | None]]


class ReadInParts:
    """The two parts of a read, whose answers are delivered as one.

    ``mask``: replaces versions by None that do not count any more. The later answer may come from a server that took
    the place of the one that the earlier answer came from. That one's versions must not be believed with its rows.
    """

    def __init__(self, keys: Sequence[bytes], mask: Mask, callback: ReadCallback) -> None:
        self._keys = keys
        self._mask = mask
        self._callback = callback
        self._found: dict[bytes, bytes | None] = {}
        self._failed: dict[bytes, str] = {}
        self._error: Exception | None = None
        self._pending = 2

    def on_part(self, keys: Sequence[bytes], read: list[bytes | None] | Exception) -> None:
        """Takes the answer of one part. Calls the callback after the last one."""
        if isinstance(read, PartialFailure):
            self._failed |= read.failed
            read = read.result
        if isinstance(read, Exception):
            self._error = read
        else:
            self._found.update(zip(keys, read, strict=True))
        self._pending -= 1
        if not self._pending:
            self._callback(self._error or self._whole())

    def _whole(self) -> list[bytes | None] | PartialFailure:
        values = self._mask(self._keys, [self._found[key] for key in self._keys])
        return PartialFailure(self._failed, values) if self._failed else values
