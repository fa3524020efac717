"""The documentation builds without a warning, its search finds pages, and its reference has every public name."""

import json
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from sphinx.search.en import SearchEnglish

import aiomodelcache
from aiomodelcache import CacheConfig, testing
from aiomodelcache.declare.options import CLASS_ATTRIBUTES, META_ATTRIBUTES
from aiomodelcache.observe import stats
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


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the HTML. Dead links, orphaned pages and unknown names are warnings, which fail the build."""
    folder = tmp_path_factory.mktemp("docs")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", str(folder / "state")]
    run = subprocess.run([*command, str(DOCS), str(folder / "html")], cwd=ROOT, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
    return folder / "html"


@pytest.mark.slow(because="builds the documentation")
@pytest.mark.long(because="builds the documentation")
def test_the_documentation_builds_without_a_warning(built: Path) -> None:
    assert (built / "index.html").is_file()


@pytest.mark.slow(because="builds the documentation")
@pytest.mark.parametrize(
    ("word", "page"),
    [
        ("fastapi", "tutorial"),
        ("postgresql", "tutorial"),
        ("pagination", "guide/pagination"),
        ("metrics", "guide/metrics"),
        ("prometheus", "guide/metrics"),
        ("testing", "testing"),
        ("docker", "guide/deploy"),
        ("troubleshooting", "guide/troubleshooting"),
    ],
)
def test_the_search_finds_the_page_of_a_word(built: Path, word: str, page: str) -> None:
    """Looks up a word as the search page does: by its stem, in texts and in titles."""
    index = json.loads((built / "searchindex.js").read_text("utf-8").removeprefix("Search.setIndex(").removesuffix(")"))
    stem = SearchEnglish({}).stem(word)
    numbers: set[int] = set()
    for terms in (index["terms"], index["titleterms"]):
        found = terms.get(stem, [])
        numbers |= {found} if isinstance(found, int) else {*found}
    assert page in {index["docnames"][number] for number in numbers}


@pytest.mark.slow(because="builds the documentation")
def test_code_has_a_copy_button(built: Path) -> None:
    page = (built / "tutorial.html").read_text("utf-8")
    assert "copybutton.js" in page
    assert "copybutton.css" in page


def test_the_reference_has_every_public_name() -> None:
    found = re.findall(
        r"^\.\. auto(?:class|data|exception|function):: (\w+)\b(?!\.)|^\| `(CACHE_\w+)`", REFERENCE, re.MULTILINE
    )
    public = {*aiomodelcache.__all__, *testing.__all__}
    assert public - {name or constant for name, constant in found} == set(), "add them to docs/reference.md"


def test_the_reference_has_every_attribute_of_declarations() -> None:
    table = set(re.findall(r"^\| `(\w+)` \| (M|C|both) \|", REFERENCE, re.MULTILINE))
    both = META_ATTRIBUTES & CLASS_ATTRIBUTES
    of = {"both": both, "M": META_ATTRIBUTES - both, "C": CLASS_ATTRIBUTES - both}
    assert table == {(name, mark) for mark, names in of.items() for name in names}


def test_the_reference_has_every_part_of_the_counts() -> None:
    parts = {
        value.__name__
        for value in vars(stats).values()
        if isinstance(value, type) and value.__module__ == stats.__name__
    }
    assert parts == set(re.findall(r"^\.\. autoclass:: aiomodelcache\.observe\.stats\.(\w+)", REFERENCE, re.MULTILINE))


def test_the_reference_states_the_durations() -> None:
    table = dict(re.findall(r"^\| `(\w+)`[^|]*\| (\d+) \|$", REFERENCE, re.MULTILINE))
    assert table == {name: str(getattr(aiomodelcache, name)) for name in aiomodelcache.__all__ if name.isupper()}


def test_the_reference_states_the_defaults_of_the_settings() -> None:
    [shown] = re.findall(r"^\.\. autoclass:: CacheConfig\(\*, (.*)\)$", REFERENCE, re.MULTILINE)
    defaults = {field.name: field.default for field in fields(CacheConfig)}
    values = {name: value.__name__ if isinstance(value, type) else repr(value) for name, value in defaults.items()}
    assert shown == ", ".join(f"{name}={value}" for name, value in values.items())


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_public_class_has_an_example(cls: Any) -> None:
    assert ">>> " in (cls.__doc__ or "")
