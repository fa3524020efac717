"""The dependencies of a result as they are stored: packed in the short way as in the long one."""

import random

import pytest

from aiomodelcache.encoding.layout import PREFIX_SIZE
from aiomodelcache.entries.derived import KnownDependencies, pack_dependencies, split_dependencies


def recorded_keys(number: int, seed: int) -> dict[bytes, bytes]:
    """Returns keys of various lengths with a token each, in an order of its own."""
    order = random.Random(seed)
    keys = [b"k%d" % at * order.randrange(1, 40) for at in range(number)]
    order.shuffle(keys)
    return {key: b"V" + order.randbytes(PREFIX_SIZE - 1) for key in keys}


def known_of(recorded: dict[bytes, bytes], *rows: bytes) -> KnownDependencies:
    keys, packed = pack_dependencies(recorded)
    known = KnownDependencies([*keys, *rows], len(keys))
    known.learn_order(recorded, packed)
    return known


@pytest.mark.parametrize("number", [0, 1, 2, 15, 16, 41, 64, 40_000])
def test_other_tokens_of_the_same_keys_are_packed_as_in_the_long_way(number: int) -> None:
    known = known_of(recorded_keys(number, seed=1), b"row")
    again = {key: token[:1] + token[:0:-1] for key, token in recorded_keys(number, seed=1).items()}
    keys, packed = pack_dependencies(again)
    assert known.pack(again) == (packed if number > 1 else b"")
    assert split_dependencies(len(packed).to_bytes(4) + packed) == (keys, [again[key] for key in keys], 4 + len(packed))


def test_other_keys_another_order_and_other_lengths_are_left_to_the_long_way() -> None:
    recorded = recorded_keys(5, seed=1)
    known, keys = known_of(recorded), [*recorded]
    assert known.pack(recorded)
    for other in (
        {key: recorded[key] for key in reversed(keys)},
        {key: recorded[key] for key in keys[1:]},
        {**recorded, b"more": b"V" * PREFIX_SIZE},
        {key if at else b"other": token for at, (key, token) in enumerate(recorded.items())},
        {**recorded, keys[2]: b"V"},
    ):
        assert known.pack(other) == b""
    assert KnownDependencies(keys).pack(recorded) == b""
