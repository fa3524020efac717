"""Decodes mutated entries until the time is over: ``python -m tests.native.fuzz SECONDS SEED``.

Run with the extension compiled by sanitizers, which end the process at the first error of memory.
"""

import random
import sys
import time

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded

from aiomodelcache.encoding.layout import HEADER
from aiomodelcache.encoding.native import rows_decoder
from tests.native.cases import ADDED, CODEC, COLUMNS, DUE, EPOCH, FINGERPRINT, ROWS, assert_decoded_alike, entry_of


def examples(seed: int, number: int) -> list[bytes]:
    """Returns entries of random rows."""
    found: list[bytes] = []

    @seeded(seed)
    @settings(max_examples=number, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(ROWS)
    def collect(row: dict[str, object]) -> None:
        found.append(entry_of(CODEC.encode(row)))

    collect()
    return found


def main(seconds: float, seed: int) -> None:
    decode = rows_decoder(list(COLUMNS), ADDED)
    assert decode is not None, "the extension is missing"
    chance = random.Random(seed)
    entries = examples(seed, 200)
    end = time.monotonic() + seconds
    decoded = refused = 0
    while time.monotonic() < end:
        entry = bytearray(chance.choice(entries))
        for _ in range(chance.randrange(4)):
            at = chance.randrange(HEADER.stop, len(entry) + 1)
            entry[at : at + chance.randrange(4)] = chance.randbytes(chance.randrange(4))
        if chance.random() < 0.7:  # a payload that the checksum does not hide
            current = entry_of(bytes(entry[HEADER.stop :]))
            alike = assert_decoded_alike(decode, [chance.choice(entries), current])
            decoded, refused = decoded + alike, refused + (not alike)
        else:
            decode([bytes(entry[: chance.randrange(len(entry) + 1)])], FINGERPRINT + EPOCH, DUE)
    print(f"{decoded} decoded, {refused} refused")
    assert decoded > 10, "hardly a row was decoded"
    assert refused > 10, "hardly an entry was refused"


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
