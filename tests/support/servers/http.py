"""A server of HTTP that runs on this Python, such as an example or the application of a page."""

import signal
import sys
from pathlib import Path
from typing import ClassVar

import httpx

from tests.support.servers.server import HOST, Server


class HttpServer(Server):
    """A program of this Python that listens on ``port``. It answers once ``probe`` does."""

    probe: ClassVar[str]
    """The path that ``start`` asks for."""
    _not_yet = (httpx.TransportError,)
    _end_signal = signal.SIGTERM

    @classmethod
    def program(cls) -> Path:
        return Path(sys.executable)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def ask(self) -> None:
        httpx.get(f"{self.url}{self.probe}", trust_env=False, verify=False)
