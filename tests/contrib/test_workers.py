"""Taskiq, arq and FastStream: workers that open a cache after Tortoise and close it before, and the scope of a task."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tortoise.contrib.fastapi import RegisterTortoise

from aiomodelcache import CacheConfigurationError
from aiomodelcache.contrib import arq as arq_contrib
from aiomodelcache.contrib import faststream as faststream_contrib
from aiomodelcache.contrib.taskiq import ModelCacheMiddleware
from aiomodelcache.open_cache import default_cache_or_none
from aiomodelcache.scopes.request import current_scope
from tests.contrib.serving import WorkerProcess, create_database
from tests.support.models.models import User
from tests.support.servers import RedisServer

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class Job:
    """A job that looks up twice, and the hooks that open and close Tortoise around it."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self._database = RegisterTortoise(
            db_url="sqlite://:memory:", modules={"app": ["tests.support.models.models"]}, generate_schemas=True
        )

    async def open(self, *_: object) -> None:
        await self._database.init_orm()
        await User.create(id=1, username="kim")
        self._note("tortoise opened")

    async def close(self, *_: object) -> None:
        self._note("tortoise closes")
        await self._database.close_orm()

    async def run(self, *_: object) -> str:
        user = await User.cache.get(id=1)
        shared = await User.cache.get(id=1) is user
        self._note(f"ran, shared: {shared}")
        return str(user.username)

    def _note(self, text: str) -> None:
        self.log.append(f"{text}, cache open: {default_cache_or_none() is not None}")

    def assert_in_order(self, *, jobs: int = 1, shared: bool = True) -> None:
        ran = [f"ran, shared: {shared}, cache open: True"] * jobs
        assert self.log == ["tortoise opened, cache open: False", *ran, "tortoise closes, cache open: False"]
        assert default_cache_or_none() is None
        assert current_scope() is None


@pytest.fixture
def job() -> Job:
    return Job()


@pytest.mark.parametrize("scope", [True, False])
async def test_taskiq(job: Job, scope: bool) -> None:
    taskiq = pytest.importorskip("taskiq")
    broker = taskiq.InMemoryBroker(await_inplace=True)
    broker.add_event_handler(taskiq.TaskiqEvents.WORKER_STARTUP, job.open)
    broker.add_event_handler(taskiq.TaskiqEvents.WORKER_SHUTDOWN, job.close)
    broker.add_middlewares(ModelCacheMiddleware("memory://", task_scope=scope))
    broker.is_worker_process = True

    @broker.task
    async def look_up() -> str:
        return await job.run()

    await broker.startup()
    for _ in range(2):
        result = await (await look_up.kiq()).wait_result()
        assert result.return_value == "kim", result.error
    await broker.shutdown()
    job.assert_in_order(jobs=2, shared=scope)


async def test_a_process_that_only_sends_tasks_opens_no_cache() -> None:
    taskiq = pytest.importorskip("taskiq")
    broker = taskiq.InMemoryBroker()
    broker.add_middlewares(ModelCacheMiddleware("memory://"))
    await broker.startup()
    assert default_cache_or_none() is None
    await broker.shutdown()


@pytest.mark.parametrize("scope", [True, False])
async def test_arq(job: Job, redis_server: RedisServer, scope: bool) -> None:
    arq = pytest.importorskip("arq")
    worker_module = pytest.importorskip("arq.worker")

    class WorkerSettings:
        functions = (worker_module.func(job.run, name="look_up"),)
        on_startup = job.open
        on_shutdown = job.close
        redis_settings = arq.connections.RedisSettings.from_dsn(redis_server.url)
        burst = True
        handle_signals = False
        poll_delay = 0.01

    arq_contrib.register_model_cache(WorkerSettings, "memory://", job_scope=scope)
    redis_server.flush()
    pool = await arq.create_pool(WorkerSettings.redis_settings)
    queued = await pool.enqueue_job("look_up")
    worker = worker_module.create_worker(WorkerSettings)
    await worker.async_run()
    await worker.close()
    assert await queued.result(timeout=5) == "kim"
    await pool.close(close_connection_pool=True)
    job.assert_in_order(shared=scope)


@pytest.mark.parametrize("scope", [True, False])
async def test_faststream(job: Job, redis_server: RedisServer, scope: bool) -> None:
    faststream = pytest.importorskip("faststream")
    library = pytest.importorskip("faststream.redis")
    broker = library.RedisBroker(redis_server.url, logger=None)
    app = faststream.FastStream(broker, logger=None)
    done = asyncio.Event()

    @broker.subscriber(list="aiomodelcache-tests")
    async def look_up(message: str) -> None:
        await job.run()
        done.set()

    app.on_startup(job.open)
    app.after_shutdown(job.close)
    faststream_contrib.register_model_cache(app, "memory://", message_scope=scope)
    await app.start()
    await broker.publish("now", list="aiomodelcache-tests")
    await asyncio.wait_for(done.wait(), 30)
    await app.stop()
    job.assert_in_order(shared=scope)


COMMANDS = {
    "arq": (
        ("-m", "arq", "worker.WorkerSettings"),
        "redis_version",
        """
    pool = await arq.create_pool(worker.WorkerSettings.redis_settings)
    await pool.enqueue_job("close_event", "pycon")
    await pool.close(close_connection_pool=True)
""",
    ),
    "faststream": (
        ("-m", "faststream", "run", "worker:app"),
        "FastStream app started",
        """
    async with worker.broker:
        await worker.broker.publish("pycon", list="closed")
""",
    ),
    "taskiq": (
        ("-m", "taskiq", "worker", "worker:broker"),
        "Listening started",
        """
    await worker.broker.startup()
    await worker.close_event.kiq("pycon")
    await worker.broker.shutdown()
""",
    ),
}
"""The command of each library, a line that its worker logs when it is ready, and the code that sends a job."""
SENDER = """
import asyncio, {library} as {library}, worker
from events import Event
from aiomodelcache import ModelCache
from aiomodelcache.testing import assert_ops

async def send():{send}

async def state():
    return (await Event.cache.get(slug="pycon")).state

async def send_and_see():
    async with ModelCache({url!r}, namespace="shop"):
        await Event.filter(slug="pycon").update(state="open")
        assert await state() == "open"
        with assert_ops(redis=1, sql=0):
            assert await state() == "open"
        await send()
        async with asyncio.timeout(30):
            while await state() == "open":
                await asyncio.sleep(0.02)
        assert await state() == "closed"

async def main():
    await worker.database.init_orm()
    try:
        await send_and_see()
    finally:
        await worker.database.close_orm()

asyncio.run(main())
"""
"""A program that sends a job, and sees by a cache of its own that the job has written."""


@pytest.mark.slow(because="it starts a worker")
@pytest.mark.parametrize("name", COMMANDS)
def test_the_program_of_the_page_runs_by_its_own_command(name: str, own_redis: RedisServer, tmp_path: Path) -> None:
    for module in (name, {"taskiq": "taskiq_redis", "faststream": "typer"}.get(name, name)):
        pytest.importorskip(module)
    command, ready, send = COMMANDS[name]
    database = create_database(tmp_path / "app.sqlite3")
    sender = SENDER.format(library=name, send=send, url=own_redis.patient_url)
    with WorkerProcess(name, command, ready, database, own_redis.patient_url) as worker:
        worker.send(sender)
        worker.send(sender)
        log = worker.stop()
    assert "Traceback" not in log, log


def test_settings_are_checked_at_once() -> None:
    wrong: Any = {"colour": "red"}
    with pytest.raises(CacheConfigurationError, match=r"no setting 'colour'"):
        arq_contrib.register_model_cache(type("WorkerSettings", (), {}), "memory://", **wrong)
