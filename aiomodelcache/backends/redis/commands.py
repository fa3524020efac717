"""Requests to a server: commands in stages, scripts by key, and what each reply means.

Must not know what a backend's operations are: see ``backend`` and ``saving``.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from typing import Final, NoReturn, cast

from redis.exceptions import NoScriptError

from aiomodelcache.backends.protocol import PartialFailure, ReplacedEntry
from aiomodelcache.backends.redis.clients import Endpoint
from aiomodelcache.backends.redis.cluster.slots import first_key
from aiomodelcache.backends.redis.connection import Command
from aiomodelcache.backends.redis.errors import (
    FAILURES,
    TooFewReplicasError,
    concerns_one_key,
    describe,
    unquoted_cause,
)
from aiomodelcache.backends.redis.replicas import ReplicaWait
from aiomodelcache.backends.redis.scripts import Script, ScriptArguments, load_script
from aiomodelcache.backends.replication import Unreplicated
from aiomodelcache.encoding.keys import STAMP_MARK
from aiomodelcache.encoding.layout import new_version
from aiomodelcache.exceptions import BackendError

STAMP_TTL_MS: Final = 30 * 86_400_000
"""Lifetime of a stamp in milliseconds. What remains of it shows the stamp's age, by the clock of its server."""


class RedisCommands:
    """The requests of one backend. Each is one round trip, or on a cluster one for each stage."""

    where: str
    _batch_size: int
    _endpoint: Endpoint | None
    _is_cluster: bool
    _keys_per_script: int
    _wait: ReplicaWait | None
    """The replicas that must have marks, or None."""

    def __init__(self) -> None:
        self._lease, self._fill, self._mark, self._clear = map(load_script, ("lease", "fill", "mark", "clear"))
        self._stamp, self._save, self._late, self._since = map(load_script, ("stamp", "save", "late", "since"))

    def _mark_commands(
        self, keys: Sequence[bytes], token: bytes, ttl_ms: int, allow: Mapping[bytes, int]
    ) -> list[Command]:
        return self._commands(self._mark, keys, [(allow.get(key, 0),) for key in keys], (token, ttl_ms))

    def _replaced_by_mark(self, keys: Sequence[bytes], replies: Sequence[object]) -> dict[bytes, ReplacedEntry]:
        errors = [reply for reply in replies if isinstance(reply, Exception)]
        # Those that replicas lack come last: ``Unreplicated`` says that the server has made every mark.
        self._raise_any(sorted(errors, key=lambda error: isinstance(error, TooFewReplicasError)))
        by_key = {key: cast("list[bytes]", reply) for key, reply in zip(keys, replies, strict=True) if is_list(reply)}
        return {key: ReplacedEntry(entry, int(until_ms)) for key, (entry, until_ms, _) in by_key.items()}

    def _new_versions(self, keys: Iterable[bytes]) -> list[bytes]:
        """Returns a new version for each key, with the identity of the server that holds the key."""
        endpoint = self._endpoint or self._raise_closed()
        return [new_version(endpoint.incarnation_of(key).current) for key in keys]

    async def _with_fresh_versions(
        self, keys: Sequence[bytes], read: Sequence[object], made: Sequence[bytes]
    ) -> list[bytes | None]:
        """Returns what ``version_commands`` have read, with fresh versions in place of other incarnations' ones.

        One that this backend has ``made`` was absent before, as where the database was swapped for an empty one.
        """
        endpoint = self._endpoint or self._raise_closed()
        versions = [as_bytes(reply) for reply in read[1::2]]
        doubtful = [
            key
            for key, version, own in zip(keys, versions, made, strict=True)
            if (incarnation := endpoint.incarnation_of(key)).is_stale_version(version)
            or (version == own and incarnation.current)
        ]
        if not doubtful:
            return versions
        try:
            await endpoint.check_identity(doubtful)
        except FAILURES as error:
            raise self._failure(error) from unquoted_cause(error)
        stale = {
            key: version
            for key, version in zip(keys, versions, strict=True)
            if endpoint.incarnation_of(key).is_stale_version(version)
        }
        renewals = list(zip(stale.values(), self._new_versions(stale), repeat(0)))
        renewed = dict(zip(stale, map(as_bytes, await self._run(self._lease, list(stale), renewals)), strict=True))
        return [renewed.get(key, version) for key, version in zip(keys, versions, strict=True)]

    async def _run(
        self, script: Script, keys: Sequence[bytes], arguments: Sequence[ScriptArguments], shared: ScriptArguments = ()
    ) -> list[object]:
        [replies] = await self._send_in_order(self._commands(script, keys, arguments, shared))
        return self._by_key(keys, replies)

    def _commands(
        self, script: Script, keys: Sequence[bytes], arguments: Sequence[ScriptArguments], shared: ScriptArguments = ()
    ) -> list[Command]:
        return script.commands(keys, shared, arguments, self._keys_per_script)

    def _by_key(self, keys: Sequence[bytes], replies: Sequence[object], *, partly: bool = False) -> list[object]:
        """Returns the replies of a script by key. Returns errors that concern one key, and raises others."""
        size = self._keys_per_script
        by_key: list[object] = []
        for at, reply in zip(range(0, len(keys), size), replies, strict=True):
            by_key += cast("list[object]", reply) if isinstance(reply, list) else [reply] * len(keys[at : at + size])
        if not (partly and self._is_cluster):
            self._raise_general(by_key)
        return by_key

    async def _send_in_order(
        self, *stages: Sequence[Command], partly: bool = False, wait: ReplicaWait | None = None
    ) -> list[list[object]]:
        """Runs the commands of each stage after those of all earlier stages.

        ``partly``: on a Cluster, errors of nodes stand in place of replies, and are not raised. ``wait``: for the
        replicas that must have the first stage.

        Scripts that are missing from the server's script cache are loaded and run again, and so are the later stages,
        which must therefore be idempotent. No other command is ever sent twice.
        """
        replies = await self._send_stages(stages, partly, wait)
        for number, stage in enumerate(stages):
            forgotten = [at for at, reply in enumerate(replies[number]) if isinstance(reply, NoScriptError)]
            if forgotten:
                endpoint = self._endpoint or self._raise_closed()
                try:
                    await self._load_scripts(endpoint)
                except FAILURES as error:
                    raise self._failure(error) from unquoted_cause(error)
                remaining = [[stage[at] for at in forgotten], *stages[number + 1 :]]
                again, *later = await self._send_stages(remaining, wait=None if number else wait)
                self._raise_any(reply for reply in again if isinstance(reply, NoScriptError))
                for at, reply in zip(forgotten, again, strict=True):
                    replies[number][at] = reply
                return [*replies[: number + 1], *later]
        return replies

    async def _send_stages(
        self, stages: Sequence[Sequence[Command]], partly: bool = False, wait: ReplicaWait | None = None
    ) -> list[list[object]]:
        if (self._endpoint or self._raise_closed()).is_cluster:
            # A pipeline goes to all nodes at once, so a later stage on one node could run before an earlier one on
            # another node.
            first = await self._send(stages[0], partly=partly, wait=wait)
            return [first, *[await self._send(stage, partly=partly) for stage in stages[1:]]]
        if len(stages) == 1:
            return [await self._send(stages[0], wait=wait)]
        replies = iter(await self._send([command for stage in stages for command in stage], wait=wait))
        return [[next(replies) for _ in stage] for stage in stages]

    async def _send(
        self,
        commands: Sequence[Command],
        *,
        read_only: bool = False,
        tracked: bool = False,
        partly: bool = False,
        wait: ReplicaWait | None = None,
    ) -> list[object]:
        """Sends commands in one pipeline. Returns errors that concern one key, and raises others.

        ``tracked``: as ``Endpoint.send`` takes it. ``partly``: on a Cluster, returns all errors.
        """
        endpoint = self._endpoint or self._raise_closed()
        if not commands:
            return []
        try:
            if wait is not None:
                replies = await endpoint.send_and_wait(commands, wait)
            else:
                replies = await endpoint.send(commands, read_only=read_only, tracked=tracked)
        except FAILURES as error:
            raise self._failure(error) from unquoted_cause(error)
        if not endpoint.is_cluster:
            self._raise_general(replies)
        elif not partly:
            self._raise_failed([first_key(command) for command in commands], replies)
        return replies

    def _raise_failed(self, keys: Sequence[bytes], replies: Sequence[object], result: object = None) -> None:
        """Raises ``PartialFailure`` if nodes of a Cluster have failed. ``replies``: those to a command for each key."""
        failed = self._failed(keys, replies) if self._is_cluster else None
        if failed:
            raise PartialFailure(failed, result)

    def _failed(self, keys: Sequence[bytes], replies: Sequence[object]) -> dict[bytes, str]:
        """Returns the keys that nodes of a Cluster have not served, and the reasons."""
        return {
            key: f"Redis at {self._node_of(key) or self.where} {describe(reply)}"
            for key, reply in zip(keys, replies, strict=True)
            if isinstance(reply, Exception) and not concerns_one_key(reply)
        }

    def _node_of(self, key: bytes) -> str:
        raise NotImplementedError

    async def _load_scripts(self, endpoint: Endpoint) -> None:
        scripts = self._lease, self._fill, self._mark, self._clear, self._stamp, self._save, self._late, self._since
        self._raise_any(await endpoint.load_scripts([script.text for script in scripts]))

    def _raise_closed(self) -> NoReturn:
        raise BackendError(f"The backend for Redis at {self.where} is closed: open it first.")

    def _raise_any(self, replies: Iterable[object]) -> None:
        for reply in replies:
            if isinstance(reply, Exception):
                raise self._failure(reply) from unquoted_cause(reply)

    def _raise_general(self, replies: Iterable[object]) -> None:
        for reply in replies:
            if isinstance(reply, Exception) and not concerns_one_key(reply):
                raise self._failure(reply) from unquoted_cause(reply)

    def _failure(self, error: Exception) -> BackendError:
        kind = Unreplicated if isinstance(error, TooFewReplicasError) else BackendError
        return kind(f"Redis at {self.where} {describe(error)}")


def version_commands(keys: Sequence[bytes], made: Sequence[bytes]) -> list[Command]:
    """Returns the commands that create absent versions and read all of them. Every second reply is a version.

    Stamps expire. Other versions do not.
    """
    commands: list[Command] = []
    for key, version in zip(keys, made, strict=True):
        expiry = ("PX", STAMP_TTL_MS) if STAMP_MARK in key else ()
        commands += ("SET", key, version, "NX", *expiry), ("GET", key)
    return commands


def is_list(reply: object) -> bool:
    """Returns True if a reply is a list of replies."""
    return isinstance(reply, list)


def as_bytes(reply: object) -> bytes | None:
    """Returns a reply if it is a value, else None."""
    return reply if isinstance(reply, bytes) else None
