"""Figures of a run, and their form as JSON."""

import json
import os
import platform
import sys
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

VERSION = 1
_LIBRARIES = ("aiomodelcache", "redis", "hiredis", "tortoise-orm", "asyncpg", "aiosqlite", "cashews", "aiocache")


@dataclass(slots=True)
class PlaceResults:
    """Figures of one event loop and one database."""

    loop: str
    database: str
    seconds: dict[str, dict[str, list[float]]] = field(default_factory=dict[str, dict[str, list[float]]])
    """Case -> contestant -> seconds for one of the operations that the case counts, one sample per round."""
    cpu: dict[str, dict[str, list[float]]] = field(default_factory=dict[str, dict[str, list[float]]])
    """CPU time of this process in seconds, in the same form."""
    loads: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """Figures of concurrent requests. See the module ``loads``."""
    pages: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """Figures of pages of a server process. See the package ``asgi``."""
    sizes: dict[str, float] = field(default_factory=dict[str, float])
    """Bytes of one row. See the module ``sizes``."""
    memory: dict[str, dict[str, float]] = field(default_factory=dict[str, dict[str, float]])
    """Bytes that rows take in Redis and in the process. See the module ``memory``."""
    stampede: dict[str, float] = field(default_factory=dict[str, float])
    """Statements and seconds of a stampede. See the module ``stampede``."""
    growth: dict[str, float] = field(default_factory=dict[str, float])
    """Costs by width of rows and number of entries. See the module ``growth``."""

    def add(self, case: str, contestant: str, seconds: float, cpu: float) -> None:
        """Adds one sample."""
        self.seconds.setdefault(case, {}).setdefault(contestant, []).append(seconds)
        self.cpu.setdefault(case, {}).setdefault(contestant, []).append(cpu)


@dataclass(slots=True)
class Results:
    """Figures of one run in all its places."""

    mode: str
    machine: dict[str, Any] = field(default_factory=lambda: described_machine())
    places: list[PlaceResults] = field(default_factory=list[PlaceResults])
    contention: dict[str, list[tuple[float, float]]] = field(default_factory=dict[str, list[tuple[float, float]]])
    """Hit ratios by writes per second, the same in all places. See the module ``contention``."""
    version: int = VERSION

    def save(self, path: Path) -> None:
        """Writes the run as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", "utf-8")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads a file written by ``save``. Raises ``ValueError`` for a file of another version."""
        run = json.loads(path.read_text("utf-8"))
        if run.get("version") != VERSION:
            raise ValueError(f"{path} is of version {run.get('version')} of the benchmarks, not {VERSION}.")
        run["places"] = [PlaceResults(**place) for place in run["places"]]
        return cls(**run)


def described_machine() -> dict[str, Any]:
    """Returns the properties of the machine and the versions on which the figures depend."""
    return {
        "python": sys.version.split()[0],
        "system": platform.system(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "libraries": {name: _version(name) for name in _LIBRARIES},
    }


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "missing"
