"""mypy and pyright, both in strict mode, infer the expected types in the other modules of this folder."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import aiomodelcache
from aiomodelcache import BatchCacheQuery, ModelCache, ModelCacheManager

pytestmark = pytest.mark.slow(because="runs mypy and pyright")

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
FILES = sorted(path for path in HERE.glob("*.py") if not path.name.startswith(("test_", "__")))

Errors = dict[tuple[str, int], str]
"""Messages by file name and line."""


def wrong_lines() -> set[tuple[str, int]]:
    return {
        (path.name, number)
        for path in FILES
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if line.endswith("# wrong")
    }


def check(*command: str) -> str:
    """Runs a type checker on the files and returns its output."""
    run = subprocess.run(
        [sys.executable, "-m", *command, *map(str, FILES)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode in (0, 1), run.stderr
    return run.stdout


def assert_only_wrong_lines(errors: Errors) -> None:
    expected = wrong_lines()
    assert len(expected) > 10
    assert {place: message for place, message in errors.items() if place not in expected} == {}
    assert expected - errors.keys() == set(), "the type checker accepts these lines"


def test_mypy_infers_the_expected_types() -> None:
    output = check("mypy", "--config-file=", "--strict", "--output=json")
    found = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    assert_only_wrong_lines(
        {(Path(error["file"]).name, error["line"]): error["message"] for error in found if error["severity"] == "error"}
    )


def test_pyright_infers_the_expected_types() -> None:
    # The project's settings turn strict mode on. The files named here replace those of the settings.
    output = check("pyright", "--outputjson", "--pythonpath", sys.executable)
    found = json.loads(output)["generalDiagnostics"]
    assert_only_wrong_lines(
        {
            (Path(error["file"]).name, error["range"]["start"]["line"] + 1): error["message"]
            for error in found
            if error["severity"] == "error"
        }
    )


def test_every_public_name_and_method_is_used_in_these_modules() -> None:
    text = "\n".join(path.read_text("utf-8") for path in FILES)
    names = [name for name in aiomodelcache.__all__ if not name.startswith("CACHE_TIME_")]
    assert [name for name in names if not re.search(rf"\b{name}\b", text)] == []
    for cls in (ModelCacheManager, ModelCache, BatchCacheQuery):
        public = [name for name in dir(cls) if not name.startswith("_") and name != "open_cache"]
        assert [name for name in public if not re.search(rf"\.{name}\b|\b{name} =", text)] == [], cls
