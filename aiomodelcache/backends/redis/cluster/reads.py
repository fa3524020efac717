"""Reads of keys on any nodes: an MGET for the keys of each partition, all of one node in one request.

Written out, because each hit on a Cluster takes this path, and a batch has hundreds of keys. Redirections, failing
nodes and connections yet to be made are left to ``requests``. Must not know what keys mean, beyond their hash tags.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping, Sequence
from functools import partial
from itertools import chain, compress
from operator import itemgetter
from typing import Any, Final

from aiomodelcache.backends.redis.cluster.node import Node
from aiomodelcache.backends.redis.cluster.requests import ClusterRequest, ClusterRequests
from aiomodelcache.backends.redis.cluster.slots import slot_of
from aiomodelcache.backends.redis.cluster.topology import Topology
from aiomodelcache.backends.redis.connection import Command, Replies, pack
from aiomodelcache.encoding.partitions import TAG_SIZE

OnRead = Callable[[Replies, bool], None]
"""A callback for the values of a read, and True if there may be exceptions in place of some."""
Groups = list[Sequence[bytes]]
"""Keys, those of each hash slot together."""
KNOWN_TAGS: Final = 1 << 16
"""Maximum number of hash tags whose slots are remembered. Beyond it, all are computed again."""

_LISTS: Final = {list}
_END: Final = TAG_SIZE - 1
_first: Final[Callable[[Any], Any]] = itemgetter(0)


class ClusterRead:
    """The values of one read that were found so far, and what waits for them."""

    __slots__ = ("_callback", "_failed", "_pending", "_values")

    def __init__(self, callback: OnRead, nodes: int) -> None:
        self._callback = callback
        self._values: list[Replies] = [[]] * nodes
        self._pending = nodes
        """The number of nodes that have not answered."""
        self._failed = False
        """True if there may be exceptions in place of values."""

    def end(self, number: int, values: Replies, *, failed: bool = False) -> None:
        """Takes the values of the keys of one node. Calls the callback with those of all nodes after the last one."""
        self._values[number] = values
        self._pending -= 1
        self._failed |= failed
        if not self._pending:
            found = self._values
            self._callback(found[0] if len(found) == 1 else list(chain.from_iterable(found)), self._failed)


class ArrangedKeys(list[bytes]):
    """Keys in the order in which they are read: those of a node, and of them those of a hash slot, together."""

    __slots__ = ("nodes", "partnered")

    def __init__(self, nodes: Mapping[Node | None, Groups], partnered: Mapping[Node | None, int]) -> None:
        super().__init__(chain.from_iterable(chain.from_iterable(nodes.values())))
        self.nodes = nodes
        self.partnered = partnered
        """The number of a node's first groups that begin with the partner of all others, the shortest groups first."""


class ClusterReads:
    """The reads of one Cluster."""

    def __init__(self, topology: Topology, requests: ClusterRequests) -> None:
        self._topology = topology
        self._requests = requests
        self._slots: dict[bytes, int] = {}
        """The slots of hash tags, braces included."""
        self._slots_of_partners, self._heads = _Slots(), _Heads()

    def start(self, keys: Sequence[bytes], callback: OnRead) -> None:
        """Reads keys in one request to each node, and calls ``callback`` when all have answered."""
        nodes: Mapping[Node | None, Groups]
        partnered: Mapping[Node | None, int] = {}
        if isinstance(keys, ArrangedKeys):
            nodes, partnered = keys.nodes, keys.partnered
        else:
            nodes = self._locate(keys, {})
            groups = list(chain.from_iterable(nodes.values()))
            if len(groups) > 1:
                callback = partial(_in_order, keys, list(chain.from_iterable(groups)), callback)
        read = ClusterRead(callback, len(nodes))
        for number, (node, group) in enumerate(nodes.items()):
            if node is None or node.failing or not self._send(read, number, node, group, partnered.get(node, 0)):
                self._requests.start(_request(read, number, group), [slot_of(each[0]) for each in group])

    def _send(self, read: ClusterRead, number: int, node: Node, groups: Groups, partnered: int) -> bool:
        """Sends a node its request at once. Returns False if that takes more."""
        start = node.reading.start if len(groups) == 1 else node.reading.start_many
        callback = partial(self._on_replies, read, number, node, groups, partnered)
        return start(_packed(groups, self._heads, partnered), len(groups), callback)

    def arrange(self, keys: Mapping[bytes, bytes | None]) -> ArrangedKeys:
        """Returns the keys in the order in which they are read (see ``RedisBackend.arrange``).

        To be given the partners of keys costs less than to search the keys for their tags.
        """
        others = list(keys.values())
        partners, entries = list(filter(None, others)), list(compress(keys, others))
        distinct: Collection[bytes] = partners
        groups: Iterable[Sequence[bytes]] = zip(partners, entries, strict=True)
        if len(set(partners)) < len(partners):
            by_partner: dict[bytes, list[bytes]] = {}
            for partner, entry in groups:
                if partner in by_partner:
                    by_partner[partner].append(entry)
                else:
                    by_partner[partner] = [partner, entry]
            groups = sorted(by_partner.values(), key=len)
            distinct = list(map(_first, groups))
        located = map(self._topology.slots.__getitem__, map(self._slots_of_partners.__getitem__, distinct))
        nodes: defaultdict[Node | None, Groups] = defaultdict(list)
        for group, node in zip(groups, located, strict=True):
            nodes[node].append(group)
        partnered = {node: len(groups) for node, groups in nodes.items()}
        if len(keys) > len(entries) + len(distinct):
            self._locate(keys.keys() - {*entries, *distinct}, nodes)
        return ArrangedKeys(nodes, partnered)

    def _locate(
        self, keys: Iterable[bytes], nodes: MutableMapping[Node | None, Groups]
    ) -> Mapping[Node | None, Groups]:
        """Adds keys to those of each node, those of one hash slot together. Returns ``nodes``."""
        slots, by_slot = self._slots, self._topology.slots
        groups: dict[bytes | int, list[bytes]] = {}
        for key in keys:
            at = key.find(b"{")
            tag = key[at : at + TAG_SIZE]
            group = groups.get(tag)
            if group is not None:
                group.append(key)
                continue
            name: bytes | int = tag
            slot = slots.get(tag)
            if slot is None:
                slot = slot_of(key)
                if tag[:1] == b"{" and tag.find(b"}") == _END:
                    if len(slots) >= KNOWN_TAGS:
                        slots.clear()
                    slots[tag] = slot
                else:  # another tag, or none
                    name = slot
                    if slot in groups:
                        groups[slot].append(key)
                        continue
            groups[name] = group = [key]
            node = by_slot[slot]
            if node in nodes:
                nodes[node].append(group)
            else:
                nodes[node] = [group]
        return nodes

    def _on_replies(
        self, read: ClusterRead, number: int, node: Node, groups: Groups, partnered: int, replies: Replies | Exception
    ) -> None:
        if isinstance(replies, list) and set(map(type, replies)) == _LISTS:
            values = list(chain.from_iterable(replies))
            # Of keys with a partner, only the partner holds a version.
            if partnered < len(groups) or not node.incarnation.has_made(map(_first, replies)):
                values = node.incarnation.mask_stale_versions(values)
            read.end(number, values)
        else:
            self._requests.resume(_request(read, number, groups), node, replies)


def _request(read: ClusterRead, number: int, groups: Groups) -> ClusterRequest:
    """Returns the request for the keys of one node that takes more than to send it."""
    commands: list[Command] = [("MGET", *group) for group in groups]
    return ClusterRequest(commands, partial(_on_done, read, number, groups), reading=True)


def _on_done(read: ClusterRead, number: int, groups: Groups, request: ClusterRequest) -> None:
    values: Replies = []
    for group, reply in zip(groups, request.replies, strict=True):
        values += [reply] * len(group) if isinstance(reply, Exception) else reply
    read.end(number, values, failed=True)


def _in_order(
    keys: Sequence[bytes], found_keys: Sequence[bytes], callback: OnRead, values: Replies, failed: bool
) -> None:
    """Passes on values in the order of ``keys``."""
    found = dict(zip(found_keys, values, strict=True))
    callback(list(map(found.__getitem__, keys)), failed)


class _Slots(dict[bytes, int]):
    """The slots of the partners of other keys."""

    def __missing__(self, key: bytes) -> int:
        if len(self) >= KNOWN_TAGS:
            self.clear()
        slot = self[key] = slot_of(key)
        return slot


class _Heads(dict[bytes, bytes]):
    """The beginnings of MGETs of two keys, of which the first one is a partner, after the end of another command."""

    def __missing__(self, key: bytes) -> bytes:
        if len(self) >= KNOWN_TAGS:
            self.clear()
        head = self[key] = _HEADS[2] + b"\r\n$%d\r\n" % len(key) + key
        return head


_HEADS: Final = [b"\r\n*%d\r\n$4\r\nMGET" % (number + 1) for number in range(64)]
"""The beginning of an MGET by its number of keys, after the end of the command before it."""
_LENGTHS: Final = [b"\r\n$%d\r\n" % length for length in range(512)]
"""The bytes between two arguments, by the length of the second one."""


def _packed(groups: Sequence[Sequence[bytes]], partner_heads: Mapping[bytes, bytes], partnered: int) -> bytes:
    """Returns the bytes of an MGET for each group, as ``connection.pack`` does at several times the cost."""
    heads, lengths = _HEADS, _LENGTHS
    pairs = bisect_right(groups, 2, hi=partnered, key=len)
    parts: list[bytes] = []
    try:
        for partner, key in groups[:pairs]:
            parts += (partner_heads[partner], lengths[len(key)], key)
        for group in groups[pairs:]:
            parts.append(heads[len(group)])
            for key in group:
                parts += (lengths[len(key)], key)
    except IndexError:  # a long key, or many
        return pack([("MGET", *group) for group in groups])
    return b"".join(parts)[2:] + b"\r\n"
