"""No entry makes the extension read or write memory that is not its own: see ``fuzz``."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.native.building import SANITIZED, build, sanitized_environment
from tests.support.effort import FULL

pytestmark = [
    pytest.mark.exhaustive(because="decodes entries mutated at random for some seconds"),
    pytest.mark.slow(because="decodes mutated entries for some seconds, under sanitizers"),
]

ROOT = Path(__file__).parents[2]
SECONDS = 120 if FULL else 2


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The environment of a Python that runs under the sanitizers."""
    return sanitized_environment() | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}", "AIOMODELCACHE_NATIVE": "1"}


def test_mutated_entries_under_sanitizers(tmp_path: Path, environment: dict[str, str]) -> None:
    build(tmp_path, *SANITIZED)
    command = [sys.executable, "-m", "tests.native.fuzz", str(SECONDS), "1"]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    print(done.stdout, done.stderr)
    assert done.returncode == 0


def test_the_sanitizers_find_an_error(tmp_path: Path, environment: dict[str, str]) -> None:
    source = (ROOT / "native" / "aiomodelcache_native.c").read_text("utf-8")
    broken = source.replace("size < HEADER_SIZE ||", "0 ||")
    assert broken != source
    (tmp_path / "broken.c").write_text(broken, "utf-8")
    build(tmp_path, *SANITIZED, source=tmp_path / "broken.c")
    command = [sys.executable, "-m", "tests.native.fuzz", "60", "1"]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    assert "AddressSanitizer" in done.stderr
