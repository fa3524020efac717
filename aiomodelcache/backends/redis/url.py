"""URLs of Redis servers, Sentinels and Clusters, split into parts, and without their passwords."""

import re
import string
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlsplit

from redis.asyncio.connection import URL_QUERY_ARGUMENT_PARSERS, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

SCHEMES: Final = (
    "redis://, rediss://, unix://, redis+cluster://, rediss+cluster://, redis+sentinel:// or rediss+sentinel://"
)
"""The URL schemes that are accepted, for error messages."""

_UNESCAPED: Final = string.punctuation.replace("[", "").replace("]", "")
_OPTIONS_WITH_AT: Final = re.compile(r"(?<=[?&])(username|password|client_name|ssl_\w+)=[^&#]*")
"""The options whose values may contain an @. Any other @ after the hosts shows that a password was cut in two."""


_MAX_HOST: Final = 260
"""Maximum number of characters of a host and its port. A URL with more is refused."""


@dataclass(frozen=True, slots=True)
class Url:
    """A URL in parts, such as ``redis+cluster://user:password@one:1,two:2/path?query``."""

    transport: str
    kind: str
    credentials: str
    hosts: str
    path: str
    query: str

    @classmethod
    def split(cls, url: str) -> "Url":
        """Splits a URL into its parts. Raises ``ValueError`` if a password with reserved characters was not escaped."""
        scheme, separator, rest = url.partition("://")
        transport, _, kind = (scheme if separator else "").lower().partition("+")
        netloc = re.split(r"[/?#]", rest, maxsplit=1)[0]
        tail = rest[len(netloc) :]
        if (transport != "unix" or "@" in netloc) and "@" in _OPTIONS_WITH_AT.sub("", tail):
            raise ValueError("an @ follows the host; in a name or password, write / ? # @ as %2F %3F %23 %40")
        parts = urlsplit(f"//{tail}")  # without the hosts: urlsplit does not accept several
        user, at, hosts = netloc.rpartition("@")
        # Escaped, because errors about brackets and some other characters quote the password.
        return cls(transport, kind, quote(user, safe=_UNESCAPED) + at, hosts, parts.path, parts.query)

    def addresses(self, default_port: int) -> list[tuple[str, int]]:
        """Returns the host and port of each server. Raises ``ValueError`` if one is malformed."""
        return [self._address(host, default_port) for host in self.hosts.split(",")]

    def _address(self, host: str, default_port: int) -> tuple[str, int]:
        try:
            if len(host) > _MAX_HOST or not host.isprintable() or " " in host:
                raise ValueError
            parts = urlsplit(f"//{host}")
            return parts.hostname or "localhost", parts.port or default_port
        except ValueError:
            # Not chained: if a "/" in a password was not escaped, the original message quotes half of that password
            # as "not a port".
            raise ValueError("the host or the port is malformed") from None

    def options(self, socket_timeout: float, database: str) -> dict[str, Any]:
        """Returns the connection options of the URL, as redis-py reads them, over the defaults of this package."""
        if not re.fullmatch(r"\d*", database):
            # redis-py would silently use database 0.
            raise ValueError("after the host, only /number-of-the-database may follow")
        return self._read(socket_timeout, f"/{database}")

    def socket_options(self, socket_timeout: float) -> dict[str, Any]:
        """Returns the connection options of a ``unix://`` URL. Raises ``ValueError`` without an absolute path."""
        if self.hosts or not self.path:
            raise ValueError("the absolute path of the socket must follow unix://")
        return self._read(socket_timeout, self.path)

    def _read(self, socket_timeout: float, path: str) -> dict[str, Any]:
        query = f"?{self.query}" if self.query else ""
        parsed = dict[str, Any](parse_url(f"{self.transport}://{self.credentials}{path}{query}"))
        defaults = {
            "socket_timeout": socket_timeout,
            "socket_connect_timeout": socket_timeout,
            "protocol": 2,  # avoids a HELLO, and the negotiations of redis-py 8 that follow it
        }
        return defaults | parsed | at_most_once()


def at_most_once() -> dict[str, Any]:
    """Returns the options that keep redis-py from resending a command."""
    return {
        "retry": Retry(NoBackoff(), 0),
        "retry_on_error": [],
        "retry_on_timeout": False,
        "decode_responses": False,
    }


_PARTS: Final = re.compile(
    r"([a-z+]+://)?([^/?#]*@)?([^@/?#]*)(/[^@?#]*)?(\?[^@#]*)?",
    re.IGNORECASE,
)
"""Scheme, user and password, hosts, path, and options of a URL without an @ after its hosts."""
_HOST: Final = re.compile(r"(\[[\w:.%]*\]|[^:\[\]]*)(:\d*)?")
_SHOWN_OPTIONS: Final = frozenset({*URL_QUERY_ARGUMENT_PARSERS, "ssl_cert_reqs", "ssl_ca_certs", "ssl_certfile"})
"""The options of a URL whose values messages show."""


def masked(url: str) -> str:
    """Returns ``url`` for a message: without user and password, and without values of options that may be secret.

    If the URL is malformed, too much is hidden rather than too little.
    """
    parts = _PARTS.fullmatch(url)
    if parts is None:
        scheme, separator, _ = url.partition("://")
        return f"{scheme}{separator}***" if re.fullmatch("[a-z+]+", scheme, re.IGNORECASE) and separator else "***"
    scheme, credentials, hosts, path, query = (part or "" for part in parts.groups())
    shown = [host if _HOST.fullmatch(host) else f"{host.partition(':')[0]}:***" for host in hosts.split(",")]
    options = [_masked_option(option) for option in query[1:].split("&")]
    return f"{scheme}{credentials and '***@'}{','.join(shown)}{path}{query[:1]}{'&'.join(options)}"


def _masked_option(option: str) -> str:
    name, separator, _ = option.partition("=")
    if name in _SHOWN_OPTIONS or not option:
        return option
    return f"{name}=***" if separator else "***"
