"""A process of ``services/watched.py``, an application with a dashboard."""

import json
import signal
import sys
from pathlib import Path
from typing import Any

import httpx

from tests.support.pages import ROOT
from tests.support.servers.http import HttpServer

HOSTILE = "<img src=x onerror=alert(1)>'\"&</script>"
"""A text that is markup wherever it is not escaped: the name of a cached function, and a value in keys and rows."""


class WatchedServer(HttpServer):
    """One worker of the application. All of one ``database`` and ``store`` are a fleet."""

    name = "watched"
    probe = "/counts"

    def __init__(self, store: str, database: Path, **settings: Any) -> None:
        super().__init__()
        self._given = {"STORE": store, "DATABASE": f"sqlite://{database}", "SETTINGS": json.dumps(settings)}

    def _command(self) -> list[str | Path]:
        given = [f"{name}={value}" for name, value in self._given.items()]
        serve = ["-m", "uvicorn", "tests.contrib.services.watched:app", "--port", str(self.port)]
        return ["/usr/bin/env", f"PYTHONPATH={ROOT}", *given, sys.executable, *serve]

    def wait(self) -> int:
        """Waits until the process has ended by itself, and returns its status."""
        assert self._process is not None
        return self._process.wait(timeout=60)

    def kill(self) -> None:
        """Ends the process at once."""
        self._end_process(signal.SIGKILL)

    def restart(self) -> None:
        """Starts the process again, on its port."""
        self._launch()

    def ask_for(self, path: str) -> Any:
        """Returns the answer to a GET, which must succeed."""
        response = httpx.get(self.url + path, trust_env=False, verify=False, timeout=60)
        response.raise_for_status()
        return response.json()
