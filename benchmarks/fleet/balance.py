"""The spread of a model over the nodes of a Cluster by hash slots, without and with partitions.

A partition of a model is a tag in its keys, so all keys of a partition have one slot. A tag that is chosen puts the
slots of a model's partitions at equal distances; a tag that is the partition's name puts them anywhere.
"""

import random
from collections.abc import Sequence
from functools import cache

from redis.crc import key_slot

from benchmarks.fleet.popularity import harmonic

SLOTS = 16_384
EXACT = 20_000
"""Rows whose node is drawn one by one. All others are too many and too rare to matter, and are spread evenly."""


@cache
def tags() -> tuple[bytes, ...]:
    """Returns the shortest decimal tag of each slot."""
    found: dict[int, bytes] = {}
    number = 0
    while len(found) < SLOTS:
        tag = b"%d" % number
        found.setdefault(key_slot(tag), tag)
        number += 1
    return tuple(found[slot] for slot in range(SLOTS))


def node_of(slot: int, nodes: int) -> int:
    """Returns the node of a slot, if the nodes have equal ranges."""
    return slot * nodes // SLOTS


def even_slots(count: int, offset: int) -> list[int]:
    """Returns the slots of a model's partitions by chosen tags."""
    return [(number * SLOTS // count + offset) % SLOTS for number in range(count)]


def named_slots(count: int, model: str) -> list[int]:
    """Returns the slots of a model's partitions by tags that are their names."""
    return [key_slot(b"%b:%d" % (model.encode(), number)) for number in range(count)]


def memory(slots: Sequence[int], nodes: int) -> float:
    """Returns how much more of a model's rows the fullest node holds than the mean."""
    held = [0] * nodes
    for slot in slots:
        held[node_of(slot, nodes)] += 1
    return max(held) * nodes / len(slots)


def traffic(slots: Sequence[int] | None, nodes: int, entries: int, near: int = 0, seed: int = 1) -> float:
    """Returns how many more lookups the busiest node gets than the mean, of rows as popular as by Zipf's law.

    Without ``slots`` each row has a slot of its own. The ``near`` most popular rows are answered by the processes.
    """
    random_slots = random.Random(seed)
    whole = harmonic(entries)
    got = [0.0] * nodes
    for rank in range(1, EXACT + 1):
        slot = random_slots.choice(slots) if slots else random_slots.randrange(SLOTS)
        if rank > near:
            got[node_of(slot, nodes)] += 1 / rank / whole
    rest = 1 - harmonic(EXACT) / whole
    for slot in slots or range(SLOTS):
        got[node_of(slot, nodes)] += rest / len(slots or range(SLOTS))
    return max(got) * nodes / sum(got)
