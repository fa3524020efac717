"""The code that exhaustive tests remove or break is found in the library: a change may not leave them behind."""

import pytest

from tests.protocol.interleavings.guards import GUARDS
from tests.protocol.test_stateful import BREAKS


@pytest.mark.parametrize("name", GUARDS)
def test_the_code_of_a_guard_is_in_the_library(name: str) -> None:
    with GUARDS[name].removed():
        pass


@pytest.mark.parametrize("name", BREAKS)
def test_the_code_to_break_is_in_the_library(name: str) -> None:
    with BREAKS[name].applied():
        pass
