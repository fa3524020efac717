"""The configuration of commands, its precedence, and errors that name the remedy."""

import subprocess
import sys
from pathlib import Path

import pytest

from aiomodelcache.cli.settings import SETTING_NAMES
from tests.support.application import MODULE, Application
from tests.support.warm import ROOT


def test_a_missing_setting_names_every_place_to_set_it(application: Application) -> None:
    application.keys = {"tortoise": "", "url": ""}
    application.configure()
    error = application.run("explain", "Listing", "id=1", status=2).err
    assert "url" in error
    assert all(part in error for part in ("[tool.aiomodelcache] of pyproject.toml", "AIOMODELCACHE_URL", "--url"))
    error = application.run("check", status=2).err
    assert all(part in error for part in ("tortoise", "AIOMODELCACHE_TORTOISE", "--tortoise"))


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("colour", '"red"', "has no key 'colour'. Its keys: tortoise, url, namespace, imports, config."),
        ("imports", '"one.module"', "imports is <str>: it must be a list of strings."),
        ("imports", "[1]", "imports is <list>: it must be a list of strings."),
        ("url", "7", "url is <int>: it must be a string."),
        ("imports", '["no.such.module"]', "imports names the module no.such.module, which cannot be found"),
        ("tortoise", '"settings"', "it must name a module and an attribute"),
        ("tortoise", '"json.nothing"', "json has no nothing."),
        ("tortoise", '"json.__name__"', "which is <str>: it must lead to the dict"),
        ("config", '"json.loads"', "it must lead to a CacheConfig"),
    ],
)
def test_a_wrong_setting_is_an_error_that_names_it(
    application: Application, key: str, value: str, expected: str
) -> None:
    application.keys = {key: value}
    application.configure()
    assert expected in application.run("check", status=2).err


@pytest.mark.parametrize(
    "place", ["settings", "a function of the settings", "a module of imports", "a module of models"]
)
def test_an_exception_of_the_application_is_no_fault_found(application: Application, place: str) -> None:
    application.configure()
    broken = f"broken_{application.folder.name}_{place.count(' ')}_{len(place)}"
    code = 'def config():\n    raise KeyError("DATABASE_URL")\n'
    (application.folder / f"{broken}.py").write_text(code if "function" in place else f"{code}config()\n")
    if "settings" in place:
        application.keys = {"tortoise": f'"{broken}.config"'}
    elif "imports" in place:
        application.keys = {"imports": f'["{broken}"]'}
    else:
        application.modules = (broken,)
    application.configure()
    error = application.run("check", status=2).err
    assert "Traceback" in error
    assert f'{broken}.py", line 2, in config' in error
    assert error.endswith("error: KeyError was raised, mostly by the application's own code: see above.\n")


def test_a_file_that_is_no_toml_is_named(application: Application) -> None:
    (application.folder / "pyproject.toml").write_text("[tool")
    assert f"{application.folder / 'pyproject.toml'} cannot be read" in application.run("check", status=2).err


def test_options_override_the_environment_which_overrides_the_file(
    filled: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("explain", "Listing", "slug=secret-1", "--json")
    assert filled.run(*arguments).data["key"].startswith("shop:amc:")
    monkeypatch.setenv("AIOMODELCACHE_NAMESPACE", "other")
    assert filled.run(*arguments).data["key"].startswith("other:amc:")
    assert filled.run(*arguments, "--namespace", "third").data["key"].startswith("third:amc:")


def test_every_setting_can_be_set_by_the_environment_alone(filled: Application) -> None:
    """Without a file, as in a container."""
    (filled.folder / "pyproject.toml").unlink()
    (filled.folder / "caching.py").write_text(
        "from aiomodelcache import CacheConfig\nCONFIG = CacheConfig(timeout=77)\n"
    )
    given = {
        "AIOMODELCACHE_TORTOISE": f"{filled.settings_module}.TORTOISE_ORM",
        "AIOMODELCACHE_URL": filled.redis.url,
        "AIOMODELCACHE_NAMESPACE": "shop",
        "AIOMODELCACHE_IMPORTS": f"json, {MODULE}",
        "AIOMODELCACHE_CONFIG": "caching.CONFIG",
    }
    assert len(given) == len(SETTING_NAMES)
    assert "titles" in filled.process("check", **given).out
    assert filled.process("explain", "titles", "1", "--json", **given).data["source"] == "cache"
    [mark] = [row for row in filled.process("check", "--json", **given).data["caches"] if row["name"] == "Mark"]
    assert mark["timeout"] == 77


def test_the_file_is_found_from_a_folder_below(filled: Application) -> None:
    below = filled.folder / "deep" / "deeper"
    below.mkdir(parents=True)
    run = subprocess.run(
        filled.start("check", "--json"), cwd=below, env=filled.environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr


def test_a_store_that_does_not_answer_is_status_3(application: Application) -> None:
    ran = application.run("explain", "Listing", "id=1", "--url", "redis://127.0.0.1:1", status=3)
    assert "Redis at 127.0.0.1:1 cannot be reached" in ran.err
    assert "--url" in ran.err
    assert ran.out == ""


def test_a_store_inside_of_the_application_is_refused(application: Application) -> None:
    assert "use the URL of a Redis" in application.run("explain", "Listing", "id=1", "--url", "memory://", status=2).err


WITHOUT = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {name!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
sys.argv = ["aiomodelcache", "check"]
import runpy
runpy.run_module("aiomodelcache", run_name="__main__")
"""


@pytest.mark.parametrize("name", ["click", "rich"])
def test_without_the_extra_the_command_says_what_to_install(name: str, tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(name=name)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout) == (2, "")
    expected = f"aiomodelcache: {name} is missing, which the command line needs: pip install 'aiomodelcache[cli]'\n"
    assert run.stderr == expected


IMPORT = """
import sys
import tortoise.models, redis.asyncio
import aiomodelcache
names = {name.partition(".")[0] for name in sys.modules}
assert not names & {"click", "rich"}, names & {"click", "rich"}
assert not any(name.startswith("aiomodelcache.cli.") for name in sys.modules)
"""


def test_importing_the_package_imports_no_part_of_the_extra() -> None:
    run = subprocess.run([sys.executable, "-c", IMPORT], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
