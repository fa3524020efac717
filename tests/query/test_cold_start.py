"""A cold cache becomes warm in front of an overloaded database: ``benchmarks.cold_start``, scaled down."""

import pytest

from benchmarks.cold_start import WITHOUT, Scenario, run

pytestmark = [
    pytest.mark.exhaustive(because="makes thousands of lookups"),
    pytest.mark.slow(because="it makes 2,900 lookups, or asks as many queries"),
]
SCENARIO = {"rows": 400, "overloaded": 3.0, "afterwards": 3.0, "patience": 1.0}


def test_an_overload_ends_when_its_cause_ends() -> None:
    """Loading every row takes the database two seconds. The overload lasts three, and the last two are measured."""
    outcome = run(Scenario(settings={"lease_ttl": 0.2, "load_limit": 3}, **SCENARIO))
    assert outcome.ratio(since=4.0) > 0.95
    assert outcome.rows_read < 2 * 400
    assert 1 <= outcome.most_in_flight <= max(outcome.limits) <= 3


def test_without_longer_leases_and_a_limit_the_overload_does_not_end() -> None:
    outcome = run(Scenario(settings={"lease_ttl": 0.2, **WITHOUT}, **SCENARIO))
    assert outcome.ratio(since=4.0) < 0.5
    assert outcome.rows_read > 2 * 400


QUERIES = {**SCENARIO, "queries": True, "statement": 0.0}


def test_an_overload_by_queries_ends_when_its_cause_ends() -> None:
    """No statement answers two queries. Those that have waited for too long fail, so the others are stored in time."""
    outcome = run(Scenario(settings={"compute_ttl": 0.4, "load_limit": 3, "load_wait": 0.2}, **QUERIES))
    assert outcome.ratio(since=4.0) > 0.95
    assert outcome.rows_read < 2 * 400
    assert 1 <= outcome.most_in_flight <= max(outcome.limits) <= 3


def test_without_a_limit_an_overload_by_queries_does_not_end() -> None:
    outcome = run(Scenario(settings={"compute_ttl": 0.4, "load_limit": None}, **QUERIES))
    assert outcome.ratio(since=4.0) < 0.5
    assert outcome.rows_read > 2 * 400
