"""Search for the servers' programs on this machine, without running them."""

import importlib.util
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path


class ServerMissing(Exception):
    """The program is not on this machine, or this user may not run it."""


def find_program(names: Sequence[str], *, folders: Sequence[str] = (), wheels: Sequence[str] = ()) -> Path:
    """Returns the first program found on PATH, else in ``folders``, else inside an installed wheel.

    ``folders`` may have wildcards, and the highest version of several matches wins. ``wheels`` are
    ``package/sub/folder``; the package is located, never imported. Raises ``ServerMissing``.
    """
    for name in names:
        if found := shutil.which(name):
            return Path(found)
    for folder in (*_expand(folders), *_inside(wheels)):
        for name in names:
            if os.access(folder / name, os.X_OK):
                return folder / name
    raise ServerMissing(f"no {' or '.join(names)} on PATH, nor in {', '.join((*folders, *wheels))}")


def _expand(patterns: Sequence[str]) -> Iterator[Path]:
    for pattern in patterns:
        yield from sorted(Path("/").glob(pattern.lstrip("/")), key=_version, reverse=True)


def _version(folder: Path) -> list[int]:
    return [int(part) for part in folder.parts if part.isdigit()]


def _inside(wheels: Sequence[str]) -> Iterator[Path]:
    for wheel in wheels:
        package, _, folder = wheel.partition("/")
        spec = importlib.util.find_spec(package)
        for location in (spec and spec.submodule_search_locations) or ():
            yield Path(location) / folder
