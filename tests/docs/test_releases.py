"""examples/releases over HTTP: three processes, one of them without a cache, on one PostgreSQL and one Redis."""

import asyncio
import re
import shlex
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import asyncpg  # type: ignore[import-untyped]
import httpx
import pytest
import redis
from tortoise.backends.base.executor import EXECUTOR_CACHE
from tortoise.context import TortoiseContext

from aiomodelcache import ModelCache
from examples.releases.caches import permissions
from examples.releases.models import Access, Organisation, Release
from examples.releases.shared import Shared
from tests.support.servers import PostgresServer, RedisServer
from tests.support.servers.http import HttpServer

ROOT = Path(__file__).parents[2]
OWNER, MEMBER, STRANGER = 7, 9, 11


class ReleasesServer(HttpServer):
    """One process of the service."""

    name = "releases"
    probe = "/projects"

    def __init__(self, **settings: str) -> None:
        super().__init__()
        self._settings = settings

    def _command(self) -> list[str | Path]:
        settings = {"PYTHONPATH": str(ROOT), "PORT": str(self.port), **self._settings}
        given = [f"{name}={value}" for name, value in settings.items()]
        return ["/usr/bin/env", *given, sys.executable, "-W", "error", "-m", "examples.releases"]


class Process(NamedTuple):
    """A client of one process of the service."""

    http: httpx.AsyncClient

    async def ask(self, method: str, path: str, body: Any = None, *, actor: int = OWNER) -> httpx.Response:
        return await self.http.request(method, path, json=body, headers={"X-Actor": str(actor)})

    async def sql(self, path: str, *, actor: int = MEMBER) -> tuple[int, int, Any]:
        """Returns the SQL statements, the cache round trips and the answer of a GET."""
        answer = await self.http.get(path, headers={"X-Actor": str(actor), "X-Count": "1"})
        assert answer.status_code == 200, answer.text
        return int(answer.headers["X-SQL"]), int(answer.headers["X-Cache"]), answer.json()


class World(NamedTuple):
    database: str
    redis: RedisServer
    urls: list[str]


class Processes(NamedTuple):
    first: Process
    hasty: Process
    """A process that waits for locks for at most 0.1 seconds."""
    uncached: Process


@pytest.fixture(scope="module")
def world(postgres_server: PostgresServer, redis_server: RedisServer) -> Iterator[World]:
    redis_server.flush()
    with postgres_server.database() as database, ExitStack() as ours:
        where = {"DATABASE_URL": database, "REDIS_URL": redis_server.patient_url}
        processes = [
            ReleasesServer(**where, LOCK_WAIT="20"),
            ReleasesServer(**where, LOCK_WAIT="0.1"),
            ReleasesServer(**where, CACHE="off", LOCK_WAIT="20"),
        ]
        with ThreadPoolExecutor() as threads:
            list(threads.map(ours.enter_context, processes))
        yield World(database, redis_server, [process.url for process in processes])
        for process in processes:
            log = (process.folder / "log").read_text()
            assert "Traceback" not in log, log


@pytest.fixture
async def processes(world: World) -> AsyncIterator[Processes]:
    async with AsyncExitStack() as clients:
        opened = [httpx.AsyncClient(base_url=url, trust_env=False, verify=False, timeout=60) for url in world.urls]
        yield Processes(*[Process(await clients.enter_async_context(client)) for client in opened])


def commits(*shas: str) -> list[dict[str, str]]:
    return [{"sha": sha, "author": "Kim", "message": f"change {sha}"} for sha in shas]


def release(*shas: str, projects: tuple[str, ...] = ("web",)) -> dict[str, Any]:
    return {"projects": list(projects), "commits": commits(*shas)}


def shas(answer: httpx.Response) -> list[str]:
    return [commit["sha"] for commit in answer.json()["commits"]]


@pytest.fixture
async def acme(processes: Processes, request: pytest.FixtureRequest) -> str:
    """The path of an organisation with the projects ``web`` and ``api``. ``MEMBER`` has access to ``web``."""
    name = request.node.name
    made = await processes.first.ask("POST", "/organisations", {"name": name[-64:]})
    path = f"/organisations/{made.json()['slug']}"
    for project in ("Web", "API"):
        assert (await processes.first.ask("POST", f"{path}/projects", {"name": project})).status_code == 201
    assert (await processes.first.ask("PUT", f"{path}/members/{MEMBER}", {"projects": ["web"]})).status_code == 204
    return path


@asynccontextmanager
async def locked(world: World, table: str) -> AsyncIterator[asyncpg.Connection]:
    """Makes writers of ``table`` wait until the block ends."""
    connection = await asyncpg.connect(world.database.replace("asyncpg", "postgresql"))
    try:
        async with connection.transaction():
            await connection.execute(f'LOCK TABLE "{table}" IN SHARE ROW EXCLUSIVE MODE')
            yield connection
    finally:
        await connection.close()


async def waiting(connection: asyncpg.Connection) -> int:
    """Waits until any connection waits for a lock, and returns the number of those that do."""
    async with asyncio.timeout(60):
        while True:
            count = await connection.fetchval("SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted")
            if count:
                return int(count)
            await asyncio.sleep(0.01)


# The session of the README ------------------------------------------------------------------------------------


async def test_the_session_of_the_readme_gets_the_answers_that_it_shows(processes: Processes) -> None:
    lines = [line for line in (ROOT / "examples/releases/README.md").read_text().splitlines() if line[:4] == "ask "]
    assert len(lines) > 10
    for line in lines:
        _, actor, method, path, *body = shlex.split(line, comments=True)
        expected = re.search(r"# (\d+)(?:, (\d+) SQL)?$", line)
        assert expected, line
        headers = {"X-Actor": actor, "X-Count": "1"}
        answer = await processes.first.http.request(method, path, content="".join(body), headers=headers)
        assert answer.status_code == int(expected[1]), f"{line}: {answer.text}"
        assert expected[2] in (None, answer.headers["X-SQL"]), line


@pytest.mark.usefixtures("postgres_server", "redis_server")
def test_one_command_runs_the_service_on_servers_of_its_own() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL may run as another user
        with (
            ReleasesServer(TMPDIR=name) as server,
            httpx.Client(base_url=server.url, trust_env=False, verify=False, timeout=60) as http,
        ):
            made = http.post("/organisations", json={"name": "Acme"}, headers={"X-Actor": "7"})
            assert (made.status_code, made.json()["slug"]) == (201, "acme")
            assert made.headers["server-timing"].startswith("store;")
            assert {path.name.split("-")[1] for path in folder.iterdir()} == {"redis", "postgres"}
            printed = dict(re.findall(rf"^(\w+): +({server.url}/\S+)$", server.log(), re.MULTILINE))
            assert printed.keys() == {"Service", "Dashboard", "Metrics"}
            assert "<title>Model cache</title>" in http.get(printed["Dashboard"]).text
            assert "aiomodelcache_fleet_complete 1.0" in http.get(printed["Metrics"]).text
        deadline = time.monotonic() + 60
        while any(folder.iterdir()) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert list(folder.iterdir()) == []


# Binding ------------------------------------------------------------------------------------------------------


async def test_a_put_replaces_commits_and_projects_for_all_processes(processes: Processes, acme: str) -> None:
    path = f"{acme}/releases/1.0"
    assert (await processes.first.ask("PUT", path, release("aaaaaa1", "bbbbbb2"))).status_code == 201
    for process in processes:
        assert shas(await process.ask("GET", path)) == ["aaaaaa1", "bbbbbb2"]
    put = await processes.first.ask("PUT", path, release("cccccc3", "aaaaaa1", projects=("api",)))
    assert put.status_code == 200
    for process in processes:
        got = await process.ask("GET", path)
        assert got.json() == put.json()
        assert (shas(got), got.json()["projects"]) == (["cccccc3", "aaaaaa1"], ["api"])


async def test_releases_of_one_organisation_share_commits(processes: Processes, acme: str) -> None:
    puts = (processes.first.ask("PUT", f"{acme}/releases/{n}", release("aaaaaa1", f"bbbbbb{n}")) for n in range(8))
    assert {put.status_code for put in await asyncio.gather(*puts)} == {201}


async def test_a_put_is_refused_if_it_cannot_wait_for_another_put_of_the_release(
    world: World, processes: Processes, acme: str
) -> None:
    path = f"{acme}/releases/1.0"
    async with locked(world, "releasecommit") as gate, asyncio.TaskGroup() as tasks:
        first = tasks.create_task(processes.first.ask("PUT", path, release("aaaaaa1")))
        await waiting(gate)
        refused = await processes.hasty.ask("PUT", path, release("bbbbbb2"))
        assert (refused.status_code, await waiting(gate)) == (409, 1)
        await gate.execute("ROLLBACK; BEGIN")
    assert first.result().status_code == 201
    assert shas(await processes.first.ask("GET", path)) == ["aaaaaa1"]
    assert (await processes.hasty.ask("PUT", path, release("bbbbbb2"))).status_code == 200


async def test_a_put_that_waits_for_another_put_of_the_release_replaces_its_commits(
    world: World, processes: Processes, acme: str
) -> None:
    path = f"{acme}/releases/1.0"
    sha_lists = [[f"{letter * 6}{n}" for n in range(5)] for letter in "ab"]
    async with locked(world, "releasecommit") as gate, asyncio.TaskGroup() as tasks:
        puts = [
            tasks.create_task(process.ask("PUT", path, release(*sha_list)))
            for process, sha_list in zip((processes.first, processes.uncached), sha_lists, strict=True)
        ]
        assert await waiting(gate) == 1
        await gate.execute("ROLLBACK; BEGIN")
    assert sorted(put.result().status_code for put in puts) == [200, 201]
    last = next(put.result() for put in puts if put.result().status_code == 200)
    for process in processes:
        assert shas(await process.ask("GET", path)) == shas(last)


# Slugs and ids ------------------------------------------------------------------------------------------------


async def test_organisations_created_at_once_with_one_name_get_different_slugs(
    world: World, processes: Processes
) -> None:
    async with locked(world, "organisation") as gate, asyncio.TaskGroup() as tasks:
        posts = [
            tasks.create_task(process.ask("POST", "/organisations", {"name": "Same Name!"}))
            for process in (processes.first, processes.uncached) * 3
        ]
        assert await waiting(gate) == 1
        await gate.execute("ROLLBACK; BEGIN")
    made = [post.result() for post in posts]
    assert {answer.status_code for answer in made} == {201}
    assert {answer.json()["slug"] for answer in made} == {"same-name", *(f"same-name-{n}" for n in range(2, 7))}
    assert len({answer.json()["id"] for answer in made}) == 6


async def test_ids_are_unique_and_grow(redis_url: str) -> None:
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        shared = Shared(client, lock_wait=0)
        given = await asyncio.gather(*(shared.ids(3) for _ in range(50)))
        assert len({number for ids in given for number in ids}) == 150
        assert all(ids == sorted(ids) for ids in given)
        [later] = await shared.ids()
        assert max(map(max, given)) < later < 2**53


async def test_a_cancelled_request_releases_its_lock(redis_url: str) -> None:
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        shared = Shared(client, lock_wait=0)
        with anyio.CancelScope() as scope:
            async with shared.exclusive("cancelled"):
                scope.cancel()
                await anyio.sleep_forever()
        async with shared.exclusive("cancelled"):
            pass


# Soft deletion ------------------------------------------------------------------------------------------------


async def test_a_deleted_release_is_not_found_until_it_is_put_again(processes: Processes, acme: str) -> None:
    path = f"{acme}/releases/1.0"
    await processes.first.ask("PUT", path, release("aaaaaa1"))
    for process in processes:
        assert (await process.ask("GET", path)).status_code == 200
        assert len((await process.ask("GET", f"{acme}/releases")).json()) == 1
    assert (await processes.first.ask("DELETE", path)).status_code == 204
    for process in processes:
        assert (await process.ask("GET", path)).status_code == 404
        assert (await process.ask("GET", f"{acme}/releases")).json() == []
    assert (await processes.hasty.ask("DELETE", path)).status_code == 404
    assert (await processes.hasty.ask("PUT", path, release("bbbbbb2"))).status_code == 201
    for process in processes:
        assert shas(await process.ask("GET", path)) == ["bbbbbb2"]


# Permissions --------------------------------------------------------------------------------------------------


async def test_each_role_has_its_own_permissions(processes: Processes, acme: str) -> None:
    process = processes.first
    assert (
        await process.ask("PUT", f"{acme}/releases/1.0", release("aaaaaa1", projects=("web", "api")))
    ).status_code == 201
    answers = {
        (actor, method): (await process.ask(method, f"{acme}/releases/1.0", body, actor=actor)).status_code
        for actor in (STRANGER, MEMBER, OWNER)
        for method, body in (("GET", None), ("PUT", release("bbbbbb2")), ("DELETE", None))
    }
    assert [answers[STRANGER, method] for method in ("GET", "PUT", "DELETE")] == [403, 403, 403]
    assert [answers[MEMBER, method] for method in ("GET", "PUT", "DELETE")] == [200, 403, 403]
    assert [answers[OWNER, method] for method in ("GET", "PUT", "DELETE")] == [200, 200, 204]
    assert (await process.ask("PUT", f"{acme}/members/3", {"projects": []}, actor=MEMBER)).status_code == 403
    assert (await process.ask("POST", f"{acme}/projects", {"name": "Mine"}, actor=MEMBER)).status_code == 403


async def test_a_member_who_loses_access_is_refused_at_once(processes: Processes, acme: str) -> None:
    path = f"{acme}/releases/1.0"
    await processes.first.ask("PUT", path, release("aaaaaa1"))
    assert [(await process.ask("GET", path, actor=MEMBER)).status_code for process in processes] == [200] * 3
    await processes.first.ask("PUT", f"{acme}/members/{MEMBER}", {"projects": ["api"]})
    assert [(await process.ask("GET", path, actor=MEMBER)).status_code for process in processes] == [403] * 3
    await processes.first.ask("PUT", path, release("aaaaaa1", projects=("api",)))
    assert [(await process.ask("GET", path, actor=MEMBER)).status_code for process in processes] == [200] * 3


async def test_permissions_are_cached_for_a_minute_unless_they_are_cleared(
    world: World, processes: Processes, acme: str
) -> None:
    path = f"{acme}/releases/1.0"
    await processes.first.ask("PUT", path, release("aaaaaa1"))
    assert (await processes.first.ask("GET", path, actor=MEMBER)).status_code == 200
    EXECUTOR_CACHE.clear()
    async with TortoiseContext() as context:  # a script outside the service, which does not clear permissions
        await context.init(db_url=world.database, modules={"releases": ["examples.releases.models"]})
        async with ModelCache(world.redis.patient_url, namespace="releases"):
            organisation = await Organisation.get(slug=acme.split("/")[-1])
            found = await Release.get(organisation=organisation)
            await Access.filter(actor=MEMBER, project__organisation=organisation).delete()
            mine = (await processes.first.sql("/projects"))[2]
            assert organisation.slug not in {project["organisation"] for project in mine}, (
                "cached rows must be invalidated without a clear"
            )
            assert (await processes.first.ask("GET", path, actor=MEMBER)).status_code == 200
            assert (await processes.uncached.ask("GET", path, actor=MEMBER)).status_code == 403
            with world.redis.client() as client:
                left = client.pttl(permissions.key(MEMBER, organisation, found, ()))
            assert 40_000 < left <= 66_000  # a minute, with jitter and on a slow machine
            await permissions.clear()
    EXECUTOR_CACHE.clear()
    assert (await processes.first.ask("GET", path, actor=MEMBER)).status_code == 403


# Costs with and without the cache -----------------------------------------------------------------------------


async def test_a_release_is_read_once_for_all_processes(world: World, processes: Processes, acme: str) -> None:
    path = f"{acme}/releases/1.0"
    await processes.first.ask("PUT", path, release("aaaaaa1", "bbbbbb2"))
    world.redis.flush()
    cold, warm = [await processes.first.sql(path) for _ in range(2)]
    other = [await processes.hasty.sql(path) for _ in range(2)]
    without = [await processes.uncached.sql(path) for _ in range(2)]
    assert {str(answer[2]) for answer in (cold, warm, *other, *without)} == {str(cold[2])}
    assert cold[0] == 7  # organisation, release, access, and two each for projects and commits
    assert warm[:2] == (0, 3)
    assert [answer[0] for answer in other] == [0, 0]
    assert other[1][1] == 3
    assert [answer[:2] for answer in without] == [(8, 0), (8, 0)]


async def test_a_list_of_releases_costs_as_much_as_one(world: World, processes: Processes, acme: str) -> None:
    for number in range(12):
        await processes.first.ask("PUT", f"{acme}/releases/{number}", release(f"aaaaaa{number % 3}"))
    world.redis.flush()
    path = f"{acme}/releases"
    cold, warm = [await processes.first.sql(path) for _ in range(2)]
    without = await processes.uncached.sql(path)
    assert warm[2] == cold[2] == without[2] == [{"version": str(n), "commits": 1} for n in reversed(range(12))]
    assert cold[0] == 5  # organisation, releases, their commits, their projects, access
    assert warm[:2] == (0, 3)
    assert without[:2] == (5, 0)  # lookups of one tick share a statement without the cache, too


async def test_projects_of_many_organisations_take_three_statements(processes: Processes, world: World) -> None:
    actor = 1_000_001
    expected = []
    for number in range(4):
        made = await processes.first.ask("POST", "/organisations", {"name": f"Many {number}"})
        path = f"/organisations/{made.json()['slug']}"
        for name in ("One", "Two"):
            await processes.first.ask("POST", f"{path}/projects", {"name": name})
            expected.append((name, made.json()["slug"]))
        await processes.first.ask("PUT", f"{path}/members/{actor}", {"projects": ["one", "two"]})
    world.redis.flush()
    cold, warm = [await processes.first.sql("/projects", actor=actor) for _ in range(2)]
    without = await processes.uncached.sql("/projects", actor=actor)
    assert [(project["name"], project["organisation"]) for project in cold[2]] == expected
    assert warm[2] == without[2] == cold[2]
    assert [cold[0], *warm[:2], *without[:2]] == [3, 0, 3, 3, 0]


async def test_a_request_repeats_no_lookup(processes: Processes, acme: str) -> None:
    path = f"{acme}/releases/1.0"
    await processes.first.ask("PUT", path, release("aaaaaa1"))
    assert (await processes.first.ask("GET", path)).status_code == 200
    deleted = await processes.first.http.delete(path, headers={"X-Actor": str(OWNER), "X-Count": "1"})
    # Reads of organisation, release and permissions, then mark and clear. The deletion selects the old key values.
    assert (deleted.headers["X-SQL"], deleted.headers["X-Cache"]) == ("2", "5")


# Bad requests -------------------------------------------------------------------------------------------------


async def test_bad_requests_get_an_error_message(processes: Processes, acme: str) -> None:
    put = f"{acme}/releases/1.0"
    refused: list[tuple[int, str, str, Any]] = [
        (404, "GET", "/organisations/missing/releases/1.0", None),
        (404, "GET", put, None),
        (404, "DELETE", put, None),
        (404, "PUT", put, release(projects=("nothing",))),
        (422, "PUT", put, {"projects": ["web"]}),
        (422, "PUT", put, release(projects=())),
        (422, "PUT", put, release("not a sha")),
        (422, "PUT", put, release("aaaaaa1", "aaaaaa1")),
        (422, "PUT", put, release() | {"comits": []}),
        (422, "PUT", f"{acme}/releases/a%20b", release()),
        (422, "PUT", f"{acme}/members/{2**63}", {"projects": []}),
        (422, "PUT", f"{acme}/members/3", {"projects": ["web\0"]}),
        (422, "GET", "/organisations/%00/releases", None),
        (422, "POST", "/organisations", {"name": " "}),
        (422, "POST", "/organisations", {"name": "a\0"}),
        (422, "POST", "/organisations", {"name": "x" * 65}),
        (422, "POST", f"{acme}/projects", None),
    ]
    for status, method, path, body in refused:
        answer = await processes.first.ask(method, path, body)
        assert (answer.status_code, bool(answer.json()["error"])) == (status, True), (method, path, body)
    assert (await processes.first.http.get("/projects")).status_code == 401
    assert (await processes.first.http.get("/projects", headers={"X-Actor": "Kim"})).status_code == 401
