"""What a run has measured, and its form as JSON."""

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
    """What was measured with one event loop on one database."""

    loop: str
    database: str
    seconds: dict[str, dict[str, list[float]]] = field(default_factory=dict[str, dict[str, list[float]]])
    """Case -> contestant -> seconds for one of what the case counts, one sample a round."""
    cpu: dict[str, dict[str, list[float]]] = field(default_factory=dict[str, dict[str, list[float]]])
    """The same in seconds of this process's CPU time."""
    loads: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """Many requests at a time: see ``loads``."""
    sizes: dict[str, float] = field(default_factory=dict[str, float])
    """Bytes for one row: see ``sizes``."""
    stampede: dict[str, float] = field(default_factory=dict[str, float])
    """See ``stampede``."""
    growth: dict[str, float] = field(default_factory=dict[str, float])
    """See ``growth``."""

    def add(self, case: str, contestant: str, seconds: float, cpu: float) -> None:
        """Notes one sample."""
        self.seconds.setdefault(case, {}).setdefault(contestant, []).append(seconds)
        self.cpu.setdefault(case, {}).setdefault(contestant, []).append(cpu)


@dataclass(slots=True)
class Results:
    """All that one run has measured."""

    mode: str
    machine: dict[str, Any] = field(default_factory=lambda: described_machine())
    places: list[PlaceResults] = field(default_factory=list[PlaceResults])
    version: int = VERSION

    def save(self, path: Path) -> None:
        """Writes the run as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", "utf-8")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads what ``save`` wrote. Raises ``ValueError`` for a file of another version."""
        read = json.loads(path.read_text("utf-8"))
        if read.get("version") != VERSION:
            raise ValueError(f"{path} is of version {read.get('version')} of the benchmarks, not {VERSION}.")
        read["places"] = [PlaceResults(**place) for place in read["places"]]
        return cls(**read)


def described_machine() -> dict[str, Any]:
    """What the figures depend on."""
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
