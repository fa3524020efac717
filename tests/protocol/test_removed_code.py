"""The code that exhaustive tests remove or break is found in the library: a change may not leave them behind.

Nor may it leave behind the documented numbers of these tests.
"""

import re
from pathlib import Path

import pytest

from tests.protocol.interleavings.guards import GUARDS
from tests.protocol.interleavings.scenarios import SCENARIOS
from tests.protocol.test_stateful import BREAKS


@pytest.mark.parametrize("name", GUARDS)
def test_the_code_of_a_guard_is_in_the_library(name: str) -> None:
    with GUARDS[name].removed():
        pass


@pytest.mark.parametrize("name", BREAKS)
def test_the_code_to_break_is_in_the_library(name: str) -> None:
    with BREAKS[name].applied():
        pass


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (len(SCENARIOS), r"(\d+) scenarios have readers"),
        (len(GUARDS), r"(\d+) guards of the library"),
        (len(BREAKS), r"`BREAKS`, (\d+) of them"),
    ],
)
def test_the_documented_numbers_are_those_of_the_tests(number: int, words: str) -> None:
    document = (Path(__file__).parents[2] / "docs/consistency.md").read_text("utf-8")
    documented = re.search(words.replace(" ", r"\s+"), document)
    assert documented is not None
    assert int(documented[1]) == number
