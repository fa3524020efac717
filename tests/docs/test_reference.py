"""The documentation builds without a warning, and its reference has every public name."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import aiomodelcache
from aiomodelcache import testing
from tests.support.pages import DOCS, ROOT

REFERENCE = (DOCS / "reference.md").read_text("utf-8")
CLASSES = sorted(
    {
        value
        for module in (aiomodelcache, testing)
        for name in module.__all__
        if isinstance(value := getattr(module, name), type) and not issubclass(value, Exception)
    },
    key=lambda cls: cls.__name__,
)


@pytest.mark.slow(because="builds the documentation")
def test_the_documentation_builds_without_a_warning(tmp_path: Path) -> None:
    """Links that lead nowhere, pages that none leads to, and names that do not exist are warnings."""
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", str(tmp_path / "state")]
    built = subprocess.run([*command, str(DOCS), str(tmp_path / "html")], cwd=ROOT, capture_output=True, text=True)
    assert (built.returncode, built.stderr) == (0, "")


def test_the_reference_has_every_public_name() -> None:
    found = re.findall(r"^\.\. auto(?:class|exception|function):: (\w+)$|^\| `(CACHE_\w+)`", REFERENCE, re.MULTILINE)
    public = {*aiomodelcache.__all__, *testing.__all__}
    assert public - {one or other for one, other in found} == set(), "add them to docs/reference.md"


def test_the_durations_are_as_the_reference_says() -> None:
    table = dict(re.findall(r"^\| `(\w+)`[^|]*\| (\d+) \|$", REFERENCE, re.MULTILINE))
    assert table == {name: str(getattr(aiomodelcache, name)) for name in aiomodelcache.__all__ if name.isupper()}


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_public_class_has_an_example(cls: Any) -> None:
    assert ">>> " in (cls.__doc__ or "")
