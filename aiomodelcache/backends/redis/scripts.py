"""The Lua scripts, and how one command runs a script for many keys."""

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import chain

from aiomodelcache.backends.redis.connection import Command

Arguments = tuple[bytes | int, ...]


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script and the name under which a server remembers it."""

    text: str
    sha: str

    def on(self, keys: Sequence[bytes], shared: Arguments, each: Sequence[Arguments], at_once: int) -> list[Command]:
        """Returns the commands that run the script on keys: with the arguments ``shared`` by all, then each's own."""
        starts = range(0, len(keys), at_once)
        return [self._on(keys[at : at + at_once], shared, each[at : at + at_once]) for at in starts]

    def _on(self, keys: Sequence[bytes], shared: Arguments, each: Sequence[Arguments]) -> Command:
        return ("EVALSHA", self.sha, len(keys), *keys, *shared, *chain(*each))


@functools.cache
def load_script(name: str) -> Script:
    """Reads one of the scripts beside this module."""
    text = (files("aiomodelcache.backends.redis") / "lua" / f"{name}.lua").read_text("utf-8")
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())
