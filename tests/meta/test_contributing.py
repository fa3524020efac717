"""CONTRIBUTING.md, RELEASING.md and the Makefile: named paths exist, and commands run as documented."""

import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
TARGETS = set(re.findall(r"^([a-z-]+)(?: [a-z]+)*:(?!=)", MAKEFILE, re.MULTILINE))
FOLDERS = ("aiomodelcache", "tests", "docs", ".")
FROM_MAKE = {"CI", "MAKEFLAGS", "MAKELEVEL", "PYTHON"}
"""Environment variables that make may set for these tests, which the tested make must not inherit."""
PROGRAM = "#!/bin/sh\n{}\n"


def text(document: str) -> str:
    return (ROOT / document).read_text("utf-8")


@functools.cache
def planned(*arguments: str, **environment: str) -> str:
    """Returns the commands that ``make`` would run: asked once, because it may look for a Python."""
    variables = {name: value for name, value in os.environ.items() if name not in FROM_MAKE}
    command = ["make", "--dry-run", "--no-print-directory", *arguments]
    run = subprocess.run(command, cwd=ROOT, env=variables | environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout


def pytest_line(output: str) -> str:
    """Returns the only line that runs pytest."""
    lines = [line for line in output.splitlines() if "-m pytest" in line]
    assert len(lines) == 1, output
    return lines[0]


@pytest.mark.parametrize("document", ["CONTRIBUTING.md", "RELEASING.md", ".pre-commit-config.yaml"])
def test_documented_make_commands_are_targets_of_the_makefile(document: str) -> None:
    named = [command.split() for command in re.findall(r"(?:^ *|`)make ((?:[a-z-]+ ?)+)", text(document), re.MULTILINE)]
    assert named
    assert {word for words in named for word in words} - TARGETS == set()


def test_make_without_a_target_lists_the_documented_commands() -> None:
    listed = set(re.findall(r'@echo "make ([\w-]+)', MAKEFILE))
    assert listed <= TARGETS
    assert {
        word for words in re.findall(r"`make ([\w-]+)", text("CONTRIBUTING.md")) for word in words.split()
    } <= listed


@pytest.mark.parametrize("document", ["CONTRIBUTING.md", "RELEASING.md", ".pre-commit-config.yaml"])
def test_documented_paths_exist(document: str) -> None:
    made = {".venv", ".venv-3.13", ".venv/bin/ruff", ".venv/bin/python", "dist"}
    found = re.findall(r"[`(= ]((?:\.?[\w-]+/)+(?:[\w-]+\.\w+)?|\w+\.(?:md|py|toml))(?=[`)#, \n])", text(document))
    paths = {path.rstrip("/") for path in found} - made
    assert len(paths) > (0 if document.startswith(".") else 3)
    assert [path for path in paths if not any((ROOT / folder / path).exists() for folder in FOLDERS)] == []


def test_paths_in_the_help_of_make_exist() -> None:
    paths = re.findall(r"tests/[\w/]+\.py", planned("help"))
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_table_of_folders_names_every_package() -> None:
    table = text("CONTRIBUTING.md").split("## Where things live")[1].split("## Voice")[0]
    packages = {path.parent.name for path in (ROOT / "aiomodelcache").glob("*/__init__.py")} - {"contrib", "testing"}
    assert packages - set(re.findall(r"`(\w+)/`", table)) == set()


def test_pre_commit_hooks_run_the_programs_of_the_makefile() -> None:
    programs = re.findall(r"entry: (\S+)", text(".pre-commit-config.yaml"))
    assert len(programs) == 3
    assert set(programs) == {".venv/bin/ruff", ".venv/bin/python"}


# Commands of make -----------------------------------------------------------------------------------------------


def test_make_test_runs_one_file_without_coverage_and_linters() -> None:
    output = planned("test", "T=tests/query/test_reads.py -k some")
    assert pytest_line(output).endswith("pytest --durations=10  tests/query/test_reads.py -k some")
    assert "lint types" not in output


def test_make_test_ignores_a_name_in_the_environment() -> None:
    assert planned("test", T="tests/query") == planned("test")


def test_make_test_runs_a_folder_in_several_processes() -> None:
    assert "--dist loadfile" in pytest_line(planned("test", "T=tests/query"))


def test_make_test_without_a_name_runs_everything() -> None:
    output = planned("test")
    assert "--keep-going lint types" in output
    assert "--cov" not in pytest_line(output)


def test_make_check_measures_the_coverage_too() -> None:
    coverage = " --cov --cov-report=term-missing:skip-covered"
    for output in (planned("check"), planned("check", "T=tests/query")):
        assert pytest_line(output).replace(coverage, "", 1) == pytest_line(planned("test"))


def test_make_uses_a_separate_environment_for_another_python() -> None:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for output in (planned("quick", f"PYTHON={sys.executable}"), planned("quick", PYTHON=sys.executable)):
        assert f" .venv-{version}/bin/python -m pytest" in pytest_line(output)
    assert " .venv/bin/python -m pytest" in pytest_line(planned("quick"))


def test_make_names_a_missing_python(tmp_path: Path) -> None:
    command = ["make", "quick", f"PYTHON={tmp_path}/python3.99"]
    variables = {name: value for name, value in os.environ.items() if name not in FROM_MAKE}
    run = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    assert run.returncode != 0
    assert f"{tmp_path}/python3.99 is missing or older than Python 3.11" in run.stderr
    assert not (ROOT / ".venv-missing").exists()


@pytest.mark.parametrize(("value", "required"), [("true", True), ("1", True), ("false", False), ("0", False)])
def test_in_ci_make_requires_the_available_servers(value: str, required: bool) -> None:
    for arguments in (["test"], ["test", "T=tests/query"]):
        assert ("AIOMODELCACHE_REQUIRE=" in planned(*arguments, CI=value)) is required


# Available Pythons --------------------------------------------------------------------------------------


def interpreter(path: Path, program: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(PROGRAM.format(program))
    path.chmod(0o755)
    return path


def pythons(path: Path, pyenv: Path, *names: str) -> list[Path]:
    """Returns the interpreters that ``.ci/pythons`` prints for these folders as PATH and as pyenv's root."""
    environment = {"PATH": f"{path}{os.pathsep}/nowhere", "PYENV_ROOT": str(pyenv), "HOME": str(pyenv)}
    run = subprocess.run(
        ["/bin/sh", ROOT / ".ci" / "pythons", *names], env=environment, capture_output=True, text=True, check=True
    )
    assert run.stderr == ""
    return [Path(line) for line in run.stdout.splitlines()]


def test_pythons_are_found_on_path_and_in_the_folder_of_pyenv(tmp_path: Path) -> None:
    path, pyenv = tmp_path / "a path", tmp_path / "pyenv"
    works = f'exec "{sys.executable}" "$@"'
    eleven = interpreter(path / "python3.11", works)
    interpreter(pyenv / "versions" / "3.11.0" / "bin" / "python3.11", works)
    interpreter(path / "python3.12", "exit 127")  # a shim of a version that pyenv has not selected
    twelve = interpreter(pyenv / "versions" / "3.12.1" / "bin" / "python3.12", works)
    old = interpreter(path / "python3.9", "exit 1")
    assert pythons(path, pyenv) == [eleven, twelve]
    assert pythons(path, pyenv, "python3.12") == [twelve]
    assert pythons(path, pyenv, str(eleven)) == [eleven]
    assert pythons(path, pyenv, "python3.9") == pythons(path, pyenv, str(old)) == pythons(path, pyenv, "other") == []
