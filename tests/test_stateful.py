"""The caches say what the database says, whatever is written in whatever order: a state machine tries.

``HYPOTHESIS_PROFILE=long`` explores at random and for long.
"""

import asyncio
import os

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.databases import DatabaseUrl, tortoise_on
from tests.state_machine import Machine, World


def test_the_caches_say_what_the_database_says(
    db_url: DatabaseUrl, backend_url: str, request: pytest.FixtureRequest
) -> None:
    cheap = db_url.dialect == "sqlite" and backend_url == "memory://"
    long = os.environ.get("HYPOTHESIS_PROFILE") == "long"
    with asyncio.Runner() as runner:
        opened = tortoise_on(db_url, "tests.stateful_models")
        connection = runner.run(opened.__aenter__())
        world = World(runner, connection, backend_url, lambda: request.getfixturevalue("redis_server").flush())
        try:
            runner.run(world.store.open())
            run_state_machine_as_test(
                lambda: Machine(world),
                settings=settings(
                    max_examples=3000 if long else 36 if cheap else 3,
                    stateful_step_count=100 if long else 20,
                    deadline=None,
                    derandomize=not long,
                    database=None,
                    suppress_health_check=list(HealthCheck),
                ),
            )
            if cheap:
                assert world.answered_stale > 100
                assert world.reset > 100
        finally:
            runner.run(world.store.close())
            runner.run(opened.__aexit__(None, None, None))
