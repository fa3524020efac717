"""``make dist``: wheel and sdist are complete, and a program can use each in a clean environment."""

import email
import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.conftest import skip_or_fail

pytestmark = pytest.mark.slow(because="builds the package and installs it, twice")

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
VERSION = PROJECT["version"]
DOCUMENTS = {"CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "README.md", "RELEASING.md", "SECURITY.md"}
FILES = {".gitignore", ".pre-commit-config.yaml", "Makefile", "PKG-INFO", "pyproject.toml", "pytest_aiomodelcache.py"}
FOLDERS = {".ci", "aiomodelcache", "benchmarks", "docs", "examples", "native", "soak", "tests"}

PROGRAM = """
import asyncio
import sys

from tortoise import Tortoise, fields

import aiomodelcache
from aiomodelcache import CachedModel, ModelCache
from aiomodelcache.testing import assert_ops


class Event(CachedModel):
    id = fields.IntField(primary_key=True)
    slug = fields.CharField(max_length=64, unique=True)

    class CacheMeta:
        get_key_fields_list = [("slug",)]


async def main():
    await Tortoise.init(db_url="sqlite://:memory:", modules={"app": ["__main__"]})
    await Tortoise.generate_schemas()
    async with ModelCache(sys.argv[1]):
        event = await Event.create(slug="pycon")
        assert await Event.cache.get(slug="pycon") == event
        async with assert_ops(redis=1, sql=0):
            assert await Event.cache.get(slug="pycon") == event
        event.slug = "pycon-lisbon"
        await event.save()
        assert await Event.cache.get_or_none(slug="pycon") is None
    await Tortoise.close_connections()


asyncio.run(main())
print(aiomodelcache.__file__)
"""


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Runs a program outside of the checkout and returns what it printed."""
    given = os.environ | environment
    result = subprocess.run(command, cwd=cwd, env=given, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def pip(python: Path, *arguments: str | Path, cwd: Path) -> str:
    """Runs our own pip for another environment, where installing one would take as long as the rest."""
    return run(sys.executable, "-m", "pip", "--python", python, *arguments, cwd=cwd)


def content(*folders: Path) -> set[str]:
    """Returns the files in folders of the checkout, by path, without Python's caches."""
    return {
        str(path.relative_to(ROOT))
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def build_backend(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the build backend. Skips or fails unless a package index offers that and the dependencies."""
    folder = tmp_path_factory.mktemp("backend")
    always = [sys.executable, "-m", "pip", "--retries", "0", "--timeout", "10"]
    for arguments in (["download", "--no-deps", *PROJECT["dependencies"]], ["install", "--target", ".", "hatchling"]):
        found = subprocess.run([*always, *arguments], cwd=folder, capture_output=True, text=True, check=False)
        if found.returncode:
            skip_or_fail("index", f"no package index: {found.stderr.strip().splitlines()[-1]}")
    return folder


@pytest.fixture(scope="module")
def distributions(build_backend: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheel and the sdist, built as ``make dist`` does, but both with one installation of the backend."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT]
    run(*command, cwd=folder, PYTHONPATH=str(build_backend))
    wheel, sdist = folder / f"aiomodelcache-{VERSION}-py3-none-any.whl", folder / f"aiomodelcache-{VERSION}.tar.gz"
    assert set(folder.iterdir()) == {wheel, sdist}
    return {"wheel": wheel, "sdist": sdist}


@pytest.fixture(scope="module", params=["wheel", "sdist"])
def installed(
    request: pytest.FixtureRequest, distributions: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The Python of an environment that has only one of the distributions and its dependencies."""
    folder = tmp_path_factory.mktemp(request.param)
    run(sys.executable, "-m", "venv", "--without-pip", folder / "env", cwd=folder)
    python = folder / "env" / "bin" / "python"
    pip(python, "install", "--quiet", "--no-compile", distributions[request.param], cwd=folder)
    return python


def test_the_wheel_has_exactly_the_package_and_the_plugin(distributions: dict[str, Path]) -> None:
    with zipfile.ZipFile(distributions["wheel"]) as wheel:
        information = f"aiomodelcache-{VERSION}.dist-info"
        names = set(wheel.namelist())
        metadata = email.message_from_bytes(wheel.read(f"{information}/METADATA"))
        entry_points = wheel.read(f"{information}/entry_points.txt").decode()
    package = content(ROOT / "aiomodelcache") | {"pytest_aiomodelcache.py"}
    assert "aiomodelcache/py.typed" in package
    assert any(name.endswith(".lua") for name in package)
    assert names == package | {
        f"{information}/{name}" for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")
    }
    command = "[console_scripts]\naiomodelcache = aiomodelcache.__main__:main\n"
    assert entry_points == f"{command}\n[pytest11]\npytest_aiomodelcache = pytest_aiomodelcache\n"
    assert (metadata["Name"], metadata["Version"]) == ("aiomodelcache", VERSION)
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "MIT"
    assert sorted(metadata.get_all("Classifier", [])) == sorted(PROJECT["classifiers"])
    needed = [each for each in metadata.get_all("Requires-Dist", []) if "extra ==" not in each]
    assert sorted(needed) == sorted(PROJECT["dependencies"])
    assert metadata.get_payload() == (ROOT / "README.md").read_text("utf-8")


def test_the_sdist_has_all_files_of_a_checkout(distributions: dict[str, Path]) -> None:
    with tarfile.open(distributions["sdist"]) as sdist:
        names = {name.removeprefix(f"aiomodelcache-{VERSION}/") for name in sdist.getnames()}
    assert names == DOCUMENTS | FILES | content(*(ROOT / folder for folder in FOLDERS))


def test_twine_accepts_both_distributions(distributions: dict[str, Path], tmp_path: Path) -> None:
    output = run(sys.executable, "-m", "twine", "check", "--strict", *distributions.values(), cwd=tmp_path)
    assert output.count("PASSED") == 2


def test_a_program_can_use_the_installed_package(installed: Path, backend_url: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    used = run(installed, "-I", "-W", "error", "program.py", backend_url, cwd=tmp_path)
    assert Path(used.strip()).is_relative_to(installed.parents[1])


def test_the_installed_package_has_all_its_dependencies(installed: Path, tmp_path: Path) -> None:
    assert pip(installed, "check", cwd=tmp_path) == "No broken requirements found.\n"
