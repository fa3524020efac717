"""Reads of keys on any nodes: an MGET for the keys of each partition, all of one node in one request.

Written out, because each hit on a Cluster takes this path, and a batch has hundreds of keys. Redirections, failing
nodes and connections yet to be made are left to ``requests``. Must not know what keys mean, beyond their hash tags.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from operator import itemgetter
from typing import Any, Final, Self, cast

from aiomodelcache.backends.redis.cluster.node import Node
from aiomodelcache.backends.redis.cluster.requests import ClusterRequest, ClusterRequests
from aiomodelcache.backends.redis.cluster.slots import slot_of
from aiomodelcache.backends.redis.cluster.topology import Topology
from aiomodelcache.backends.redis.connection import Command, Replies, pack_commands
from aiomodelcache.encoding.partitions import TAG_SIZE
from aiomodelcache.encoding.together import ArrangedPairs, KeyPairs

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
            found, *others = self._values
            for values in others:
                found += values
            self._callback(found, self._failed)


class PairedGroups(list[Sequence[bytes]]):
    """The keys of one node: those that are read in twos, and the groups of all others."""

    __slots__ = ("pairs", "partnered")

    def __init__(self) -> None:
        super().__init__()
        self.pairs: list[bytes] = []
        """Partners, and after each one the only key with this partner."""
        self.partnered = 0
        """The number of the first groups that begin with the partner of all others."""

    def all(self) -> Groups:
        """Returns the groups of all keys, in the order in which they are read."""
        return [*zip(self.pairs[::2], self.pairs[1::2], strict=True), *self]


class ArrangedKeys(list[bytes]):
    """Keys in the order in which they are read: those of a node, and of them those of a hash slot, together."""

    __slots__ = ("nodes",)

    def __init__(self, nodes: Mapping[Node | None, PairedGroups]) -> None:
        super().__init__()
        self.nodes = nodes
        for groups in nodes.values():
            self += groups.pairs
            self += chain.from_iterable(groups)


class ClusterReads:
    """The reads of one Cluster."""

    def __init__(self, topology: Topology, requests: ClusterRequests) -> None:
        self._topology = topology
        self._requests = requests
        self._slots: dict[bytes, int] = {}
        """The slots of hash tags, braces included."""
        self._heads = _Heads()
        self._nodes_of_partners = _Nodes(topology)

    def start(self, keys: Sequence[bytes], callback: OnRead) -> None:
        """Reads keys in one request to each node, and calls ``callback`` when all have answered."""
        nodes: Mapping[Node | None, Groups]
        if isinstance(keys, ArrangedKeys | ArrangedPairs):
            nodes = keys.nodes
        else:
            nodes = self._locate(keys)
            groups = list(chain.from_iterable(nodes.values()))
            if len(groups) > 1:
                callback = partial(_in_order, keys, list(chain.from_iterable(groups)), callback)
        read = ClusterRead(callback, len(nodes))
        for number, (node, group) in enumerate(nodes.items()):
            if node is None or node.failing or not self._send(read, number, node, group):
                group = _all_groups(group)
                self._requests.start(_request(read, number, group), [slot_of(each[0]) for each in group])

    def _send(self, read: ClusterRead, number: int, node: Node, groups: Groups) -> bool:
        """Sends a node its request at once. Returns False if that takes more."""
        count = len(groups)
        if type(groups) is PairedGroups:
            count += len(groups.pairs) // 2
        start = node.reading.start if count == 1 else node.reading.start_many
        return start(_packed(groups, self._heads), count, partial(self._on_replies, read, number, node, groups))

    def arrange(self, keys: Mapping[bytes, bytes | None] | KeyPairs) -> ArrangedKeys | ArrangedPairs:
        """Returns the keys in the order in which they are read (see ``RedisBackend.arrange``).

        To be given the partners of keys costs less than to search the keys for their tags.
        """
        if isinstance(keys, KeyPairs):
            return self._arrange_pairs(keys)
        partners = list(keys.values())
        pairs: dict[Any, bytes] = dict(zip(partners, keys, strict=True))  # of several keys, the last one
        pairs.pop(None, None)
        entries = len(partners) - partners.count(None)
        shared: dict[bytes, list[bytes]] = {}
        if len(pairs) < entries:
            for key, partner in keys.items():
                if partner is not None and (last := pairs[partner]) is not key:
                    shared.setdefault(partner, [partner, last]).append(key)
            for partner in shared:
                del pairs[partner]
        node_of = self._nodes_of_partners.known()
        nodes: defaultdict[Node | None, PairedGroups] = defaultdict(PairedGroups)
        for pair, node in zip(pairs.items(), map(node_of.__getitem__, pairs), strict=True):
            nodes[node].pairs += pair
        for partner, group in shared.items():
            groups = nodes[node_of[partner]]
            groups.append(group)
            groups.partnered += 1
        if len(keys) > entries + len(pairs) + len(shared):
            others = [key for key, partner in keys.items() if not (partner or key in pairs or key in shared)]
            for node, located in self._locate(others).items():
                nodes[node] += located
        return ArrangedKeys(nodes)

    def _arrange_pairs(self, pairs: KeyPairs) -> ArrangedPairs:
        node_of = self._nodes_of_partners.known()
        positions: defaultdict[Node | None, list[int]] = defaultdict(list)
        for at, node in enumerate(map(node_of.__getitem__, pairs.partners)):
            positions[node].append(at)
        nodes: dict[Node | None, PairedGroups] = {}
        keys: list[bytes] = []
        for node, places in positions.items():
            groups = nodes[node] = PairedGroups()
            groups.pairs = [b""] * (2 * len(places))
            groups.pairs[::2] = [pairs.partners[at] for at in places]
            groups.pairs[1::2] = [pairs.keys[at] for at in places]
            keys += groups.pairs
        return ArrangedPairs(pairs, list(chain.from_iterable(positions.values())), nodes, keys)

    def _locate(self, keys: Iterable[bytes]) -> Mapping[Node | None, Groups]:
        """Returns the keys of each node, those of one hash slot together."""
        nodes: dict[Node | None, Groups] = {}
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
        self, read: ClusterRead, number: int, node: Node, groups: Groups, replies: Replies | Exception
    ) -> None:
        if type(groups) is PairedGroups and groups.partnered == len(groups):
            values = _current_values(groups, node, replies)
            if values is not None:
                return read.end(number, values)
        if isinstance(replies, list) and set(map(type, replies)) == _LISTS:
            values = list(chain.from_iterable(replies))
            read.end(number, node.incarnation.mask_stale_versions(values))
        else:
            self._requests.resume(_request(read, number, _all_groups(groups)), node, replies)


def _current_values(groups: PairedGroups, node: Node, replies: Replies | Exception) -> Replies | None:
    """Returns the values of keys with partners, or None if a partner is no version of the node's incarnation.

    Only partners hold versions.
    """
    size = len(groups.pairs)
    try:
        values = list(chain.from_iterable(cast("Replies", replies)))
        versions = values[:size:2]
        if groups:
            versions += map(_first, cast("Replies", replies)[size // 2 :])
    except (TypeError, IndexError):  # an exception in place of a reply
        return None
    return values if node.incarnation.has_made(versions) else None


def _all_groups(groups: Groups) -> Groups:
    return groups.all() if type(groups) is PairedGroups else groups


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


class _Nodes(dict[bytes, Node | None]):
    """The nodes of the partners of other keys."""

    def __init__(self, topology: Topology) -> None:
        super().__init__()
        self._topology = topology
        self._changes = 0

    def known(self) -> Self:
        """Returns the nodes, without those of an earlier topology."""
        if self._changes != self._topology.changes or len(self) > KNOWN_TAGS:
            self._changes = self._topology.changes
            self.clear()
        return self

    def __missing__(self, key: bytes) -> Node | None:
        node = self[key] = self._topology.slots[slot_of(key)]
        return node


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


def _packed(groups: Groups, partner_heads: Mapping[bytes, bytes]) -> bytes:
    """Returns the bytes of an MGET for each group, as ``connection.pack`` does at several times the cost."""
    heads, lengths = _HEADS, _LENGTHS
    parts: list[bytes] = []
    try:
        if type(groups) is PairedGroups:
            keys = groups.pairs[1::2]
            parts = [b""] * (3 * len(keys))
            parts[::3] = map(partner_heads.__getitem__, groups.pairs[::2])
            parts[1::3] = map(lengths.__getitem__, map(len, keys))
            parts[2::3] = keys
        for group in groups:
            parts.append(heads[len(group)])
            for key in group:
                parts += (lengths[len(key)], key)
    except IndexError:  # a long key, or many
        return pack_commands([("MGET", *group) for group in _all_groups(groups)])
    return b"".join(parts)[2:] + b"\r\n"
