"""``FrequencySketch``: counts that are never too small, and seldom too large."""

from collections import Counter
from random import Random

from aiomodelcache.backends.frequency import FrequencySketch


def test_counts_are_never_too_small_and_seldom_too_large() -> None:
    too_large = 0
    for run in range(10):  # how many are too large depends on the hashes, which differ between processes
        chance, sketch, exact = Random(run), FrequencySketch(4_000), Counter[bytes]()
        keys = [b"key %d of %d" % (number, run) for number in range(1_000)]
        for key in chance.choices(keys, weights=[1 / (rank + 1) for rank in range(1_000)], k=5_000):
            sketch.add(key)
            exact[key] += 1
        assert sketch.added == 5_000
        assert all(sketch.count(key) >= min(exact[key], 255) for key in keys)
        too_large += sum(sketch.count(key) > exact[key] for key in keys if exact[key] < 255)
    assert too_large < 500


def test_halving_lets_old_uses_count_for_less() -> None:
    sketch = FrequencySketch(100)
    sketch.add(b"often", 9)
    sketch.add(b"once")
    sketch.halve()
    assert (sketch.count(b"often"), sketch.count(b"once"), sketch.added) == (4, 0, 5)


def test_a_count_stays_within_its_byte() -> None:
    sketch = FrequencySketch(0)
    for _ in range(300):
        sketch.add(b"key", 15)
    assert sketch.count(b"key") == 255
