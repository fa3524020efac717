"""Partitions of the keys of one model, or of one class of values: entries that share an epoch and a stamp.

In a store of one server a model has one partition, and keys show nothing of it. In a Redis Cluster a key belongs to
one of 16384 slots, and a slot to one node. All keys of a partition have the same hash tag there, like ``{25kQ7}``. So
an entry, its epoch and its stamp share a slot, and a lookup of one row asks one node. The tag begins with the number of
the partition in hexadecimal digits. Its letters are such that the slots of a model's partitions are equally far apart.

Pure. Like the encoding of values, partitions and tags never change: processes must name the same keys.
"""

import functools
import hashlib
import itertools
import string
from binascii import crc32, crc_hqx
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from aiomodelcache.encoding.keys import KeySpace, encode_single, encode_values

SLOTS: Final = 16384
"""The number of hash slots of a Redis Cluster."""
CLUSTER_PARTITIONS: Final = 256
"""The number of partitions of a model in a Redis Cluster.

No setting: processes with different numbers would not invalidate each other's entries.
"""
_SALT: Final = 3
"""The number of letters that give a tag its slot. These many reach every slot."""
TAG_SIZE: Final = 4 + _SALT
"""The number of bytes of a tag: two hexadecimal digits, its letters, and the braces."""


class Partitions:
    """The only partition of a model's keys, for stores of one server."""

    divided = False
    """True if there are several partitions."""
    stamps_show_writes = True
    """True if each write changes the stamps of its partitions. One outside of any tenant changes none of a tenant's."""
    encode: Callable[[Iterable[Any]], bytes] = staticmethod(encode_values)
    """Returns the last part of a key, as ``keys.encode_values`` does."""
    encode_single: Callable[[Any], bytes] = staticmethod(encode_single)
    """Returns the last part of a key with one value, as ``keys.encode_single`` does."""

    def __init__(self, epoch: bytes, stamp: bytes) -> None:
        self.name = stamp
        """The beginning of the keys of all stamps, which tells models and tenants apart."""
        self._epoch, self._stamp = epoch, stamp
        self._epochs: tuple[bytes, ...] = (epoch,)
        self._stamps: tuple[bytes, ...] = (stamp,)

    @property
    def epochs(self) -> Sequence[bytes]:
        """The keys of all epochs."""
        return self._epochs

    @property
    def stamps(self) -> Sequence[bytes]:
        """The keys of all stamps."""
        return self._stamps

    @property
    def epoch_prefix(self) -> bytes:
        """The beginning of the keys of all epochs."""
        return self._epoch

    def tagged(self, text: bytes) -> bytes:
        """Returns the last part of a key, with the tag of its partition if there are several."""
        return text

    def epoch_of(self, key: bytes) -> bytes:
        """Returns the key of the epoch of the entry under ``key``."""
        return self._epoch

    def stamp_of(self, key: bytes) -> bytes:
        """Returns the key of the stamp of the row under ``key``."""
        return self._stamp

    def has(self, key: bytes) -> bool:
        """Returns False if the key names no partition, although there are several: no reader or writer has made it."""
        return True

    def epochs_of(self, keys: Iterable[bytes]) -> Sequence[bytes]:
        """Returns the keys of the epochs of the entries under these keys, each once."""
        return self._epochs

    def stamps_of(self, keys: Iterable[bytes]) -> Sequence[bytes]:
        """Returns the keys of the stamps of the rows under these keys, each once."""
        return self._stamps

    def epochs_among(self, found: Mapping[bytes, bytes | None], keys: Iterable[bytes]) -> Iterable[bytes | None]:
        """Returns the epoch of each of these keys from what was read by key. May be endless, for ``zip``."""
        return itertools.repeat(found[self._epoch])

    def with_epochs(self, keys: list[bytes]) -> list[bytes]:
        """Returns keys of entries, with those of their epochs unless all entries of the model have the same."""
        return keys

    def take_unread(self) -> Sequence[bytes]:
        """Returns the keys of the epochs and stamps of all partitions once, and then none.

        Returns none if there is one partition, or if there are tenants, of which each has stamps of its own.
        """
        return ()


class SlotPartitions(Partitions):
    """The partitions of a model's keys, each in a hash slot of its own."""

    divided = True

    def __init__(self, epoch: bytes, stamp: bytes, tags: Sequence[bytes], *, has_tenants: bool = False) -> None:
        super().__init__(epoch + b":", stamp + b":")
        self._tags = tags
        self.stamps_show_writes = self._unread = not has_tenants
        self.heads = _heads_of(tuple(tags))
        """The beginnings of the last parts of keys, by partition: tags and colons."""
        self._epochs_by_tag = _epochs_of(self._epoch, tuple(tags))
        self._epochs = tuple(self._epochs_by_tag.values())
        self.encode, self.encode_single = self._encode, self._encode_single

    @property
    def stamps(self) -> Sequence[bytes]:
        """See ``Partitions``."""
        return [self._stamp + tag for tag in self._tags]

    def _encode(self, values: Iterable[Any]) -> bytes:
        return self.tagged(encode_values(values))

    def _encode_single(self, value: Any) -> bytes:
        text = encode_single(value)
        return self.heads[crc32(text) % len(self.heads)] + text

    def tagged(self, text: bytes) -> bytes:
        """See ``Partitions``."""
        return self.heads[crc32(text) % len(self.heads)] + text

    def epoch_of(self, key: bytes) -> bytes:
        """See ``Partitions``."""
        at = key.index(b"{")
        tag = key[at : at + TAG_SIZE]
        return self._epochs_by_tag.get(tag) or self._epoch + tag

    def stamp_of(self, key: bytes) -> bytes:
        """See ``Partitions``."""
        return self._stamp + tag_in(key)

    def has(self, key: bytes) -> bool:
        """See ``Partitions``."""
        return b"{" in key and tag_in(key) in self._tags

    def epochs_of(self, keys: Iterable[bytes]) -> Sequence[bytes]:
        """See ``Partitions``."""
        return list(dict.fromkeys(map(self.epoch_of, keys)))

    def stamps_of(self, keys: Iterable[bytes]) -> Sequence[bytes]:
        """See ``Partitions``."""
        return list(dict.fromkeys(map(self.stamp_of, keys)))

    def epochs_among(self, found: Mapping[bytes, bytes | None], keys: Iterable[bytes]) -> Iterable[bytes | None]:
        """See ``Partitions``."""
        return map(found.__getitem__, map(self.epoch_of, keys))

    def with_epochs(self, keys: list[bytes]) -> list[bytes]:
        """See ``Partitions``."""
        return [*keys, *self.epochs_of(keys)]

    def take_unread(self) -> Sequence[bytes]:
        """See ``Partitions``."""
        unread, self._unread = self._unread, False
        return (*self.epochs, *self.stamps) if unread else ()


def partitions_of(space: KeySpace, connection: str, *parts: str) -> Partitions:
    """Returns the partitions of a table, or of a class of values."""
    epoch, stamp = space.epoch_key(connection, *parts), space.stamp_key(connection, *parts)
    if space.partitions == 1:
        return Partitions(epoch, stamp)
    tags = tags_of((space.namespace, *parts), space.partitions)
    return SlotPartitions(epoch, stamp, tags, has_tenants=space.tenant is not None)


def tag_in(key: bytes) -> bytes:
    """Returns the hash tag of a key of a divided cache, with its braces. Nothing before the tag has a brace."""
    at = key.index(b"{")
    return key[at : at + TAG_SIZE]


@functools.cache
def _heads_of(tags: tuple[bytes, ...]) -> Sequence[bytes]:
    """Returns tags with colons. All tenants share them."""
    return [tag + b":" for tag in tags]


@functools.cache
def _epochs_of(prefix: bytes, tags: tuple[bytes, ...]) -> Mapping[bytes, bytes]:
    """Returns the keys of epochs by their tags. All tenants share them."""
    return {tag: prefix + tag for tag in tags}


@functools.cache
def tags_of(names: tuple[str, ...], number: int) -> Sequence[bytes]:
    """Returns the tags of these partitions, with braces. ``names`` tell models apart, whose slots differ then."""
    digest = hashlib.blake2b("\0".join(names).encode(), digest_size=2).digest()
    first, letters = int.from_bytes(digest), _letters_by_slot()
    tags: list[bytes] = []
    for partition in range(number):
        slot = (first + partition * SLOTS // number) % SLOTS
        beginning = b"%02x" % partition
        # The checksum is linear: that of a text is that of its beginning followed by zeros, xor that of its end.
        tags.append(b"{%b%b}" % (beginning, letters[slot ^ _slot_of_tag(beginning + bytes(_SALT))]))
    return tags


def _slot_of_tag(tag: bytes) -> int:
    """Returns the hash slot of a tag without its braces."""
    return crc_hqx(tag, 0) % SLOTS


@functools.cache
def _letters_by_slot() -> dict[int, bytes]:
    """Returns letters and digits whose checksum ends in each slot, the alphabetically first ones."""
    found: dict[int, bytes] = {}
    for letters in itertools.product((string.ascii_letters + string.digits).encode(), repeat=_SALT):
        text = bytes(letters)
        found.setdefault(_slot_of_tag(text), text)
        if len(found) == SLOTS:
            break
    return found
