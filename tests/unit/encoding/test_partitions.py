"""Partitions: keys with the slots of a Redis Cluster, spread evenly over its nodes."""

import itertools
import uuid
from collections import Counter
from collections.abc import Callable

import pytest
from redis.crc import key_slot

from aiomodelcache.encoding.keys import KeySpace, encode_single, encode_tenant
from aiomodelcache.encoding.partitions import CLUSTER_PARTITIONS, SLOTS, partitions_of, tag_in, tags_of
from tests.support.effort import share

CLUSTER = KeySpace(partitions=CLUSTER_PARTITIONS)
NODES = 100
VALUES: dict[str, Callable[[int], object]] = {
    "integers": lambda n: n,
    "even integers": lambda n: 2 * n,
    "large integers": lambda n: 10**15 + 1000 * n,
    "texts": lambda n: f"event-{n}",
    "uuids": lambda n: uuid.uuid5(uuid.NAMESPACE_URL, str(n)),
}


def nodes_of(slots: list[int]) -> Counter[int]:
    """Returns how often each of a hundred nodes holds one of these slots."""
    return Counter(slot * NODES // SLOTS for slot in slots)


def test_one_server_has_one_partition_that_no_key_shows() -> None:
    partitions = partitions_of(KeySpace(), "default", "event")
    assert not partitions.divided
    assert partitions.encode_single(7) == partitions.tagged(b"i7") == encode_single(7)
    assert partitions.encode((7, "a")) == b"i7:sa"
    assert partitions.epochs == partitions.epochs_of([b"any"]) == (b"amc:e:default:event",)
    assert partitions.stamps == partitions.stamps_of([b"any"]) == (b"amc:s:default:event",)


def test_an_entry_shares_its_slot_with_its_epoch_and_its_stamp() -> None:
    partitions = partitions_of(CLUSTER, "default", "event")
    for n in range(1_000):
        for key in (b"amc:r:default:event:" + partitions.encode_single(n), b"x:" + partitions.encode((n, "{a}"))):
            assert key_slot(key) == key_slot(partitions.epoch_of(key)) == key_slot(partitions.stamp_of(key))
            assert partitions.epoch_of(key) in partitions.epochs
            assert partitions.stamp_of(key) in partitions.stamps


def test_partitions_and_tags_never_change() -> None:
    """Processes of all releases and Python versions must name the same keys."""
    partitions = partitions_of(CLUSTER, "default", "event")
    assert partitions.encode_single(7) == b"{1ebzJ}:i7"
    assert partitions.encode(("a", 7)) == b"{c3dpq}:sa:i7"
    assert partitions.epochs[0] == b"amc:e:default:event:{00iPX}"
    assert partitions.stamps[255] == b"amc:s:default:event:{ffaLp}"


def test_the_slots_of_a_model_are_equally_far_apart() -> None:
    for table in ("event", "user", "book"):
        slots = sorted(map(key_slot, partitions_of(CLUSTER, "default", table).epochs))
        distances = {after - before for before, after in itertools.pairwise(slots)}
        assert distances == {SLOTS // CLUSTER_PARTITIONS}


def test_models_and_namespaces_have_slots_of_their_own_and_connections_and_tenants_do_not() -> None:
    first = partitions_of(CLUSTER, "default", "event")
    tenant = CLUSTER._replace(tenant=encode_tenant("acme"))
    for other in (partitions_of(CLUSTER, "second", "event"), partitions_of(tenant, "default", "event")):
        assert list(map(key_slot, other.epochs)) == list(map(key_slot, first.epochs))
        assert list(map(key_slot, other.stamps)) == list(map(key_slot, first.epochs))
    named = partitions_of(CLUSTER._replace(namespace="shop"), "default", "event")
    slots = {key_slot(each.epochs[0]) for each in (first, named, partitions_of(CLUSTER, "default", "user"))}
    assert len(slots) == 3


@pytest.mark.exhaustive(because="makes 100,000 keys of each kind")
@pytest.mark.parametrize("kind", share(VALUES))
def test_uniform_keys_burden_no_node_of_a_hundred_by_a_fifth_more_than_the_mean(kind: str) -> None:
    keys = [
        partitions_of(CLUSTER, "default", f"table{n % 10}").encode_single(VALUES[kind](n // 10)) for n in range(100_000)
    ]
    counted = nodes_of(list(map(key_slot, keys)))
    assert len(counted) == NODES
    assert max(counted.values()) < 1.2 * len(keys) / NODES


@pytest.mark.exhaustive(because="makes 100,000 keys of each kind")
@pytest.mark.parametrize("kind", VALUES)
def test_the_keys_of_one_model_are_spread_over_its_partitions(kind: str) -> None:
    partitions = partitions_of(CLUSTER, "default", "event")
    counted = Counter(tag_in(partitions.encode_single(VALUES[kind](n))) for n in range(100_000))
    assert len(counted) == CLUSTER_PARTITIONS
    assert max(counted.values()) < 1.2 * 100_000 / CLUSTER_PARTITIONS
    assert max(nodes_of(list(map(key_slot, partitions.epochs))).values()) < 1.2 * CLUSTER_PARTITIONS / NODES


def test_many_models_together_burden_the_nodes_alike() -> None:
    tags = [tag.strip(b"{}") for table in range(300) for tag in tags_of(("", f"table{table}"), CLUSTER_PARTITIONS)]
    counted = nodes_of(list(map(key_slot, tags)))
    assert 0.97 * len(tags) / NODES < min(counted.values()) <= max(counted.values()) < 1.03 * len(tags) / NODES


def test_no_part_of_a_key_before_the_tag_has_a_brace() -> None:
    space = KeySpace("{shop}", encode_tenant("a{b}"), CLUSTER_PARTITIONS)
    partitions = partitions_of(space, "{default}", "ev{en}t")
    key = space.prefix("r", "{default}", "ev{en}t") + partitions.encode_single("{x}")
    assert key.index(tag_in(key)) == key.index(b"{")
    assert tag_in(key) in partitions.epoch_of(key)
    assert encode_tenant("a{b") != encode_tenant("a%7Bb"), "escaping keeps tenants apart"
