"""Derived entries: computed values, stored with the tokens of everything that they were computed from.

A value is current while each key that it depends on still begins with the bytes that it had.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence, Set
from itertools import islice
from operator import itemgetter
from typing import Any, Final, NamedTuple, cast

import msgspec

from aiomodelcache.encoding.codec import DecodeError
from aiomodelcache.encoding.layout import GUARD, HEADER, PREFIX_SIZE, STATE_AND_TOKEN, unpack_entry
from aiomodelcache.encoding.together import ReadTogether
from aiomodelcache.entries.base import Miss, NoValue, fingerprint
from aiomodelcache.entries.decoded import NOTHING_DECODED, Decoded
from aiomodelcache.entries.predictions import Prediction
from aiomodelcache.entries.results import ResultEntries
from aiomodelcache.entries.versions import TableVersions

MAX_DEPENDENCIES: Final = 64
"""Number of dependencies, without epochs, beyond which the version of its table replaces the entries of a model."""
MANY_DEPENDENCIES: Final = 48
"""Number of dependencies, without epochs, beyond which later computations read what could replace them, too."""

_encode_dependencies = msgspec.msgpack.Encoder().encode
_decode_dependencies: Final = msgspec.msgpack.Decoder(list[bytes])
_LENGTH_SIZE: Final = 4
_prefix: Final[Callable[[bytes | None], bytes]] = cast("Any", itemgetter(STATE_AND_TOKEN))
_PACKED_TOKEN: Final = b"\xc4%c" % PREFIX_SIZE
"""The bytes before each token in a packed list."""


class KnownDependencies(Prediction):
    """The keys to read together with a result: its dependencies first, as they were when it was read last.

    Then those of the rows that it refers to.

    Also remembers the tokens of one entry, so that a hit of the same entry need not decode them.
    """

    __slots__ = ("_head", "_order", "_sort", "header", "number", "seen", "shared", "start", "tokens")

    def __init__(self, keys: list[bytes], number: int | None = None) -> None:
        super().__init__([], keys)
        self.number = len(keys) if number is None else number
        """The number of dependencies."""
        self.header = b""
        self.seen = b""
        """The header of the last entry that was read."""
        self.tokens: list[bytes] = []
        self.shared = True
        """False if the entry's value is not worth keeping decoded."""
        self.start = 0
        """The place in the entry's payload where the value begins. It refers to no rows and is not nested too deep."""
        self._order: list[bytes] = []
        """The dependencies in the order in which a computation has recorded them."""
        self._head = b""
        """All but the tokens of what ``pack_dependencies`` returns for them."""
        self._sort: Callable[[list[bytes]], tuple[bytes, ...]]
        """Returns tokens in that order in the order of the keys."""

    def learn(self, entry: bytes, tokens: list[bytes], start: int) -> None:
        """Remembers an entry with these dependencies. Its header includes its token and checksum."""
        self.header = self.seen = entry[HEADER]
        self.tokens, self.start, self.shared = tokens, start, True

    def pack(self, recorded: dict[bytes, bytes]) -> bytes:
        """Returns what ``pack_dependencies`` does, if ``recorded`` are the remembered keys in the same order.

        Else empty bytes. Keys that are packed already need not be looked up one by one.
        """
        if not self._order or [*recorded] != self._order:
            return b""
        tokens = b"".join(recorded.values())
        packed = self._head + _PACKED_TOKEN.join((b"", *self._sort([*recorded.values()])))
        return packed if len(tokens) == len(recorded) * PREFIX_SIZE else b""

    def learn_order(self, recorded: dict[bytes, bytes], packed: bytes) -> None:
        """Remembers the dependencies for ``pack``. ``packed``: what ``pack_dependencies`` has returned for them."""
        self._order = [*recorded] if self.number > 1 else []
        if self._order:
            places = {key: place for place, key in enumerate(self._order)}
            self._sort = itemgetter(*[places[key] for key in self.keys[: self.number]])
            self._head = packed[: len(packed) - self.number * (len(_PACKED_TOKEN) + PREFIX_SIZE)]


class DerivedValue(NamedTuple):
    """The content of a derived entry. ``value`` holds ``InstanceReference``s in place of instances."""

    keys: list[bytes]
    tokens: list[bytes]
    value: Any
    start: int = 0
    """The place in the payload where the value begins."""

    def is_current(self, entries: Mapping[bytes, bytes | None]) -> bool:
        """Returns True if everything that the value depends on is as it was. ``entries`` hold all of it, by key."""
        for key, token in zip(self.keys, self.tokens, strict=True):
            entry = entries[key]
            if entry is None or entry[:PREFIX_SIZE] != token:
                return False
        return True


Track = Callable[..., Awaitable[Any]]
"""A function of derived entries, a function to run, a transaction's connection or None, and versions just read."""


class DerivedEntries(ResultEntries):
    """The entries of one function, or class of values, whose dependencies are recorded while they are computed."""

    limited = False
    """True if statements of computations are the library's own, and wait until the database has room."""

    def __init__(self, *args: Any, depends_on: Sequence[bytes] = (), **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.fingerprint = fingerprint("derived", self.fingerprint)
        self.depends_on = depends_on
        """The versions of the tables that every value depends on, by declaration."""
        self._needed: list[Set[bytes]] = []
        self.all_tables: Sequence[bytes] = ()
        self.track: Track
        """Runs a function and records what its result is derived from. Set when the cache is open."""
        self.reads_apart: Callable[[], bool]
        """Returns True if an entry and its dependencies, as they are being delivered, may not be of one moment."""
        self.decoded = NOTHING_DECODED
        """The entries that the cache keeps decoded."""

    def tracked_in(
        self, versions: TableVersions, track: "Track", reads_apart: Callable[[], bool], decoded: Decoded
    ) -> None:
        """Sets the tables that values may depend on, and the functions that record dependencies and tell of reads."""
        self.all_tables, self.track, self.reads_apart, self.decoded = versions.all, track, reads_apart, decoded

    @property
    def tables(self) -> Set[bytes] | None:
        """The table versions that computations have needed in this process. None before the first one.

        Versions that would only stand for entries, if these were too many, are among them once there were many.
        """
        return self._needed[0] if self._needed else None

    @tables.setter
    def tables(self, needed: Set[bytes]) -> None:
        self._needed[:] = [needed]  # a list, because copies of these entries for other timeouts share it

    @property
    def tables_to_read(self) -> Sequence[bytes]:
        """The table versions to read before a computation: those that were needed before, or all of a small schema."""
        if self._needed:
            return [*self._needed[0]]
        return self.all_tables if len(self.all_tables) <= MAX_DEPENDENCIES else self.depends_on

    def may_be_younger(self, entry: bytes | None, known: Prediction) -> bool:
        """Returns True if an entry may have been stored after the dependencies that were read together with it.

        It may then be torn, although they are what it was computed from, as a writer may have changed them since. They
        must be read again. This is not so if all was read at one moment, or if the same entry has been read before.
        """
        if entry is None or not self.reads_apart():
            return False
        return not isinstance(known, KnownDependencies) or entry[HEADER] != known.seen

    def _pack_value(self, value: Any, dependencies: bytes) -> bytes:
        return b"".join((len(dependencies).to_bytes(_LENGTH_SIZE), dependencies, self._pack_content(value)))

    def _pack_content(self, value: Any) -> bytes:
        """Returns the bytes of a value alone. Raises ``EncodeError``."""
        return super()._pack_value(value, b"")

    def derived_hit(self, entry: bytes, epoch: bytes, read: Iterable[bytes | None], known: Prediction) -> Any | Miss:
        """Returns the value of a ``V`` entry as ``hit`` does, if its dependencies are ``known`` and unchanged.

        ``read``: what was read together with it under the keys of ``known``. Raises an exception for damaged bytes,
        and if nothing was read under one of the keys.
        """
        if entry[GUARD] != self.fingerprint + epoch[1:] or not isinstance(known, KnownDependencies):
            return NoValue.MISS
        header = entry[HEADER]
        shared = self.find_shared(entry, known) if header == known.header else None
        payload = unpack_entry(entry) if shared is None else b""
        if header != known.header:
            if self.may_be_younger(entry, known):
                return NoValue.MISS
            keys, tokens, start = split_dependencies(payload)
            if keys != known.keys[: len(keys)] or not self.is_plain(payload[start:]):
                return NoValue.MISS
            known.learn(entry, tokens, start)
        tokens = known.tokens
        if [*map(_prefix, islice(read, len(tokens)))] != tokens:  # keys of rows may follow
            return NoValue.MISS
        return self.decode(payload[known.start :]) if shared is None else self.copy_of(shared)

    def find_shared(self, entry: bytes, known: KnownDependencies) -> Any:
        """Returns the value of an entry that ``known`` remembers, decoded for ``copy_of``, or None if it is not kept.

        Raises for damaged bytes.
        """
        return None

    def find_unchanged(self, read: ReadTogether, known: Prediction) -> Any:
        """Does the same if all that was read with the entry has the bytes that it had at a hit before."""
        return None

    def keep_read(self, read: ReadTogether, known: Prediction) -> None:
        """Keeps what was read with an entry at a hit, for ``find_unchanged``, if the value is kept."""

    def copy_of(self, shared: Any) -> Any:
        """Returns the value of what ``find_shared`` has returned."""
        raise NotImplementedError

    def _unpack_value(self, payload: bytes, decode: Callable[[bytes], Any]) -> DerivedValue:
        keys, tokens, start = split_dependencies(payload)
        return DerivedValue(keys, tokens, decode(payload[start:]), start)


def pack_dependencies(recorded: Mapping[bytes, bytes]) -> tuple[list[bytes], bytes]:
    """Returns the keys of dependencies, sorted, so that equal results have equal bytes. And all as one list, packed."""
    keys = sorted(recorded)
    return keys, _encode_dependencies([*keys, *map(recorded.__getitem__, keys)])


def split_dependencies(payload: bytes) -> tuple[list[bytes], list[bytes], int]:
    """Returns the keys and the tokens of the dependencies, and where the value begins. Raises for damaged bytes."""
    start = _LENGTH_SIZE + int.from_bytes(payload[:_LENGTH_SIZE])
    pairs = _decode_dependencies.decode(payload[_LENGTH_SIZE:start])
    number = len(pairs) // 2
    if len(pairs) != 2 * number or start > len(payload):
        raise DecodeError("its list of dependencies is damaged")
    return pairs[:number], pairs[number:], start
