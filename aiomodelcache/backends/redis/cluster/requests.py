"""Requests to several nodes at once: split by node, redirected, and put together again.

A command that a node redirects (MOVED, ASK) or refuses for now (TRYAGAIN, CLUSTERDOWN, NOSCRIPT) did not run, so it is
sent again. No other command is ever sent twice. Must not know what commands mean, beyond their keys.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Final, cast

from redis.exceptions import AskError, ClusterDownError, ConnectionError, MovedError, NoScriptError, TryAgainError

from aiomodelcache.backends.redis.cluster.node import Node
from aiomodelcache.backends.redis.cluster.slots import first_key, slot_of
from aiomodelcache.backends.redis.cluster.tasks import ClusterTasks
from aiomodelcache.backends.redis.cluster.topology import Topology
from aiomodelcache.backends.redis.connection import Command, Replies, ReplyCallback, pack_commands
from aiomodelcache.backends.redis.errors import FAILURES
from aiomodelcache.backends.redis.replicas import ReplicaWait

COMMANDS_PER_TURN: Final = 1_000
"""Maximum number of commands that are sent in one turn of the event loop. Beyond it, other tasks run in between."""
MAX_ROUNDS: Final = 16
"""Maximum number of times that a command is sent again. Beyond it, the last refusal is its reply."""
MOVES_AT_ONCE: Final = 3
"""Number of redirections that a command follows without a delay. Beyond it, the nodes do not agree yet."""
FIRST_DELAY: Final = 0.005
"""Seconds before a command that was refused for now is sent again. Doubled each time, until ``timeout`` is over."""
_NOT_RUN: Final = (MovedError, AskError, TryAgainError, ClusterDownError, NoScriptError)
"""The replies to commands that did not run."""
_ASKING: Final = pack_commands([("ASKING",)])


class ClusterRequest:
    """Commands to several nodes, and their replies in the same order."""

    __slots__ = (
        "commands",
        "nodes",
        "on_done",
        "pending",
        "reading",
        "refused",
        "repeated",
        "replies",
        "tracked",
        "wait",
    )

    def __init__(
        self,
        commands: Sequence[Command],
        on_done: "Callable[[ClusterRequest], None]",
        *,
        reading: bool = False,
        wait: ReplicaWait | None = None,
        tracked: bool = False,
    ) -> None:
        self.commands = commands
        self.nodes: list[Node | None] = []
        """The node that each command was sent to last."""
        self.replies: Replies = [None] * len(commands)
        """Values and errors. A command that was not answered has the exception of the connection."""
        self.reading = reading
        """True for reads. Versions that another incarnation of the node has made are None in the replies then."""
        self.wait = wait
        """The replicas that must have the commands, or None."""
        self.tracked = tracked
        """True for reads whose keys the nodes track."""
        self.refused: list[int] = []
        """The positions of the commands that were not run."""
        self.repeated = False
        """True if commands that were not run are sent again."""
        self.pending = 0
        """The number of nodes that have not answered."""
        self.on_done = on_done


class ClusterRequests:
    """Requests to the nodes of one Cluster."""

    def __init__(self, topology: Topology, timeout: float, tasks: ClusterTasks) -> None:
        self.scripts: Sequence[str] = ()
        """The scripts that are loaded into a node that lacks one of them."""
        self._topology = topology
        self._timeout = timeout
        self._tasks = tasks

    async def send(
        self, commands: Sequence[Command], *, reading: bool = False, wait: ReplicaWait | None = None
    ) -> Replies:
        """Sends commands in one request to each node. Returns the replies in order, exceptions among them.

        More than ``COMMANDS_PER_TURN`` go in several requests, of which none waits for the replies to another.
        """
        loop, sent = asyncio.get_running_loop(), list[tuple[ClusterRequest, asyncio.Future[None]]]()
        for at in range(0, len(commands), COMMANDS_PER_TURN):
            if at:
                await asyncio.sleep(0)
            some, done = commands[at : at + COMMANDS_PER_TURN], loop.create_future()
            request = ClusterRequest(some, partial(_resolve, done), reading=reading, wait=wait)
            self.start(request, [slot_of(first_key(command)) for command in some])
            sent.append((request, done))
        replies: Replies = []
        for request, done in sent:
            await done
            replies += request.replies
        return replies

    def start(self, request: ClusterRequest, slots: Sequence[int]) -> None:
        """Sends a request at once to every node, and calls ``request.on_done`` when all have answered.

        ``slots``: those of the commands. If a node is unknown or failing, the topology is read first.
        """
        by_slot = self._topology.slots
        request.nodes = [by_slot[slot] for slot in slots]
        for node in request.nodes:
            if node is None or node.failing:
                self._topology.when_read(partial(self._start_located, request, slots))
                return
        self._send(request, range(len(slots)))

    def resume(self, request: ClusterRequest, node: Node, replies: Replies | Exception) -> None:
        """Goes on with a request whose commands one node has answered."""
        request.nodes = [node for _ in request.commands]
        request.pending = 1
        self._on_replies(request, node, list(range(len(request.commands))), (), replies)

    def _start_located(self, request: ClusterRequest, slots: Sequence[int]) -> None:
        """Sends a request as far as its nodes are known now."""
        by_slot = self._topology.slots
        request.nodes = [by_slot[slot] for slot in slots]
        request.replies = [self._topology.failure(node) for node in request.nodes]
        located = [at for at, failure in enumerate(request.replies) if failure is None]
        if located:
            self._send(request, located)
        else:
            request.on_done(request)

    def _send(self, request: ClusterRequest, positions: Iterable[int], asked: Collection[int] = ()) -> None:
        """Sends the commands at these positions, those in ``asked`` after ASKING."""
        groups: dict[Node, list[int]] = {}
        for at in positions:
            groups.setdefault(cast("Node", request.nodes[at]), []).append(at)
        request.pending = len(groups)
        for node, group in groups.items():
            connection = node.tracking if request.tracked else node.reading if request.reading else node.writing
            packed, count = pack_commands([request.commands[at] for at in group]), len(group)
            if asked:
                packed = b"".join([_ASKING * (at in asked) + pack_commands([request.commands[at]]) for at in group])
                count += sum(at in asked for at in group)
            if request.wait is not None:
                packed, count = packed + pack_commands([node.replication.command(request.wait)]), count + 1
            on_replies = partial(self._on_replies, request, node, group, asked)
            if not connection.start(packed, count, on_replies):
                self._tasks.start(connection.send(packed, count)).add_done_callback(partial(_on_sent, on_replies))

    def _on_replies(
        self,
        request: ClusterRequest,
        node: Node,
        group: list[int],
        asked: Collection[int],
        replies: Replies | Exception,
    ) -> None:
        if isinstance(replies, Exception):
            node.failing = True
            self._topology.refresh_soon()
            replies = [replies] * len(group)
        else:
            node.failing = False
            if asked:
                replies = _without_asking(group, asked, replies)
            if request.wait is not None:
                replies = node.replication.judge(request.wait, replies)
            if request.reading:
                replies = node.incarnation.mask_replies(replies)
        for at, reply in zip(group, replies, strict=True):
            request.replies[at] = reply
            if isinstance(reply, _NOT_RUN):
                request.refused.append(at)
        request.pending -= 1
        if not request.pending:
            if request.refused and not request.repeated:
                request.repeated = True
                on_done = partial(_call, request.on_done, request)
                self._tasks.start(self._repeat(request)).add_done_callback(on_done)
            else:
                request.on_done(request)

    async def _repeat(self, request: ClusterRequest) -> None:
        """Sends the commands that were not run until they are, for a limited number of times."""
        until, delay = time.monotonic() + self._timeout, FIRST_DELAY
        asked: set[int] = set()
        for number in range(MAX_ROUNDS):
            refused, request.refused = request.refused, []
            waits = number >= MOVES_AT_ONCE or any(
                isinstance(request.replies[at], TryAgainError | ClusterDownError) for at in refused
            )
            failed = await self._load_scripts(request, refused)
            again: list[int] = []
            for at in refused:
                try:
                    again += [at] * await self._redirect(request, at, asked, failed)
                except FAILURES as error:
                    request.replies[at] = error
            if not again or (waits and time.monotonic() + delay > until):
                return
            if waits:
                await asyncio.sleep(delay)
                delay *= 2
            over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            request.on_done = partial(_resolve, over)
            self._send(request, again, asked)
            await over

    async def _redirect(
        self, request: ClusterRequest, at: int, asked: set[int], failed: Mapping[Node, Exception | None]
    ) -> bool:
        """Finds the node for a command that was not run. Returns False if the command has its final reply.

        ``failed``: the errors of nodes that scripts were loaded into.
        """
        command, node, reply = request.commands[at], cast("Node", request.nodes[at]), request.replies[at]
        if isinstance(reply, NoScriptError):
            request.replies[at] = failed[node] or reply
            return failed[node] is None
        asked.discard(at)
        if isinstance(reply, MovedError):
            request.nodes[at] = self._topology.move(reply, node)
        elif isinstance(reply, ClusterDownError):
            self._topology.refresh_soon()
            request.nodes[at] = self._topology.slots[slot_of(first_key(command))] or node
        elif command[0] == "MGET":  # the keys of a slot that moves may be on either node
            keys = cast("Sequence[bytes]", command[1:])
            request.replies[at] = await self.send([("GET", key) for key in keys], reading=True)
            return False
        elif isinstance(reply, AskError):
            request.nodes[at] = self._topology.node_in(reply, node)
            asked.add(at)
        return True

    async def _load_scripts(self, request: ClusterRequest, refused: Iterable[int]) -> dict[Node, Exception | None]:
        """Loads the scripts once into each node that lacks one. Returns each node's error, or None."""
        lacking = [cast("Node", request.nodes[at]) for at in refused if isinstance(request.replies[at], NoScriptError)]
        nodes = dict.fromkeys(lacking)
        return dict(zip(nodes, await asyncio.gather(*map(self._load_scripts_into, nodes)), strict=True))

    async def _load_scripts_into(self, node: Node) -> Exception | None:
        try:
            replies = await node.send([("SCRIPT", "LOAD", text) for text in self.scripts])
        except FAILURES as error:
            return error
        return next((reply for reply in replies if isinstance(reply, Exception)), None)


def _on_sent(on_replies: ReplyCallback, sending: "asyncio.Task[Replies]") -> None:
    if sending.cancelled():
        on_replies(ConnectionError("Connection closed."))
    else:
        error = sending.exception()
        on_replies(error if isinstance(error, Exception) else sending.result())


def _without_asking(group: Sequence[int], asked: Collection[int], replies: Replies) -> Replies:
    """Returns the replies without those to ASKING. An error of ASKING stands in place of the command's reply."""
    found: Replies = []
    rest = iter(replies)
    for at in group:
        reply = next(rest)
        if at in asked:
            own = next(rest)
            reply = reply if isinstance(reply, Exception) else own
        found.append(reply)
    return [*found, *rest]  # the rest is the reply to WAIT, if it was sent


def _resolve(future: "asyncio.Future[None]", _: ClusterRequest) -> None:
    if not future.done():  # the caller may have been cancelled
        future.set_result(None)


def _call(on_done: Callable[[ClusterRequest], None], request: ClusterRequest, _: object) -> None:
    on_done(request)
