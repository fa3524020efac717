"""The pytest plugin in projects of its own: with each runner of async tests, in several processes, and unused."""

import tomllib
from pathlib import Path

import pytest

import pytest_aiomodelcache
from tests.support.servers import RedisServer

pytestmark = pytest.mark.slow(because="runs pytest in projects of its own")

pytest_plugins = "pytester"

ROOT = Path(__file__).parent.parent.parent

MODELS = """
from tortoise import fields
from aiomodelcache import CachedModel

class Shop(CachedModel):
    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=20, unique=True)

    class CacheMeta:
        get_key_fields_list = [("name",)]
"""

FIXTURES = """
import {module} as runner
import pytest
from tortoise.context import tortoise_test_context

@runner.fixture
async def database():
    async with tortoise_test_context(["shops"]) as context:
        yield context

@pytest.fixture
def model_cache_database(database):
    pass
"""

TESTS = """
import pytest
from aiomodelcache.testing import assert_ops
from shops import Shop

{marks}

async def test_the_cache_answers(model_cache):
    shop = await Shop.create(name="corner")
    async with assert_ops(sql=1):
        assert await Shop.cache.get(name="corner") == shop
    async with assert_ops(sql=0, redis=1):
        assert await Shop.cache.get(name="corner") == shop

async def test_it_was_empty(model_cache, cache_ops):
    assert await Shop.cache.get_or_none(name="corner") is None
    assert cache_ops.operations == ["read", "lease", "fill"]
    assert len(cache_ops.statements) == 1
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A project of a user, whose pytest loads only the plugins that ``run`` names."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    pytester.makepyfile(shops=MODELS)
    return pytester


def write(project: pytest.Pytester, *, module: str = "pytest", marks: str = "", **ini: str) -> None:
    project.makeconftest(FIXTURES.format(module=module))
    project.makepyfile(test_shops=TESTS.format(marks=marks))
    lines = [f"{name} = {value}" for name, value in {"filterwarnings": "error", **ini}.items()]
    project.makeini("\n".join(["[pytest]", *lines]))


def run(project: pytest.Pytester, *plugins: str, arguments: tuple[str, ...] = ()) -> pytest.RunResult:
    loaded = [argument for plugin in ("pytest_aiomodelcache", *plugins) for argument in ("-p", plugin)]
    return project.runpytest_subprocess("-p", "no:cacheprovider", *loaded, *arguments)


ASYNCIO, ANYIO, XDIST = "pytest_asyncio.plugin", "anyio.pytest_plugin", "xdist.plugin"
AUTO = {"asyncio_mode": "auto", "asyncio_default_fixture_loop_scope": "function"}


class TestRunners:
    def test_the_plugin_works_with_pytest_asyncio(self, project: pytest.Pytester) -> None:
        write(project, **AUTO)
        run(project, ASYNCIO).assert_outcomes(passed=2)

    def test_the_plugin_works_with_pytest_asyncio_in_strict_mode_and_one_event_loop(
        self, project: pytest.Pytester
    ) -> None:
        write(
            project,
            module="pytest_asyncio",
            marks="pytestmark = pytest.mark.asyncio",
            asyncio_mode="strict",
            asyncio_default_fixture_loop_scope="session",
            asyncio_default_test_loop_scope="session",
        )
        run(project, ASYNCIO).assert_outcomes(passed=2)

    def test_the_plugin_works_with_anyio(self, project: pytest.Pytester) -> None:
        write(
            project,
            marks="pytestmark = pytest.mark.anyio\n"
            "@pytest.fixture(scope='module')\ndef anyio_backend(): return 'asyncio'",
        )
        run(project, ANYIO).assert_outcomes(passed=2)

    def test_the_plugin_works_with_anyio_beside_pytest_asyncio(self, project: pytest.Pytester) -> None:
        write(
            project,
            marks="pytestmark = pytest.mark.anyio\n"
            "@pytest.fixture(scope='module')\ndef anyio_backend(): return 'asyncio'",
            asyncio_mode="strict",
            asyncio_default_fixture_loop_scope="function",
        )
        run(project, ANYIO, ASYNCIO).assert_outcomes(passed=2)
        run(project, ASYNCIO, ANYIO).assert_outcomes(passed=2)


@pytest.mark.parametrize(
    ("filters", "outcome"),
    [("error", "passed"), ("\n error\n error::aiomodelcache.CacheNotOpenWarning", "failed")],
)
def test_tests_may_write_while_no_cache_is_open_unless_a_filter_names_the_warning(
    project: pytest.Pytester, filters: str, outcome: str
) -> None:
    write(project, filterwarnings=filters, **AUTO)
    project.makepyfile(
        test_shops="from shops import Shop\n\nasync def test_a_row(database):\n    await Shop.create(name='corner')\n"
    )
    run(project, ASYNCIO, arguments=("-W", "error") if outcome == "passed" else ()).assert_outcomes(**{outcome: 1})


def test_tests_in_several_processes_share_a_server_and_no_entries(
    project: pytest.Pytester, redis_server: RedisServer
) -> None:
    pytest.importorskip("xdist", reason="pytest-xdist is not installed")
    redis_server.flush()
    with redis_server.client() as client:
        client.set("amc:another:key", "value")
        write(project, **AUTO, aiomodelcache_url=redis_server.patient_url)
        # All tests write the same row: one after another in each process, and at once in two processes.
        project.makepyfile(
            test_many="""
            import pytest
            from shops import Shop
            from aiomodelcache.testing import assert_ops

            @pytest.mark.parametrize("number", range(10))
            async def test_it_is_empty(model_cache, number):
                async with assert_ops(redis=["read", "lease", "fill"]):
                    assert await Shop.cache.get_or_none(name="corner") is None
                await Shop.create(id=1, name="corner")
                for _ in range(20):
                    assert (await Shop.cache.get(id=1)).name == "corner"
                    assert (await Shop.cache.get(name="corner")).id == 1
            """
        )
        run(project, ASYNCIO, XDIST, arguments=("-n", "2")).assert_outcomes(passed=12)
        assert client.keys() == [b"amc:another:key"]


def test_the_plugin_works_in_transactions_that_are_rolled_back(project: pytest.Pytester) -> None:
    write(project, **AUTO)
    project.makeconftest("""
        import pytest
        from tortoise.context import TortoiseContext
        from tortoise.transactions import in_transaction
        from shops import Shop

        @pytest.fixture
        async def rollback():
            async with TortoiseContext() as context:
                await context.init(db_url="sqlite://app.sqlite3", modules={"models": ["shops"]})
                await context.generate_schemas(safe=True)
                async with in_transaction() as transaction:
                    yield
                    await transaction.rollback()
                assert await Shop.all().count() == 0

        @pytest.fixture
        def model_cache_database(rollback):
            pass
    """)
    run(project, ASYNCIO).assert_outcomes(passed=2)


def test_the_cache_has_the_settings_of_a_fixture(project: pytest.Pytester) -> None:
    write(project, **AUTO)
    project.makepyfile(
        test_settings="""
        import pytest

        @pytest.fixture
        def model_cache_settings():
            return {"timeout": "5m", "enabled": False}

        async def test_they_are_used(model_cache):
            assert (model_cache.config.timeout, model_cache.config.enabled) == (300, False)
        """
    )
    run(project, ASYNCIO, arguments=("test_settings.py",)).assert_outcomes(passed=1)


def test_the_error_without_a_database_names_the_fixture_to_override(project: pytest.Pytester) -> None:
    write(project, **AUTO)
    project.makeconftest("")
    result = run(project, ASYNCIO)
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(["*Tortoise is not initialised*model_cache_database*"])


def test_a_project_that_uses_no_fixture_imports_nothing(project: pytest.Pytester) -> None:
    project.makepyfile("""
        import sys

        def test_of_something_else(request):
            assert [name for name in sys.modules if name.split(".")[0] in ("aiomodelcache", "tortoise")] == []
            assert [name for name in request.fixturenames if "cache" in name] == []
    """)
    run(project, ASYNCIO).assert_outcomes(passed=1)


def test_the_installed_package_registers_the_plugin() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    # The entry point has the module's name, so that `-p pytest_aiomodelcache` loads no second plugin.
    assert project["project"]["entry-points"]["pytest11"] == {"pytest_aiomodelcache": pytest_aiomodelcache.__name__}
    assert (
        f"{pytest_aiomodelcache.__name__}.py" in project["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]
    )
    assert not any("pytest" in dependency for dependency in project["project"]["dependencies"])
