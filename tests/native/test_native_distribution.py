"""The distribution of the extension: it is installed from source with a compiler and without one."""

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import skip_or_fail
from tests.native.building import compiler

pytestmark = pytest.mark.slow(because="builds the extension and installs it, twice")

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "native" / "pyproject.toml").read_text("utf-8"))
VERSION = PROJECT["project"]["version"]
IMPORT = "import aiomodelcache_native; print(aiomodelcache_native.INTERFACE)"


def run(*command: Any, cwd: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        list(map(str, command)), cwd=cwd, env=os.environ | environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def build_backend(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the build backend, which most tests share. Skips or fails without a package index."""
    folder = tmp_path_factory.mktemp("backend")
    wanted = PROJECT["build-system"]["requires"]
    found = run(sys.executable, "-m", "pip", "install", "--retries", "0", "--target", ".", *wanted, cwd=folder)
    if found.returncode:
        skip_or_fail("index", f"no package index: {found.stderr.strip().splitlines()[-1]}")
    return folder


@pytest.fixture(scope="module")
def sdist(build_backend: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    shutil.copytree(ROOT / "native", folder / "native")
    command = (sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", folder, folder / "native")
    built = run(*command, cwd=folder, PYTHONPATH=str(build_backend))
    assert not built.returncode, built.stdout + built.stderr
    return folder / f"aiomodelcache_native-{VERSION}.tar.gz"


def install(sdist: Path, folder: Path, *options: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Installs the sdist into a folder, and returns what importing the extension from there gives."""
    target = folder / "site"
    installed = run(
        *(sys.executable, "-m", "pip", "install", "--no-cache-dir", *options, "--target", target, sdist),
        cwd=folder,
        **environment,
    )
    assert not installed.returncode, installed.stdout + installed.stderr
    assert (target / f"aiomodelcache_native-{VERSION}.dist-info").is_dir()
    return run(sys.executable, "-c", IMPORT, cwd=folder, PYTHONPATH=str(target))


def test_the_sdist_has_the_source_and_the_licence(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {Path(name).name for name in archive.getnames()}
    assert {each.name for each in (ROOT / "native").iterdir() if each.is_file()} <= names


def test_it_is_installed_without_a_compiler(sdist: Path, build_backend: Path, tmp_path: Path) -> None:
    given = {"CC": str(tmp_path / "no-compiler"), "PYTHONPATH": str(build_backend)}
    imported = install(sdist, tmp_path, "--no-build-isolation", **given)
    assert "ModuleNotFoundError" in imported.stderr


def test_it_is_built_by_a_compiler(sdist: Path, tmp_path: Path) -> None:
    imported = install(sdist, tmp_path, CC=compiler())
    assert imported.stdout == "1\n", imported.stderr


def test_a_wheel_without_the_extension_is_not_built_for_a_release(
    sdist: Path, build_backend: Path, tmp_path: Path
) -> None:
    command = (sys.executable, "-m", "pip", "wheel", "--no-cache-dir", "--no-build-isolation", sdist)
    given = PROJECT["tool"]["cibuildwheel"]["environment"] | {"PYTHONPATH": str(build_backend)}
    built = run(*command, cwd=tmp_path, CC=str(tmp_path / "no-compiler"), **given)
    assert "no-compiler" in built.stdout + built.stderr
    assert built.returncode


def test_wheels_are_built_for_every_python_of_the_library() -> None:
    library = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    versions = [each.rpartition(" ")[2] for each in library["classifiers"] if "Python :: 3." in each]
    assert PROJECT["tool"]["cibuildwheel"]["build"] == " ".join(f"cp{each.replace('.', '')}-*" for each in versions)
    assert PROJECT["project"]["requires-python"] == library["requires-python"]
