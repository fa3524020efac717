"""README, CHANGELOG.md and docs/: names, links, the width of code, words to avoid, and diagrams."""

import re
from pathlib import Path

import pytest

import aiomodelcache
from tests.meta.test_architecture import ORDER, PLANS

ROOT = Path(__file__).parents[2]
PACKAGE = Path(aiomodelcache.__file__).parent
PAGES = sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md"))
DOCUMENTS = ["README.md", "CHANGELOG.md", *PAGES]
QUOTED = re.compile(r"`([^`\n]+)`")
SOURCES = "\n".join(path.read_text("utf-8") for path in PACKAGE.rglob("*.py"))


def text(document: str) -> str:
    return (ROOT / document).read_text("utf-8")


def test_the_table_of_packages_is_that_of_the_code() -> None:
    rows = re.findall(r"^\| `([\w/]+)/` \|.*\| ([^|]*) \|$", text("docs/architecture.md"), re.MULTILINE)
    plan = {package.replace("/", "."): re.sub(r"`|\.py|/", "", modules) for package, modules in rows}
    assert plan == {package: " ".join(PLANS[package]) for package in plan}
    named = QUOTED.findall(text("docs/architecture.md"))
    beside = {*ORDER, *PLANS} - {*plan, "aiomodelcache"}
    apart = {"testing", "contrib", "contrib.responses", "contrib.dashboard"}
    assert {f"{name}.py" for name in beside - apart} < set(named)


def test_the_classes_and_functions_of_the_architecture_exist() -> None:
    methods = re.findall(r"`([A-Z]\w+)\.(\w+)`", text("docs/architecture.md"))
    assert len(methods) > 10
    for owner, member in methods:
        if owner not in ("Event", "Tortoise"):
            classes = re.findall(rf"^class {owner}\b.*?(?=^\S|\Z)", SOURCES, re.MULTILINE | re.DOTALL)
            assert re.search(rf"^    (async )?def {member}\b", "".join(classes), re.MULTILINE), f"{owner}.{member}"
    placed = re.findall(r"`(?:\w+\.)?(\w+)`\s\(`([\w/]+\.py)`\)", text("docs/architecture.md"))
    assert len(placed) > 5
    for name, path in placed:
        assert re.search(rf"\b(def|class) {name}\b", (PACKAGE / path).read_text("utf-8")), f"{path} has no {name}"


def test_every_test_named_in_the_architecture_exists() -> None:
    references = re.findall(r"`(tests/[\w/]+\.py)::(?:(\w+)::)?(\w+)`", text("docs/architecture.md"))
    assert len(references) > 10
    for path, _, name in references:
        assert re.search(rf"\bdef {name}\(", text(path)), f"{path} has no {name}"


def test_every_rule_of_http_names_its_test_and_every_test_of_a_rule_is_named() -> None:
    defined = re.compile(r"^async def (test_\w+)", re.MULTILINE)
    files = ("response_rules", "responses", "response_runs")
    rules, *others = (defined.findall(text(f"tests/contrib/test_{name}.py")) for name in files)
    rows = re.findall(r"^\|[^|]*\|[^|]+\| (`test_.*) \|$", text("docs/guide/responses.md"), re.MULTILINE)
    assert len(rows) > 30
    named = {name for row in rows for name in QUOTED.findall(row)}
    assert set(rules) <= named <= set(rules).union(*others)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_to_existing_files_and_headings(document: str) -> None:
    folder = (ROOT / document).parent
    for target, heading in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", text(document)):
        assert (folder / target).exists(), f"{document} links to {target}"
        if heading:
            linked = (folder / target).read_text("utf-8") if target else text(document)
            headings = re.findall(r"^#+ (.*)$", linked, re.MULTILINE)
            assert heading in [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings]


AVOIDED = re.compile(r"\b(somebody|nobody|whoever|whom|look-ups?|of its own accord)\b", re.IGNORECASE)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_code_fits_80_columns(document: str) -> None:
    """Diagrams and directives are exempt, because pages do not show their source."""
    fences = re.finditer(r"^```(?!mermaid|\{)[^\n]+\n(.*?)^```$", text(document), re.MULTILINE | re.DOTALL)
    assert [line for fence in fences for line in fence[1].splitlines() if len(line) > 80] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_prose_has_no_words_to_avoid(document: str) -> None:
    prose = re.sub(r"^```.*?^```$|`[^`\n]+`", "", text(document), flags=re.MULTILINE | re.DOTALL)
    assert sorted(set(AVOIDED.findall(prose))) == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_diagrams_have_no_semicolon(document: str) -> None:
    """Mermaid ends a statement at a semicolon, and the page shows a syntax error instead of the diagram."""
    diagrams = re.findall(r"^```mermaid\n(.*?)^```$", text(document), re.MULTILINE | re.DOTALL)
    assert [line for diagram in diagrams for line in diagram.splitlines() if ";" in line] == []
