"""The values of changes by logical decoding: the tests that are about any source, with this one."""

import pytest

from tests.relay.capture import StreamCapture
from tests.relay.test_source import (  # noqa: F401
    tables,
    test_a_limit_leaves_lines_and_deleting_some_loses_none,
    test_a_value_that_cannot_be_exact_stands_for_the_whole_table,
    test_lines_are_deleted_for_their_owner_alone,
    test_values_are_those_that_the_database_returns,
)

pytestmark = [
    pytest.mark.models("tests.support.models.relay_models"),
    pytest.mark.only_on("postgres", because="only PostgreSQL has logical decoding"),
    pytest.mark.only_on("memory", because="a source knows no store"),
]


@pytest.fixture
def capture(stream_capture: StreamCapture) -> StreamCapture:
    return stream_capture
