"""Signatures of entries: keyed digests, without which a program that can write to the store cannot make up entries.

A signature covers the key, too, so that an entry counts under no other key. It does not make an entry recent: an entry
that was stored before under the same key has a valid signature.
"""

from collections.abc import Sequence
from hashlib import blake2b
from hmac import compare_digest
from typing import Final

from aiomodelcache.encoding.layout import ABSENT, PREFIX_SIZE, STALE, VALUE

SIGNATURE_SIZE: Final = 16
_PURPOSE: Final = b"aiomodelcache"


class Signer:
    """Signs entries by the first of several secrets, and accepts signatures by any of them."""

    def __init__(self, secrets: Sequence[bytes]) -> None:
        keys = [blake2b(secret, digest_size=32, person=_PURPOSE).digest() for secret in secrets]
        self._first, *self._others = [blake2b(key=key, digest_size=SIGNATURE_SIZE, person=_PURPOSE) for key in keys]

    def sign(self, key: bytes, value: bytes) -> bytes:
        """Returns the value with its signature at the end, or unchanged if it is no answer."""
        return value + _digest(self._first, key, value) if _is_answer(value) else value

    def verify(self, key: bytes, value: bytes) -> bytes | None:
        """Returns the value without its signature, or None if the signature is missing or wrong.

        A value that is no answer is returned unchanged.
        """
        if not _is_answer(value):
            return value
        entry, signature = value[:-SIGNATURE_SIZE], value[-SIGNATURE_SIZE:]
        if compare_digest(signature, _digest(self._first, key, entry)):
            return entry
        if any(compare_digest(signature, _digest(other, key, entry)) for other in self._others):
            return entry
        return None


def _is_answer(value: bytes) -> bool:
    """Returns False for leases, intents and versions, which hold no data, and for bytes that are too short."""
    return value[:1] in (VALUE, ABSENT, STALE) and len(value) >= PREFIX_SIZE


def _digest(start: blake2b, key: bytes, entry: bytes) -> bytes:
    digest = start.copy()
    digest.update(len(key).to_bytes(4) + key + entry)
    return digest.digest()
