"""The bytes stored under a cache key: one state byte, a 16-byte random token, and a part that depends on the state.

The first four bytes of a token are those of the process that made it.

Pure: no I/O, no clock, no models. Times are arguments.

=====  ============================================  ==========================================
state  layout after the state byte                    meaning
=====  ============================================  ==========================================
``V``  token 16, fingerprint 8, epoch 16, checksum    a value
       4, created 8, payload
``N``  the same header, no payload                    an absence: this primary or unique key has no row
``S``  the same header, created 0, payload: the       a stale copy of an invalidated ``V`` or ``N``,
       original's state and payload                    served only if the class has an ``allowtime``
``L``  token 16                                       a reader's lease: that reader is filling this key
``W``  (token 16, expiry 13 digits) per writer        writers' intents: readers neither use nor fill it
``E``  16 bytes: random ones, after the server's      a version: a model's epoch or write stamp
       incarnation if the backend has one
``C``  nothing                                       a claim: it says something while it lives
=====  ============================================  ==========================================

``checksum`` is the CRC-32 of all bytes after it, seeded with the state byte. It detects changed or truncated bytes
that would still decode to a value. ``created`` is milliseconds since the Unix epoch. Both are big-endian. An intent's
expiry is milliseconds by the Redis server's clock, in decimal digits, which a Lua script reads without loss.
"""

import os
from typing import Final
from zlib import crc32

from aiomodelcache.encoding.messages import SafeError

FORMAT_VERSION: Final = 1
"""The version of the stored format, part of every fingerprint. Bump it whenever the meaning of stored bytes changes.

If the header changes, bump the ``INTERFACE`` of the extension in C, too.
"""

VALUE: Final = b"V"
ABSENT: Final = b"N"
STALE: Final = b"S"
LEASE: Final = b"L"
INTENT: Final = b"W"
VERSION: Final = b"E"
CLAIM: Final = b"C"

TOKEN_SIZE: Final = 16
PREFIX_SIZE: Final = 1 + TOKEN_SIZE
STATE_AND_TOKEN: Final = slice(PREFIX_SIZE)
"""The place of an entry's state and token."""
FINGERPRINT_SIZE: Final = 8
FINGERPRINT: Final = slice(PREFIX_SIZE, PREFIX_SIZE + FINGERPRINT_SIZE)
GUARD: Final = slice(PREFIX_SIZE, PREFIX_SIZE + FINGERPRINT_SIZE + TOKEN_SIZE)
"""The place of an entry's fingerprint and epoch: one slice to compare on a hit."""
EPOCH: Final = slice(FINGERPRINT.stop, GUARD.stop)
INTENT_SIZE: Final = TOKEN_SIZE + 13

_CHECKSUM: Final = slice(GUARD.stop, GUARD.stop + 4)
CREATED: Final = slice(_CHECKSUM.stop, _CHECKSUM.stop + 8)
"""The place of an entry's creation time, whose bytes sort like times. A stale copy has zero, which sorts first."""
_BODY: Final = slice(_CHECKSUM.stop, None)
PAYLOAD: Final = slice(CREATED.stop, None)
"""The place of the payload, which ``unpack_entry`` returns of an entry with the right checksum."""
HEADER: Final = slice(CREATED.stop)
"""The place of all but the payload. Entries with the same header are the same, as it holds a token and a checksum."""

_HEADER_SIZE: Final = CREATED.stop


class DamagedEntry(SafeError):
    """The error for bytes that are not those that were stored."""


_PROCESS_SIZE: Final = 4
_process = b""


def process_mark() -> bytes:
    """Returns the random bytes with which all tokens of this process begin, so that operators can find their owner."""
    return _process


def _mark_process() -> None:
    global _process
    _process = os.urandom(_PROCESS_SIZE)


_mark_process()
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_mark_process)


def new_token() -> bytes:
    """Returns 16 random bytes, the first ones those of the process. Every attempt to lease, mark or bump takes one."""
    return _process + os.urandom(TOKEN_SIZE - _PROCESS_SIZE)


def new_version(incarnation: bytes = b"") -> bytes:
    """Returns a new epoch or stamp, as stored.

    It begins with ``incarnation``, if the backend has one: in another incarnation of the server it counts as absent.
    """
    return VERSION + incarnation + new_token()[len(incarnation) :]


def pack_entry(state: bytes, token: bytes, guard: bytes, created_ms: int, payload: bytes = b"") -> bytes:
    """Builds a ``V``, ``N`` or ``S`` entry. ``guard`` is the fingerprint and the epoch."""
    body = created_ms.to_bytes(8) + payload
    return b"".join((state, token, guard, crc32(body, state[0]).to_bytes(4), body))


def with_created(entry: bytes, created_ms: int) -> bytes:
    """Returns a ``V`` entry as if it were built at another time, with the same token. Raises ``DamagedEntry``."""
    return pack_entry(entry[:1], entry[1:PREFIX_SIZE], entry[GUARD], created_ms, unpack_entry(entry))


def stale_copy(entry: bytes) -> bytes:
    """Builds the ``S`` entry of a ``V``, ``N`` or ``S`` entry. Raises ``DamagedEntry``.

    The copy has a new token, so that a reader of the original does not mistake the copy for the original.
    """
    payload = unpack_entry(entry)
    if entry[:1] != STALE:
        payload = entry[:1] + payload
    return pack_entry(STALE, new_token(), entry[GUARD], 0, payload)


def unpack_entry(entry: bytes) -> bytes:
    """Returns the payload of a ``V``, ``N`` or ``S`` entry. Raises ``DamagedEntry``."""
    if len(entry) < _HEADER_SIZE or crc32(entry[_BODY], entry[0]).to_bytes(4) != entry[_CHECKSUM]:
        raise DamagedEntry("its checksum is wrong")
    return entry[PAYLOAD]


def with_kept_token(entry: bytes, replaced: bytes) -> bytes:
    """Returns an entry with the token of the one that it replaces, if both say the same. Else returns it as it is.

    What depends on the token then stays valid. A stale copy's token is never kept.
    """
    said_before = replaced[:1], replaced[GUARD], replaced[PAYLOAD]
    if entry[:1] not in (VALUE, ABSENT) or (entry[:1], entry[GUARD], entry[PAYLOAD]) != said_before:
        return entry
    return replaced[:PREFIX_SIZE] + entry[PREFIX_SIZE:]


def created_ms(entry: bytes) -> int:
    """Returns the time at which a ``V`` or ``N`` entry was built, in milliseconds since the Unix epoch."""
    return int.from_bytes(entry[CREATED])


def is_lease(entry: bytes | None) -> bool:
    """Returns True if these bytes are a reader's lease."""
    return entry is not None and entry[:1] == LEASE and len(entry) == PREFIX_SIZE


def is_intent(entry: bytes | None) -> bool:
    """Returns True if these bytes are writers' intents."""
    if entry is None or entry[:1] != INTENT or len(entry) == 1 or len(entry) % INTENT_SIZE != 1:
        return False
    return all(entry[at - 13 : at].isdigit() for at in range(1 + INTENT_SIZE, len(entry) + 1, INTENT_SIZE))
