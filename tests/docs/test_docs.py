"""README, CHANGELOG.md and docs/: the names in them exist, their links lead somewhere, their code fits, their voice."""

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


OF_OTHERS = {"docs/architecture.md", "docs/consistency.md"}
"""Pages whose voice and diagrams are not checked here."""
AVOIDED = re.compile(r"\b(somebody|nobody|whoever|whom|look-ups?|of its own accord)\b", re.IGNORECASE)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_code_fits_80_columns(document: str) -> None:
    """Diagrams and directives are not shown as they are written."""
    fences = re.finditer(r"^```(?!mermaid|\{)[^\n]+\n(.*?)^```$", text(document), re.MULTILINE | re.DOTALL)
    assert [line for fence in fences for line in fence[1].splitlines() if len(line) > 80] == []


@pytest.mark.parametrize("document", sorted({*DOCUMENTS} - OF_OTHERS))
def test_sentences_name_who_acts(document: str) -> None:
    prose = re.sub(r"^```.*?^```$|`[^`\n]+`", "", text(document), flags=re.MULTILINE | re.DOTALL)
    assert sorted(set(AVOIDED.findall(prose))) == []


@pytest.mark.parametrize("document", sorted({*DOCUMENTS} - OF_OTHERS))
def test_diagrams_have_no_semicolon(document: str) -> None:
    """To Mermaid a semicolon ends a statement: the page shows a syntax error instead of the diagram."""
    diagrams = re.findall(r"^```mermaid\n(.*?)^```$", text(document), re.MULTILINE | re.DOTALL)
    assert [line for diagram in diagrams for line in diagram.splitlines() if ";" in line] == []
