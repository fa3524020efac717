"""The configuration of the command line: ``[tool.aiomodelcache]`` in ``pyproject.toml``, the environment, and options.

An option takes precedence over the environment, which takes precedence over the file. Must not know commands.
"""

import importlib
import os
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from aiomodelcache.config import CacheConfig
from aiomodelcache.encoding.messages import described
from aiomodelcache.inspection.errors import CommandError

FILE: Final = "pyproject.toml"
TABLE: Final = "tool.aiomodelcache"
SETTING_NAMES: Final = ("tortoise", "url", "namespace", "imports", "config")
VARIABLE: Final = "AIOMODELCACHE_"
"""The beginning of the names of environment variables: ``AIOMODELCACHE_URL`` for the key ``url``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandSettings:
    """The settings of one run of a command.

    ``tortoise``: the path of Tortoise's configuration, a dict or a function that returns one. ``imports``: modules that
    declare cached functions and cache classes. ``config``: the path of a ``CacheConfig``. A path is like
    ``app.settings.TORTOISE_ORM``.
    """

    tortoise: str | None = None
    url: str | None = None
    namespace: str = ""
    imports: tuple[str, ...] = ()
    config: str | None = None
    folder: Path = Path()
    """The folder of the file, or the current one if there is no file."""

    def tortoise_config(self) -> dict[str, Any]:
        """Returns Tortoise's configuration. Raises ``CommandError`` if it is missing or cannot be imported."""
        if self.tortoise is None:
            raise CommandError(f"Where is Tortoise's configuration? {remedy('tortoise', 'app.settings.TORTOISE_ORM')}")
        found = import_path("tortoise", self.tortoise)
        if callable(found):
            found = found()
        if not isinstance(found, dict):
            raise CommandError(
                f"tortoise is {self.tortoise}, which is {described(found)}: it must lead to the dict that "
                "Tortoise.init takes as its config."
            )
        return cast("dict[str, Any]", found)

    def store_url(self) -> str:
        """Returns the URL of the store. Raises ``CommandError`` if it is missing, or is in no server."""
        if self.url is None:
            raise CommandError(f"Which Redis is it? {remedy('url', 'redis://localhost:6379/0')}")
        if self.url.startswith("memory://"):
            raise CommandError("url is memory://, a store inside of the application's process: use the URL of a Redis.")
        return self.url

    def cache_config(self) -> CacheConfig:
        """Returns the application's ``CacheConfig``, or the default one. Raises ``CommandError``."""
        if self.config is None:
            return CacheConfig()
        found = import_path("config", self.config)
        if not isinstance(found, CacheConfig):
            raise CommandError(f"config is {self.config}, which is {described(found)}: it must lead to a CacheConfig.")
        return found

    def import_modules(self) -> None:
        """Imports the modules of ``imports``. Raises ``CommandError`` for one that cannot be imported."""
        for name in self.imports:
            _import_module("imports", name)


def remedy(key: str, example: str) -> str:
    """Returns where to set a setting."""
    option = {"imports": "import"}.get(key, key)
    return f'Set {key} = "{example}" in [{TABLE}] of {FILE}, set {VARIABLE}{key.upper()}, or pass --{option}.'


def read_settings(options: Mapping[str, Any], folder: Path | None = None) -> CommandSettings:
    """Returns the settings of a run. ``options`` holds what the command line says, with None for what it does not.

    ``folder``: the folder whose file is read, or the next one above it that has one. By default the current folder.
    Modules are imported from it, too. Raises ``CommandError``.
    """
    here = (folder or Path.cwd()).resolve()
    file = next((each / FILE for each in (here, *here.parents) if (each / FILE).is_file()), None)
    start = file.parent if file else here
    for place in dict.fromkeys([str(start), str(here)]):
        if place not in sys.path:
            sys.path.insert(0, place)
    values = _of_file(file) | _of_environment() | {name: value for name, value in options.items() if value}
    return CommandSettings(**values, folder=start)


def _of_file(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        table = tomllib.loads(file.read_text("utf-8")).get("tool", {}).get("aiomodelcache", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CommandError(f"{file} cannot be read: {error}.") from error
    for name, value in cast("dict[str, Any]", table).items():
        if name not in SETTING_NAMES:
            raise CommandError(f"[{TABLE}] of {file} has no key {name!r}. Its keys: {', '.join(SETTING_NAMES)}.")
        kind = list if name == "imports" else str
        items = cast("list[object]", value) if name == "imports" and isinstance(value, list) else []
        if not isinstance(value, kind) or not all(isinstance(item, str) for item in items):
            noun = "a list of strings" if name == "imports" else "a string"
            shown = described(cast("object", value))
            raise CommandError(f"[{TABLE}] of {file}: {name} is {shown}: it must be {noun}.")
    return {name: tuple(value) if name == "imports" else value for name, value in table.items()}


def _of_environment() -> dict[str, Any]:
    found: dict[str, Any] = {name: os.environ.get(VARIABLE + name.upper()) for name in SETTING_NAMES}
    if found["imports"]:
        found["imports"] = tuple(name.strip() for name in found["imports"].split(",") if name.strip())
    return {name: value for name, value in found.items() if value}


def import_path(key: str, path: str) -> Any:
    """Returns the object at a path like ``app.settings.NAME`` or ``app.settings:NAME``. Raises ``CommandError``."""
    module, _, names = path.partition(":")
    if not names:
        module, _, names = path.rpartition(".")
    if not module:
        raise CommandError(f"{key} is {path!r}: it must name a module and an attribute, like app.settings.NAME.")
    found: Any = _import_module(key, module)
    for name in names.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise CommandError(f"{key} is {path}: {module} has no {name}.") from None
    return found


def _import_module(key: str, name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing: Sequence[str] = name.split(".")
        if error.name is not None and ".".join(missing[: error.name.count(".") + 1]) == error.name:
            raise CommandError(
                f"{key} names the module {name}, which cannot be found from {Path.cwd()}: run the command in the "
                "folder of the application, or correct the name."
            ) from error
        raise
