"""The protocol is sound in every shape, and without any one of its guards it is not."""

import dataclasses
import os

import pytest

from tests.protocol.model.engine import explore
from tests.protocol.model.rules import Rules
from tests.protocol.model.variants import BROKEN, LARGE, SOUND, Broken, Shape

pytestmark = pytest.mark.exhaustive(because="explores 970,000 states")

SHAPES = [*SOUND, *(each.shape for each in BROKEN)]
"""Also those that the broken variants break: it is the missing guard that is found there."""
if os.environ.get("AIOMODELCACHE_MODEL") == "large":
    SHAPES += LARGE


@pytest.mark.parametrize("shape", {str(shape): shape for shape in SHAPES}.values(), ids=str)
def test_sound(shape: Shape) -> None:
    found = explore(shape.system(Rules()))
    assert found.violation is None, f"\n{found}"
    assert found.complete


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: f"{broken.guard}-{broken.shape}")
def test_not_without(broken: Broken) -> None:
    found = explore(broken.system())
    print(f"Without {broken.guard}:\n{found}")
    assert found.violation is not None, "nothing goes wrong without it"
    assert found.violation.kind == broken.kind, f"\n{found}"


def test_every_guard_is_left_out_once() -> None:
    assert {broken.guard for broken in BROKEN} == {field.name for field in dataclasses.fields(Rules)}
