"""Preconditions of requests (RFC 9110, section 13), and the response without content that they may lead to."""

from typing import Final

from aiomodelcache.contrib.responses.fields import Fields, combined_value, entity_tags, http_date, opaque_tag
from aiomodelcache.contrib.responses.requests import Request

NOT_MODIFIED: Final = 304
PRECONDITION_FAILED: Final = 412
_OF_THE_CONTENT: Final = frozenset(
    {
        b"content-encoding",
        b"content-language",
        b"content-length",
        b"content-range",
        b"content-type",
        b"last-modified",
    }
)
"""Fields that describe the content, and that a 304 leaves out because the client has them."""


def evaluate(request: Request, status: int, headers: Fields) -> int | None:
    """Returns 304 or 412 if a precondition of the request says so, in the order of RFC 9110, section 13.2.2.

    None: the response itself is the answer. Only a response of success is compared.
    """
    fields = request.fields
    if not 200 <= status < 300:
        return None
    tag = combined_value(headers, b"etag")
    modified = http_date(combined_value(headers, b"last-modified"))
    if b"if-match" in fields:
        wanted = fields[b"if-match"]
        if wanted.strip() != b"*" and (tag is None or tag.startswith(b"W/") or tag not in entity_tags(wanted)):
            return PRECONDITION_FAILED
    elif b"if-unmodified-since" in fields:
        since = http_date(fields[b"if-unmodified-since"])
        if since is not None and modified is not None and modified > since:
            return PRECONDITION_FAILED
    if b"if-none-match" in fields:
        wanted = fields[b"if-none-match"]
        if wanted.strip() == b"*" or (tag is not None and opaque_tag(tag) in map(opaque_tag, entity_tags(wanted))):
            return NOT_MODIFIED
    elif b"if-modified-since" in fields:
        since = http_date(fields[b"if-modified-since"])
        if since is not None and modified is not None and modified <= since:
            return NOT_MODIFIED
    return None


def without_content(status: int, headers: Fields) -> Fields:
    """Returns the fields of a 304 or 412 in place of a response with these fields."""
    if status == PRECONDITION_FAILED:
        return [(b"content-length", b"0")]
    return [pair for pair in headers if pair[0].lower() not in _OF_THE_CONTENT]
