"""Copies of decoded values: equal, of the same types, and without a list or dict in common with the original."""

import datetime
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiomodelcache.encoding.shared import shared_plain

CONSTANTS = st.none() | st.booleans() | st.integers() | st.text() | st.datetimes() | st.decimals(allow_nan=False)
VALUES = st.recursive(
    CONSTANTS,
    lambda parts: (
        st.lists(parts)
        | st.dictionaries(st.text() | st.integers(), parts)
        | st.tuples(parts)
        | st.lists(st.dictionaries(st.sampled_from("ab"), CONSTANTS), min_size=1)
        | st.sets(st.integers())
    ),
)


def containers(value: Any) -> Iterator[int]:
    """Yields the identities of everything in a value that can be changed."""
    if isinstance(value, list | dict | set):
        yield id(value)
    if isinstance(value, list | tuple | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from containers(part)


@given(VALUES)
def test_a_copy_is_equal_and_shares_nothing_that_can_be_changed(value: Any) -> None:
    shared = shared_plain(value)
    if shared is not None:
        copy = shared.copy(shared.value)
        assert repr(copy) == repr(value)
        assert set(containers(copy)).isdisjoint(containers(value))
        assert shared.size > 0


@pytest.mark.parametrize(
    "value",
    [
        [1, 2],
        (1, "text"),
        [(1, 2), (3, 4)],
        {"a": 1},
        [{"a": 1}, {"a": None, "b": datetime.date(2026, 1, 1)}],
        {"rows": [{"a": 1}, {"a": 2}], "total": 2},
        [[1], [2, 3]],
    ],
    ids=repr,
)
def test_common_values_are_copied(value: Any) -> None:
    assert shared_plain(value) is not None


@pytest.mark.parametrize(
    "value",
    [
        None,
        "text",
        {1, 2},
        ([1],),
        [1, [2]],
        [{"a": 1}, [1]],
        [{"a": [1]}, {"a": [2]}],
        {("a", 1): 2},
        ...,
        {"a": ...},
    ],
    ids=repr,
)
def test_other_values_are_decoded_each_time(value: Any) -> None:
    assert shared_plain(value) is None
