"""The numbers of checks that ``docs/consistency.md`` names are those of the code."""

import re
from pathlib import Path

import pytest

from tests.protocol.interleavings.guards import GUARDS
from tests.protocol.interleavings.scenarios import SCENARIOS
from tests.protocol.model.variants import BROKEN, SOUND
from tests.protocol.test_stateful import BREAKS
from tests.support.state_machine_queries import KINDS

DOCUMENT = " ".join((Path(__file__).parents[2] / "docs/consistency.md").read_text("utf-8").split())


def variants(part: str) -> int:
    return sum(str(broken.shape).startswith(f"{part}(") for broken in BROKEN)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (r"explores (\d+) shapes", len({str(shape) for shape in [*SOUND, *(broken.shape for broken in BROKEN)]})),
        (r"and (\d+) variants that lack one guard", len(BROKEN)),
        (r"model of all this, with (\d+) broken variants", variants("relays")),
        (r"that of logical decoding, with (\d+)", variants("streams")),
        (r"(\d+) scenarios have readers", len(SCENARIOS)),
        (r"(\d+) guards of the library are removed", len(GUARDS)),
        (r"`BREAKS`, (\d+) of them", len(BREAKS)),
        (r"`tests/support/state_machine_queries.py`, (\d+) of them", sum(map(len, KINDS.values()))),
    ],
)
def test_the_documented_numbers(text: str, number: int) -> None:
    assert re.findall(text, DOCUMENT) == [str(number)]
