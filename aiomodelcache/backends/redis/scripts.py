"""The Lua scripts, and the commands that run a script for many keys."""

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import chain

from aiomodelcache.backends.redis.connection import Command

ScriptArguments = tuple[bytes | int, ...]
"""The arguments of a script, beside its keys."""


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script, and the digest by which a server caches it."""

    text: str
    sha: str

    def commands(
        self,
        keys: Sequence[bytes],
        shared: ScriptArguments,
        per_key: Sequence[ScriptArguments],
        keys_per_command: int,
        *,
        inline: bool = False,
    ) -> list[Command]:
        """Returns the commands that run the script on keys.

        The arguments ``shared`` are the same for all keys. ``per_key`` holds the further arguments of each key. With
        ``inline``, the commands hold the text of the script, so that the server need not know it.
        """
        head = ("EVAL", self.text) if inline else ("EVALSHA", self.sha)
        starts = range(0, len(keys), keys_per_command)
        return [
            (*head, *self._rest(keys[at : at + keys_per_command], shared, per_key[at : at + keys_per_command]))
            for at in starts
        ]

    @staticmethod
    def _rest(keys: Sequence[bytes], shared: ScriptArguments, per_key: Sequence[ScriptArguments]) -> Command:
        return (len(keys), *keys, *shared, *chain(*per_key))


@functools.cache
def load_script(name: str) -> Script:
    """Loads one of the scripts in ``lua/``."""
    text = (files("aiomodelcache.backends.redis") / "lua" / f"{name}.lua").read_text("utf-8")
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())
