"""The protocol is sound in every shape, and without any one of its guards it is not."""

import dataclasses
import os

import pytest

from tests.protocol.model import partitions
from tests.protocol.model.engine import explore
from tests.protocol.model.rules import Rules
from tests.protocol.model.variants import BROKEN, LARGE, SOUND, Broken, Shape
from tests.support.effort import share

pytestmark = pytest.mark.exhaustive(because="explores 3,700,000 states")

SHAPES = [*SOUND, *(broken.shape for broken in BROKEN)]
"""The explored shapes, with those of the broken variants, so only the missing guard can break a variant."""
if os.environ.get("AIOMODELCACHE_MODEL") == "large":
    SHAPES += LARGE


@pytest.mark.parametrize("shape", share({str(shape): shape for shape in SHAPES}.values()), ids=str)
def test_the_protocol_is_sound_in_every_shape(shape: Shape) -> None:
    exploration = explore(shape.system(Rules()))
    assert exploration.violation is None, f"\n{exploration}"
    assert exploration.complete


@pytest.mark.parametrize("broken", share(BROKEN), ids=lambda broken: f"{broken.guard}-{broken.shape}")
def test_the_protocol_without_a_guard_has_a_violation(broken: Broken) -> None:
    exploration = explore(broken.system())
    print(f"Without {broken.guard}:\n{exploration}")
    assert exploration.violation is not None, "no violation was found without this guard"
    assert exploration.violation.kind == broken.kind, f"\n{exploration}"


def test_marks_need_replicas_only_for_writers_that_end_before_they_clear() -> None:
    without = Rules(marks_replicated=False)
    lost = [
        partitions.system(without, predicts=(True,), writers=1, fails_over=True, loses_intents=True, crashes=n)
        for n in (0, 1)
    ]
    assert [explore(system).violation is None for system in lost] == [True, False]


def test_every_guard_has_a_broken_variant() -> None:
    assert {broken.guard for broken in BROKEN} == {field.name for field in dataclasses.fields(Rules)}
