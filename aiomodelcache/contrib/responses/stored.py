"""``StoredResponse``: a whole response as an entry, and the rules for responses that may be stored (RFC 9111)."""

import hashlib
import time
from base64 import urlsafe_b64encode
from collections.abc import Collection
from typing import Final, Self

import msgspec

from aiomodelcache.contrib.responses.fields import (
    Fields,
    combined_value,
    delta_seconds,
    directives,
    http_date,
    lifetime,
    names_in,
)

STORED_STATUSES: Final = frozenset({200, 203, 204, 300, 301, 308, 404, 410})
"""Statuses of responses that are stored without being told for how long. Others below 500 need a ``max-age``."""
_NEVER_STORED: Final = frozenset({206, 304})
_FORBIDDING: Final = (b"no-store", b"private", b"no-cache")
_VALIDATED: Final = (b"must-revalidate", b"proxy-revalidate", b"s-maxage")
_OF_THE_CONNECTION: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authentication-info",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)


class WholeResponse(msgspec.Struct, frozen=True):
    """A whole response, as the application sent it."""

    status: int
    headers: Fields
    body: bytes


class StoredResponse(msgspec.Struct, frozen=True, array_like=True):
    """A response as it is stored: with its entity tag, and with the fields that all clients get."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    created: float
    """The time at which it was computed, in seconds since the Unix epoch, less the ``Age`` that it had then."""
    expires: float | None
    """The time at which it says that it is stale. None: it does not say."""

    def __deepcopy__(self, memo: object) -> Self:
        return self  # it never changes, so callers may share it

    def must_not_be_stale(self, now: float) -> bool:
        """Returns True if it is stale and says that it must not be served then (RFC 9111, section 4.2.4)."""
        return self.expires is not None and self.expires <= now and _requires_validation(self.headers)

    def age(self, now: float) -> int:
        """Returns the seconds since it was computed."""
        return max(0, int(now - self.created))


def _requires_validation(headers: Fields) -> bool:
    return not directives(headers).keys().isdisjoint(_VALIDATED)


def storage_refusal(response: WholeResponse, now: float) -> str | None:
    """Returns the reason for which a response must not be stored, or None."""
    status, headers = response.status, response.headers
    if status >= 500 or status < 200 or status in _NEVER_STORED:
        return "status"
    asked = directives(headers)
    forbidding = next((name for name in _FORBIDDING if name in asked), None)
    if forbidding is not None:
        return forbidding.decode()
    if combined_value(headers, b"set-cookie") is not None:
        return "set-cookie"
    if b"*" in names_in(headers, b"vary"):
        return "vary"
    length = combined_value(headers, b"content-length")
    if length is not None and length != b"%d" % len(response.body):
        return "incomplete"
    until = expiry(headers, now)
    if until is None:
        return None if status in STORED_STATUSES or b"public" in asked else "status"
    return "stale" if until <= now else None


def expiry(headers: Fields, now: float) -> float | None:
    """Returns the time at which a response becomes stale in a shared cache, None if it does not say.

    ``s-maxage`` counts before ``max-age``, and that before ``Expires``. An invalid value is in the past.
    """
    asked = directives(headers)
    for name in (b"s-maxage", b"max-age"):
        if name in asked:
            return now + lifetime(asked[name]) - _given_age(headers)
    expires = combined_value(headers, b"expires")
    if expires is None:
        return None
    date = http_date(combined_value(headers, b"date"))
    until = http_date(expires)
    return now if until is None else now + until - (now if date is None else date) - _given_age(headers)


def stored_response(response: WholeResponse, vary: Collection[bytes], now: float, *, private: bool) -> StoredResponse:
    """Returns a response as it is stored. ``vary``: fields that it varies by, although it may not say so.

    ``private``: the request has credentials, so no other shared cache may store the response.
    """
    status, body = response.status, response.body
    named = names_in(response.headers, b"connection")
    dropped = _OF_THE_CONNECTION | named | {b"age", b"content-length"}
    headers = [(name.lower(), value) for name, value in response.headers if name.lower() not in dropped]
    if status != 204:
        headers.append((b"content-length", b"%d" % len(body)))
    if 200 <= status < 300 and combined_value(headers, b"etag") is None:
        headers.append((b"etag", entity_tag(headers, body)))
    if combined_value(headers, b"cache-control") is None and combined_value(headers, b"expires") is None:
        headers.append((b"cache-control", b"private, no-cache" if private else b"no-cache"))
    unnamed = sorted(set(vary) - names_in(headers, b"vary"))
    if unnamed:
        headers.append((b"vary", b", ".join(unnamed)))
    return StoredResponse(
        status, headers, body, now - _given_age(headers=response.headers), expiry(response.headers, now)
    )


def entity_tag(headers: Fields, body: bytes) -> bytes:
    """Returns a strong entity tag: a digest of the content, and of the fields that say how to read it.

    A response that is computed again with the same content has the same tag, in every process and with an empty store.
    """
    digest = hashlib.blake2b(digest_size=18)
    for name in (b"content-type", b"content-encoding", b"content-language"):
        value = combined_value(headers, name) or b""
        digest.update(b"%d:%b" % (len(value), value))
    digest.update(body)
    return b'"' + urlsafe_b64encode(digest.digest()) + b'"'


def _given_age(headers: Fields) -> int:
    return delta_seconds(combined_value(headers, b"age")) or 0


def current_time() -> float:
    """Returns the time that responses carry, in seconds since the Unix epoch."""
    return time.time()
