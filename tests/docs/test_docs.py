"""What docs/ and CHANGELOG.md name exists: modules, functions, tests."""

import re
from pathlib import Path

import pytest

import aiomodelcache

ROOT = Path(__file__).parents[2]
PACKAGE = Path(aiomodelcache.__file__).parent
PAGES = sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md"))
DOCUMENTS = ["README.md", "CHANGELOG.md", *PAGES]
QUOTED = re.compile(r"`([^`\n]+)`")
SOURCES = "\n".join(path.read_text("utf-8") for path in PACKAGE.rglob("*.py"))


def text(document: str) -> str:
    return (ROOT / document).read_text("utf-8")


def test_the_architecture_names_every_module() -> None:
    table = text("docs/architecture.md").split("## The way of a `get`")[0]
    modules = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"}
    assert {name for name in QUOTED.findall(table) if name.endswith(".py")} - {
        "tests/meta/test_architecture.py"
    } == modules


def test_the_classes_and_functions_on_the_way_of_a_get_exist() -> None:
    names = re.findall(r"`([A-Z]\w+)\.(\w+)`", text("docs/architecture.md"))
    assert len(names) > 10
    for owner, member in names:
        if owner not in ("Event", "Tortoise"):
            classes = re.findall(rf"^class {owner}\b.*?(?=^\S|\Z)", SOURCES, re.MULTILINE | re.DOTALL)
            assert re.search(rf"^    (async )?def {member}\b", "".join(classes), re.MULTILINE), f"{owner}.{member}"
    for function in ("rows_at", "enlist"):
        assert f"`{function}`" in text("docs/architecture.md")
        assert f"\ndef {function}(" in SOURCES


def test_every_test_that_is_referred_to_exists() -> None:
    references = re.findall(r"`(tests/[\w/]+\.py)::(?:(\w+)::)?(\w+)`", text("docs/architecture.md"))
    assert len(references) > 10
    for path, _, name in references:
        assert re.search(rf"\bdef {name}\(", text(path)), f"{path} has no {name}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    folder = (ROOT / document).parent
    for target, heading in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", text(document)):
        assert (folder / target).exists(), f"{document} links to {target}"
        if heading:
            linked = (folder / target).read_text("utf-8") if target else text(document)
            headings = re.findall(r"^#+ (.*)$", linked, re.MULTILINE)
            assert heading in [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings]
